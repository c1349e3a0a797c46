//! What the process that measures and the processes that are measured tell each other: one JSON object
//! per line, on their standard input and output.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::measure::Keep;

/// Who carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Cells.
    Cellbus,
    /// Plain QUIC, a stream for every request.
    RawRr,
    /// Plain QUIC, frames with numbers on one stream.
    RawRrf,
    /// Plain QUIC, a stream for every object.
    Raw,
    /// The same, and what comes is hashed on a thread beside it, as cells hash it.
    RawDigest,
    /// As `Raw`, with the settings, the sockets and the threads that the library has by itself.
    RawDefaults,
}

impl Peer {
    /// Its name in rows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cellbus => "cellbus",
            Self::RawRr => "raw-rr",
            Self::RawRrf => "raw-rrf",
            Self::Raw => "raw",
            Self::RawDigest => "raw-digest",
            Self::RawDefaults => "raw-defaults",
        }
    }
}

/// The first line that a measured process reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideSpec {
    /// Who carries the messages.
    pub peer: Peer,
    /// Text of the topology.
    pub topology: String,
    /// State of the project: credentials lie below it, so none of them is passed on.
    pub state: PathBuf,
    /// What the process is.
    pub role: Role,
}

/// What a measured process is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Cells that run in this process, the first of which drives the load.
    Cells {
        /// Base names.
        names: Vec<String>,
    },
    /// Listens, answers requests and counts messages.
    Answers {
        /// Base name of the cell whose certificate it holds.
        name: String,
    },
    /// Listens, and passes on to its parent.
    Relays {
        /// Base name of the cell whose certificate it holds.
        name: String,
        /// Where the parent listens.
        parent: SocketAddr,
    },
    /// Listens, and passes what its parent opens on to those that dialled it, one after the other.
    HandsOut {
        /// Base name of the cell whose certificate it holds.
        name: String,
        /// Where the parent listens.
        parent: SocketAddr,
    },
    /// Listens, and passes on to whoever came first.
    Turns {
        /// Base name of the cell whose certificate it holds.
        name: String,
    },
    /// Dials; drives the load, or answers requests and counts messages.
    Dials {
        /// Base names of the cells whose certificates it holds, with a connection for each.
        names: Vec<String>,
        /// Where the parent listens.
        parent: SocketAddr,
    },
    /// A cell to which job code may attach; over plain QUIC, what passes its frames on.
    JobCell {
        /// Base name.
        name: String,
        /// Where the parent listens; cells know that themselves.
        parent: Option<SocketAddr>,
    },
    /// Job code: attaches to the cell that waits for it, and drives the load.
    JobCode,
    /// Cells that are started one by one when it is asked to, or connections that are dialled so.
    Later {
        /// Base names of the cells whose certificates it holds.
        names: Vec<String>,
        /// Where the parent listens; cells know that themselves.
        parent: Option<SocketAddr>,
    },
}

/// What a measured process is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Callers in a closed loop. Answered by [`Tell::Begun`], then [`Tell::Driven`].
    Drive {
        /// Full names of whom the requests are for.
        to: Vec<String>,
        /// Whether every request goes to all of them and is done when the last one has acknowledged it;
        /// else all requests go to the first one and are echoed.
        fan: bool,
        /// Bytes of payload.
        size: u32,
        /// Callers.
        callers: u32,
        /// Time before anything is counted.
        warm_ms: u64,
        /// Time during which replies are counted.
        window_ms: u64,
    },
    /// Messages without replies, for a time. Answered by [`Tell::Sent`].
    Send {
        /// Full name of whom they are for.
        to: String,
        /// Bytes of payload.
        size: u32,
        /// The time.
        window_ms: u64,
    },
    /// Waits until so many messages have come, or no more do. Answered by [`Tell::Received`], after which
    /// counting begins anew.
    Settle {
        /// How many were sent.
        sent: u64,
    },
    /// Requests whose replies are held back until [`Self::Release`]. Answered by [`Tell::Driven`] when all have ended.
    Wait {
        /// Full name of whom they are for.
        to: String,
        /// Bytes of payload.
        size: u32,
        /// How many.
        count: u32,
    },
    /// Waits until replies to so many requests are held back. Answered by [`Tell::Begun`].
    Holding {
        /// How many.
        count: u32,
    },
    /// Lets all replies go that are held back. Answered by [`Tell::Begun`].
    Release,
    /// One request. Answered by [`Tell::Driven`] without any figure.
    Once {
        /// Full name of whom it is for.
        to: String,
        /// Bytes of payload.
        size: u32,
    },
    /// Connects whatever waits for it, one after the other. Answered by [`Tell::Driven`].
    Connect,
    /// Has to do with objects.
    Object(ObjectAsk),
}

