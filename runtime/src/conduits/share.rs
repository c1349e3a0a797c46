//! Bytes that cross a relay once for several receivers: what the table of `proto::transfer` decides, done
//! with files.
//!
//! A leader's bytes go to a spool, and every receiver, the leader among them, is read from there at its own
//! pace. What the receivers write, and what the holder says to each of them, passes as it is.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cellbus_proto::{
    codec::body,
    envelope::{Common, Envelope},
    transfer::{
        Answer, Fetch, Followed, Role, Share, ShareKey, ShareSettings, SpoolId, Spooled, TransferId,
    },
};
use tokio::sync::Notify;

use crate::clock;

mod fill;
mod read;
mod spool;

use self::spool::Spool;
pub(super) use self::{
    fill::{Filling, lead},
    read::follow,
};

/// What one cell shares.
#[derive(Debug)]
pub(crate) struct Shares {
    state: Mutex<State>,
    /// Told at every change of the table.
    changed: Notify,
    /// Wakes whoever waits to drop spools.
    to_sweep: Notify,
}

#[derive(Debug)]
struct State {
    table: Share,
    spools: BTreeMap<SpoolId, Arc<Spool>>,
    directory: Option<PathBuf>,
    /// A spool could not be written: nothing is shared for a while.
    off: Option<Off>,
    /// Whether somebody looks for what is kept no longer.
    is_swept: bool,
}

/// How long nothing is shared.
#[derive(Clone, Copy, Debug)]
struct Off {
    until: Instant,
    pause: Duration,
}

impl Off {
    /// A disk that is full may have room again soon; one that is broken must not cost every transfer an attempt.
    const PAUSE_MIN: Duration = Duration::from_secs(30);
    const PAUSE_MAX: Duration = Duration::from_secs(600);

    /// From a failure now on; longer each time, where things went well for no longer than the pause before.
    fn after(earlier: Option<Self>, now: Instant) -> Self {
        let pause = match earlier {
            Some(earlier) if now < earlier.until => return earlier,
            Some(Self { until, pause }) if now < until + pause => (2 * pause).min(Self::PAUSE_MAX),
            Some(_) | None => Self::PAUSE_MIN,
        };
        Self { until: now + pause, pause }
    }
}

/// One conduit that leads or follows. It has left when this is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    shares: Arc<Shares>,
    key: ShareKey,
    reader: u64,
    leads: bool,
    is_answered: bool,
    has_left: bool,
}

/// How a conduit goes on behind its answer.
pub(super) enum Way {
    /// Its bytes are its own.
    Plain,
    /// They fill a spool, which it is read from.
    Lead(Reading, Filling),
    /// They come from a spool.
    Follow(Reading, Arc<Spool>, Spooled),
    /// They cannot come.
    Cut,
}

impl Default for Shares {
    fn default() -> Self {
        let state = State {
            table: Share::new(ShareSettings::default()),
            spools: BTreeMap::new(),
            directory: None,
            off: None,
            is_swept: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), to_sweep: Notify::new() }
    }
}

