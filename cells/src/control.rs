//! The control socket of a running cell: how a person's command asks it something on this machine.
//!
//! A Unix socket `control.sock`, 0600 in the cell's own 0700 state directory. One connection
//! carries one request and one reply, each one line of JSON of at most 2 MiB; a request that goes on is
//! told events, each a line too, before its reply. Only the user that runs the cell, and root, get an
//! answer; nothing here is reachable from another machine.

mod client;
mod code;
mod error;
mod jobs;
mod join;
mod line;
mod lists;
mod message;
mod next;
mod observe;
mod path;
mod place;
mod policy;
mod reload;
mod reply;
mod server;
mod talk;
mod transfer;

pub use cellbus_runtime::stats::{HistogramReport, LoopReport, MessageCount, StatsReport};

pub use self::{
    client::{ControlClient, Conversation, Next},
    code::LocalCode,
    error::{ControlError, ErrorClass},
    jobs::{JobAsk, JobAttachAsk, JobLogsAsk, JobMeeting, JobRunAsk},
    join::{JoinAsk, JoinReply, JoinRow, JoinVerb},
    lists::{BanAsk, BanRow, BanVerb, ListChange, ListRow, ListsAsk, ListsReply, RevokedRow},
    message::{
        Controlled, ExplainAsk, MAX_BUDGET_MS, MAX_PINGS, Payload, PayloadError, PingAsk, Request,
        RequestAsk, VERSION,
    },
    next::{is_ruling, next_step},
    observe::{
        CounterRows, DeadCount, DeadLettersAsk, DeadLettersReply, DeadRow, HopRow, LaneBytes,
        LinkCounts, LinkRow, MAX_DEAD_LETTERS, MetricsReply, RouteRow, SelectorError, SendAsk,
        SendReply, StatsReply, TraceAsk, TraceReply, selector,
    },
    place::{
        Place, SOCKET_FILE, cell_dir, default_root, project_root, projects_under, sockets_under,
    },
    policy::{NearRow, PolicyHop, PolicyReply, RuleRow},
    reload::{ProblemRow, ReloadAsk, ReloadOutcome, ReloadReply},
    reply::{
        Accepted, CellRow, CellState, Direction, ExplainReply, LinkState, PeerRow, PingReply,
        PingRow, Reply, RequestReply, StatusReport, Verdict, WrongReply,
    },
    server::{BindError, ControlSocket},
    talk::{
        DeliveryRow, Ended, Event, MAX_SAMPLE, MAX_SERVED, Say, ServeAsk, Talk, TapAsk, TapRow,
        lane_name,
    },
    transfer::{
        GetAsk, ListAsk, MAX_AT_ONCE, MAX_PATIENCE_MS, PutAsk, ReceiveAsk, ResumeAsk, Seen,
        TransferAsk, TransferCancelled, TransferEnd, TransferEnds, TransferEvent, TransferRow,
        TransferRows, TransferState,
    },
};
