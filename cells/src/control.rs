//! The control socket of a running cell: how a person's command asks it something on this machine.
//!
//! A Unix socket `control.sock`, 0600 in the cell's own 0700 state directory. One connection
//! carries one request and one reply, each one line of JSON of at most 2 MiB. Only the user that
//! runs the cell, and root, get an answer; nothing here is reachable from another machine.

mod client;
mod code;
mod error;
mod line;
mod message;
mod path;
mod place;
mod reply;
mod server;

pub use self::{
    client::ControlClient,
    code::LocalCode,
    error::{ControlError, ErrorClass},
    message::{
        Controlled, ExplainAsk, MAX_BUDGET_MS, MAX_PINGS, Payload, PayloadError, PingAsk, Request,
        RequestAsk, VERSION,
    },
    place::{
        Place, SOCKET_FILE, cell_dir, default_root, project_root, projects_under, sockets_under,
    },
    reply::{
        Accepted, CellRow, CellState, Direction, ExplainReply, LinkState, PeerRow, PingReply,
        PingRow, Reply, RequestReply, StatusReport, Verdict, WrongReply,
    },
    server::{BindError, ControlSocket},
};