impl Shares {
    /// Begins anew, with these figures. Spools are files without a name in `directory`, or where the system
    /// keeps temporary files.
    pub(crate) fn start(&self, settings: ShareSettings, directory: Option<PathBuf>) {
        let mut state = self.lock();
        state.table = Share::new(settings);
        state.spools.clear();
        (state.directory, state.off) = (directory, None);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Bytes that spools may take, all together.
    pub(crate) fn used(&self) -> u64 {
        self.lock().table.used()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `done` gives something, which is asked at every change.
    async fn until<T>(&self, mut done: impl FnMut(&mut Share) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(value) = done(&mut self.lock().table) {
                return value;
            }
            changed.await;
        }
    }

    /// A spool cannot be written or read: nothing is shared for a while.
    fn give_up(&self, key: &ShareKey, error: &std::io::Error) {
        let mut state = self.lock();
        state.table.handle_disk_failed(key);
        state.drop_over();
        let off = Off::after(state.off, clock::now());
        state.off = Some(off);
        drop(state);
        self.tell();
        tracing::warn!(
            %error, pause_s = off.pause.as_secs(),
            "the spool of a transfer failed; nothing is shared for a while"
        );
    }

    /// Drops what is over, and goes on looking for as long as something is kept that nobody reads.
    fn sweep(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.table.deadline().is_none() {
            return;
        }
        // What is kept for less may have come since.
        self.to_sweep.notify_one();
        if std::mem::replace(&mut state.is_swept, true) {
            return;
        }
        drop(state);
        let shares = Arc::clone(self);
        actix::spawn(async move {
            loop {
                let deadline = shares.lock().sweep();
                let Some(deadline) = deadline else { break };
                tokio::select! {
                    () = tokio::time::sleep_until(deadline.into()) => {}
                    () = shares.to_sweep.notified() => {}
                }
            }
        });
    }
}

/// Decides how a conduit is opened towards its holder, and changes what it asks of the next hop. Waits where
/// somebody else has just asked for the same.
pub(super) async fn open(
    shares: &Arc<Shares>,
    request: &Envelope,
    conduit: &mut body::Conduit,
    reader: u64,
) -> Option<Reading> {
    let id = conduit.share.filter(|_| conduit.data)?;
    let fetch = Fetch::decode(&request.payload).ok()?;
    let Common { destination, target, .. } = &*request.header.common;
    let mut key = ShareKey {
        destination: destination.name.clone(),
        target: target.clone(),
        id: TransferId::from_bytes(id.0),
        generation: fetch.generation,
    };
    if shares.lock().off.is_some_and(|off| clock::now() < off.until) {
        return None;
    }
    let role = shares.until(|table| match table.handle_open(&mut key, reader, &fetch) {
        Role::Wait => None,
        role @ (Role::Plain | Role::Lead | Role::Follow) => Some(role),
    });
    let role = role.await;
    if role == Role::Plain {
        return None;
    }
    conduit.data = role == Role::Lead;
    let shares = Arc::clone(shares);
    let leads = conduit.data;
    Some(Reading { shares, key, reader, leads, is_answered: false, has_left: false })
}

impl Reading {
    /// The holder has let the conduit in.
    pub(super) fn answered(mut self, answer: &Envelope) -> Way {
        let Ok(answer) = Answer::decode(&answer.payload) else {
            // No transfer after all: whoever leads has its bytes, whoever follows has none.
            return if self.leads { Way::Plain } else { Way::Cut };
        };
        let mut state = self.shares.lock();
        let followed = state.table.handle_answer(clock::now(), &self.key, self.reader, &answer);
        // What the table made room with.
        state.drop_over();
        let way = match followed {
            Followed::Plain => {
                self.has_left = true;
                Ok(None)
            }
            Followed::Cut => Err(()),
            Followed::Fill(at) => match state.spool(at.spool) {
                Ok(spool) => Ok(Some((true, spool, at))),
                Err(error) => {
                    drop(state);
                    self.shares.give_up(&self.key, &error);
                    // Its bytes have begun to come, and nobody else reads them yet.
                    return Way::Plain;
                }
            },
            Followed::Serve(at) => match state.spools.get(&at.spool) {
                Some(spool) => Ok(Some((false, Arc::clone(spool), at))),
                None => Err(()),
            },
        };
        drop(state);
        self.is_answered = true;
        self.shares.tell();
        self.shares.sweep();
        match way {
            Ok(None) => Way::Plain,
            Ok(Some((true, spool, at))) => {
                let filling = Filling::new(&self, spool, at);
                Way::Lead(self, filling)
            }
            Ok(Some((false, spool, at))) => Way::Follow(self, spool, at),
            Err(()) => Way::Cut,
        }
    }

    /// The conduit has ended. Says whether nobody reads any longer what still comes.
    fn leave(&mut self) -> bool {
        if std::mem::replace(&mut self.has_left, true) {
            return false;
        }
        let mut state = self.shares.lock();
        let is_last = if self.is_answered {
            state.table.handle_left(clock::now(), &self.key, self.reader)
        } else {
            state.table.handle_refused(clock::now(), &self.key, self.reader);
            true
        };
        state.drop_over();
        drop(state);
        self.shares.tell();
        self.shares.sweep();
        is_last
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.leave();
    }
}

impl State {
    /// Lets go of what is kept no longer, and says when to do so again.
    fn sweep(&mut self) -> Option<Instant> {
        self.drop_over();
        let deadline = self.table.deadline();
        self.is_swept = deadline.is_some();
        deadline
    }

    /// Lets go of what is kept no longer.
    fn drop_over(&mut self) {
        for over in self.table.expire(clock::now()) {
            self.spools.remove(&over);
        }
    }

    /// The file of a spool, made where it is new.
    fn spool(&mut self, id: SpoolId) -> std::io::Result<Arc<Spool>> {
        if let Some(spool) = self.spools.get(&id) {
            return Ok(Arc::clone(spool));
        }
        let spool = Arc::new(Spool::create(self.directory.as_deref())?);
        self.spools.insert(id, Arc::clone(&spool));
        Ok(spool)
    }
}

#[cfg(test)]
mod tests {
    use cellbus_proto::{codec::Octets, transfer::Next};

    use super::*;

    fn fetch() -> Fetch {
        let id = TransferId::from_bytes([1; 16]);
        Fetch { id, generation: 1, offset: 0, nonce: Octets([1; 16]), have: false, digest: None }
    }

