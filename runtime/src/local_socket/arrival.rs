//! Deciding who is let in.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use cellbus_channels::local::inbox::Inbox;
use cellbus_proto::{
    local::{Hello, ToCell, ToJob, encode, greet},
    name::Fqcn,
};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixStream, unix::OwnedWriteHalf},
    time::{Instant, timeout},
};

use super::{
    LaunchSecret, Options,
    process::Expected,
    refusals::{Reason, Refusals},
};

/// Time from connecting to a whole HELLO.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Time to take a REJECT from the socket.
const REJECT_MAX: Duration = Duration::from_secs(1);

/// A connection that has said HELLO.
pub(super) struct Applicant {
    who: Who,
    hello: Hello,
    socket: Socket,
}

/// A connection that has proved itself.
pub(super) struct Admitted {
    pub(super) version: u16,
    pub(super) socket: Socket,
}

/// A connection that has not.
pub(super) struct Refused {
    reason: Reason,
    write: OwnedWriteHalf,
}

pub(super) struct Socket {
    pub(super) inbox: Inbox<ToCell>,
    pub(super) write: OwnedWriteHalf,
}

/// What is decided before anything is read.
#[derive(Clone)]
pub(super) struct Rules {
    uids: Arc<[u32]>,
    process: Option<Expected>,
    refusals: Arc<Refusals>,
}

/// What is decided about the secret, for all connections of one launch.
pub(super) struct Doorkeeper {
    secret: LaunchSecret,
    /// Whether the secret was made for what is launched here.
    is_own: bool,
    is_used: bool,
    rules: Rules,
}

#[derive(Clone, Copy)]
struct Who {
    uid: u32,
    pid: Option<i32>,
}

impl Doorkeeper {
    pub(super) fn new(
        secret: LaunchSecret,
        cell: &Fqcn,
        options: &Options,
        refusals: Arc<Refusals>,
    ) -> Self {
        let is_own = secret.is_for(cell, &options.launch);
        let own = rustix::process::geteuid().as_raw();
        let uids = options.allowed_uids.iter().copied().chain([own]).collect();
        let rules = Rules { uids, process: options.expected.clone(), refusals };
        Self { secret, is_own, is_used: false, rules }
    }

    pub(super) fn rules(&self) -> Rules {
        self.rules.clone()
    }

    pub(super) fn expiry(&self) -> Instant {
        self.secret.expiry()
    }

    pub(super) fn is_expired(&self) -> bool {
        Instant::now() >= self.expiry()
    }

    /// Lets an applicant in, once. A wrong secret does not use up the right one: guessing is hopeless,
    /// and another process of this user could otherwise keep job code out.
    pub(super) fn judge(&mut self, applicant: Applicant) -> Result<Admitted, Refused> {
        let Applicant { who, hello, socket } = applicant;
        let is_known = hello.secret == *self.secret.secret();
        let reason = match hello.common_version() {
            None => Reason::Version,
            Some(_) if !is_known || !self.is_own => Reason::Secret,
            Some(_) if self.is_used => Reason::Reused,
            Some(_) if self.is_expired() => Reason::Expired,
            Some(version) => {
                self.is_used = true;
                return Ok(Admitted { version, socket });
            }
        };
        self.rules.refusals.record(reason, who.uid, who.pid);
        Err(Refused { reason, write: socket.write })
    }
}

impl Rules {
    fn check(&self, who: Who) -> Result<(), Reason> {
        if !self.uids.contains(&who.uid) {
            return Err(Reason::User);
        }
        let pid = who.pid.and_then(|pid| u32::try_from(pid).ok());
        match &self.process {
            Some(expected) if !pid.is_some_and(|pid| expected.is(pid)) => Err(Reason::Process),
            Some(_) | None => Ok(()),
        }
    }
}

impl Refused {
    /// Tells the peer as much as it may know, and closes.
    pub(super) async fn tell(mut self) {
        let mut frame = BytesMut::new();
        let reject = ToJob::Reject { status: self.reason.status() };
        encode(&reject, &mut frame).expect("a REJECT is small");
        let _: Result<io::Result<()>, _> = timeout(REJECT_MAX, self.write.write_all(&frame)).await;
    }
}

/// Hears a new connection out, or refuses it. The kernel says who it is.
pub(super) async fn arrive(stream: UnixStream, rules: Rules) -> Option<Applicant> {
    let peer = stream.peer_cred().ok()?;
    let who = Who { uid: peer.uid(), pid: peer.pid() };
    let (read, write) = stream.into_split();
    let mut inbox = Inbox::new(read);
    let heard = match rules.check(who) {
        Ok(()) => hear(&mut inbox).await,
        Err(reason) => Err(reason),
    };
    match heard {
        Ok(hello) => Some(Applicant { who, hello, socket: Socket { inbox, write } }),
        Err(reason) => {
            rules.refusals.record(reason, who.uid, who.pid);
            Refused { reason, write }.tell().await;
            None
        }
    }
}

async fn hear(inbox: &mut Inbox<ToCell>) -> Result<Hello, Reason> {
    match timeout(HELLO_MAX, inbox.next()).await {
        Err(_elapsed) => Err(Reason::Silent),
        Ok(Ok(Some(received))) => greet(received.frame).map_err(|_violation| Reason::Malformed),
        Ok(Ok(None) | Err(_)) => Err(Reason::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use cellbus_proto::local::{Decoder, Secret};
    use tokio::io::AsyncReadExt;

    use super::*;

    fn rules(uids: impl Into<Arc<[u32]>>) -> Rules {
        Rules { uids: uids.into(), process: None, refusals: Arc::default() }
    }

    #[tokio::test]
    async fn s2_09_a_user_who_is_not_allowed_is_refused_unheard() {
        let (mut job, cell) = UnixStream::pair().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let rules = rules([own + 1, own + 2]);
        let mut hello = BytesMut::new();
        let secret = Secret::take(&mut [1; 32]);
        encode(&ToCell::Hello(Hello::new(secret)), &mut hello).unwrap();
        job.write_all(&hello).await.unwrap();

        assert!(arrive(cell, rules.clone()).await.is_none());
        assert_eq!((rules.refusals.count(Reason::User), rules.refusals.total()), (1, 1));
        let mut answer = [0; 64];
        let len = job.read(&mut answer).await.unwrap();
        let frame = Decoder::<ToJob>::new().decode(&mut &answer[..len]).unwrap();
        let status = cellbus_proto::status::Status::Unauthenticated;
        assert_eq!(frame, Some(ToJob::Reject { status }));
    }

    #[tokio::test]
    async fn s2_09_a_user_who_is_allowed_is_heard() {
        let (mut job, cell) = UnixStream::pair().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let rules = rules([own + 1, own]);
        let mut hello = BytesMut::new();
        let secret = Secret::take(&mut [1; 32]);
        encode(&ToCell::Hello(Hello::new(secret.clone())), &mut hello).unwrap();
        job.write_all(&hello).await.unwrap();

        let applicant = arrive(cell, rules.clone()).await.expect("is heard");
        assert_eq!(applicant.hello.secret, secret);
        assert_eq!(rules.refusals.total(), 0);
    }
}