/// What a measured process is asked about objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectAsk {
    /// Holds an object of random bytes. Answered by [`Tell::Held`].
    Hold {
        /// Bytes.
        size: u64,
        /// Whether it is a file.
        file: bool,
        /// Full names of who will pull it; of nobody, if it is sent.
        to: Vec<String>,
    },
    /// Takes what is sent, and drops it. Answered by [`Tell::Held`].
    Receive,
    /// Pulls an object again and again. Answered by [`Tell::Begun`] after the first time, then [`Tell::Driven`].
    Pull {
        /// What it is referred to by, where that is needed.
        reference: Option<String>,
        /// Bytes.
        size: u64,
        /// What becomes of it.
        keep: Keep,
        /// Time after which no other one is begun.
        window_ms: u64,
    },
    /// Sends what is held to many, again and again. Answered as [`Self::Pull`].
    Spread {
        /// Full names of the receivers.
        to: Vec<String>,
        /// Time after which no other one is begun.
        window_ms: u64,
    },
    /// Says what was sent so far. Answered by [`Tell::Account`].
    Account,
}

/// What a measured process says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tell {
    /// It is ready.
    Ready {
        /// Where it listens.
        address: Option<SocketAddr>,
    },
    /// From now on, replies are counted; or what was waited for has come about.
    Begun,
    /// What callers found.
    Driven(Driven),
    /// How many messages were taken over from the sender.
    Sent {
        /// Messages.
        sent: u64,
        /// How often the sender was told to try again.
        refused: u64,
    },
    /// How many messages have come.
    Received {
        /// Messages.
        received: u64,
        /// From the first to the last, in nanoseconds.
        span_ns: u64,
    },
    /// An object is held, or is taken.
    Held {
        /// What it is referred to by, where that is needed.
        reference: Option<String>,
    },
    /// What was sent so far.
    Account {
        /// Bytes of datagrams.
        wire: u64,
        /// Bytes of objects.
        written: u64,
    },
    /// It cannot do what it was asked.
    Failed {
        /// Why.
        why: String,
    },
}

impl Tell {
    /// Where a process that is ready listens.
    #[must_use]
    pub fn ready(&self) -> Option<Option<SocketAddr>> {
        if let Self::Ready { address } = self { Some(*address) } else { None }
    }

    /// Whether counting begins.
    #[must_use]
    pub fn begun(&self) -> Option<()> {
        matches!(self, Self::Begun).then_some(())
    }

    /// What callers found.
    #[must_use]
    pub fn driven(&self) -> Option<Driven> {
        if let Self::Driven(driven) = self { Some(driven.clone()) } else { None }
    }

    /// What an object that is held is referred to by.
    #[must_use]
    pub fn held(&self) -> Option<Option<String>> {
        if let Self::Held { reference } = self { Some(reference.clone()) } else { None }
    }

    /// What was sent so far: bytes of datagrams and of objects.
    #[must_use]
    pub fn account(&self) -> Option<(u64, u64)> {
        if let Self::Account { wire, written } = self { Some((*wire, *written)) } else { None }
    }

    /// How many messages were sent, and how often one was to be tried again.
    #[must_use]
    pub fn sent(&self) -> Option<(u64, u64)> {
        if let Self::Sent { sent, refused } = self { Some((*sent, *refused)) } else { None }
    }

    /// How many messages came, and in what time.
    #[must_use]
    pub fn received(&self) -> Option<(u64, Duration)> {
        if let Self::Received { received, span_ns } = self {
            Some((*received, Duration::from_nanos(*span_ns)))
        } else {
            None
        }
    }
}

/// What callers in a closed loop found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Driven {
    /// Replies within the window.
    pub done: u64,
    /// Requests that failed, in all.
    pub failed: u64,
    /// How the first of them failed.
    pub why: Option<String>,
    /// Length of the window, in nanoseconds.
    pub window_ns: u64,
    /// Half of the replies took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 % of the replies took no longer, in microseconds.
    pub p99_us: f64,
    /// 99.9 % of the replies took no longer, in microseconds.
    pub p999_us: f64,
}