    #[test]
    fn what_reads_a_spool_hears_that_whoever_was_to_fill_it_never_began() {
        let shares = Arc::new(Shares::default());
        let mut key = ShareKey {
            destination: "server".parse().unwrap(),
            target: "model/weights".parse().unwrap(),
            id: fetch().id,
            generation: 1,
        };
        let answer = |data| {
            let Fetch { id, generation, offset, digest, .. } = fetch();
            Answer { id, generation, size: Some(9), size_max: 9, offset, data, digest }
        };
        let at = {
            let table = &mut shares.lock().table;
            assert_eq!(table.handle_open(&mut key, 1, &fetch()), Role::Lead);
            let filled = table.handle_answer(clock::now(), &key, 1, &answer(true));
            let Followed::Fill(at) = filled else { panic!("{filled:?}") };
            assert_eq!(table.handle_open(&mut key, 2, &fetch()), Role::Follow);
            table.handle_answer(clock::now(), &key, 2, &answer(false));
            assert_eq!(table.next(&key, 2), Next::Wait);
            at
        };
        let reading = Reading {
            shares: Arc::clone(&shares),
            key: key.clone(),
            reader: 1,
            leads: true,
            is_answered: true,
            has_left: false,
        };
        let spool = Arc::new(Spool::create(None).unwrap());
        drop(Filling::new(&reading, spool, at));
        assert_eq!(shares.lock().table.next(&key, 2), Next::Cut);
        // There is no actor system that could sweep.
        std::mem::forget(reading);
    }

    /// A spool of the transfer `number`, which its leader has left; with all of it or with nothing.
    fn leave_spool(shares: &Arc<Shares>, number: u8, is_whole: bool) {
        let id = TransferId::from_bytes([number; 16]);
        let (destination, target) = ("server".parse().unwrap(), "model/weights".parse().unwrap());
        let mut key = ShareKey { destination, target, id, generation: 1 };
        let (fetch, size) = (Fetch { id, ..fetch() }, Some(9));
        let answer = Answer {
            id,
            generation: 1,
            size,
            size_max: 9,
            offset: 0,
            data: true,
            digest: fetch.digest,
        };
        let mut state = shares.lock();
        let reader = u64::from(number);
        assert_eq!(state.table.handle_open(&mut key, reader, &fetch), Role::Lead);
        let filled = state.table.handle_answer(clock::now(), &key, reader, &answer);
        let Followed::Fill(at) = filled else { panic!("{filled:?}") };
        state.spool(at.spool).unwrap();
        if is_whole {
            assert!(state.table.handle_filling(&key, reader, 9));
            state.table.handle_spooled(&key, reader, 9);
            let digest = cellbus_proto::transfer::Digest::of(b"nine byte");
            let trailer = cellbus_proto::transfer::Trailer { size: 9, digest, generation: 1 };
            state.table.handle_trailer(&key, reader, trailer);
        }
        drop(state);
        let leads = true;
        let shares = Arc::clone(shares);
        drop(Reading { shares, key, reader, leads, is_answered: true, has_left: false });
    }

    #[test]
    fn a_part_goes_after_a_minute_also_where_somebody_waits_for_the_hour_of_a_whole_one() {
        actix::System::new().block_on(async {
            tokio::time::pause();
            let shares = Arc::new(Shares::default());
            leave_spool(&shares, 1, true);
            tokio::time::sleep(Duration::from_secs(10)).await;
            leave_spool(&shares, 2, false);
            tokio::time::sleep(Duration::from_secs(59)).await;
            assert_eq!(shares.lock().spools.len(), 2);
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(shares.lock().spools.len(), 1);
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert!(shares.lock().spools.is_empty() && !shares.lock().is_swept);
            leave_spool(&shares, 3, false);
            tokio::time::sleep(Duration::from_secs(61)).await;
            assert!(shares.lock().spools.is_empty());
        });
    }

    #[test]
    fn a_disk_that_fails_again_is_left_alone_for_longer_and_one_that_went_well_is_not() {
        let begun = clock::now();
        let at = |s: u64| begun + Duration::from_secs(s);
        let first = Off::after(None, begun);
        assert_eq!(first.until, at(30));
        assert_eq!(Off::after(Some(first), at(10)).until, at(30), "one failure, seen twice");
        let second = Off::after(Some(first), at(31));
        assert_eq!(second.until, at(91));
        let third = Off::after(Some(second), at(92));
        assert_eq!(third.pause, Duration::from_secs(120));
        assert_eq!(Off::after(Some(third), at(92 + 120 + 121)).pause, Off::PAUSE_MIN);
        let mut last = third;
        for _ in 0..9 {
            last = Off::after(Some(last), last.until);
        }
        assert_eq!(last.pause, Off::PAUSE_MAX);
    }
}
