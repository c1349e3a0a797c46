//! A relay with a good certificate, a child that trusts it, and everything that passes between the child and
//! the server: it can drop and delay that. It can neither read it, nor change it, nor send it again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cellbus_attacks::{
    Outcome, RawPeer, Target, attack,
    papers::now_unix,
    rogue_parent::{Caught, RogueParent},
};
use cellbus_cells::node::NodeCell;
use cellbus_channels::{RequestBuilder, from_fn};
use cellbus_proto::{
    codec::body::{self, Blob, Certificate, JobStart},
    envelope::{Address, Envelope, Flags, Incarnation, Kind, Lane},
    status::Status,
    well_known::{CERTIFICATE, JOB_START, JOB_STOP, QUIT},
};

use cellbus_runtime::clock::WallClock;

use super::parents::{believed, name, rogue, until_refused};

const LEAF: &str = "relay-x.site-9";
const SECRET: &str = "what the relay would like to read";

/// The relay: a raw peer towards the server, a rogue parent towards the leaf.
struct Relay {
    up: RawPeer,
    down: Caught,
    leaf: NodeCell,
    _port: RogueParent,
}

async fn relay(target: &Target) -> Relay {
    let mut up = RawPeer::registered(target, "server", "relay-x").await;
    let (port, leaf) = rogue(target, &target.papers("relay-x")).await;
    let mut down = believed(target, &mut up, &port, &leaf).await;
    down.read_lanes();
    Relay { up, down, leaf, _port: port }
}

impl Relay {
    /// The next request of the server to the leaf.
    async fn taken_down(&mut self) -> Envelope {
        self.up.request_in().await
    }

    /// Hands a message on to the leaf.
    async fn hand_down(&mut self, message: &Envelope) {
        self.down.send_message(message.clone()).await;
    }

    /// The leaf's answer to the server's request.
    async fn taken_up(&mut self, to: u64) -> Envelope {
        self.down
            .expect_message(|message| {
                matches!(message.header.kind, Kind::Reply { to: t } | Kind::Return { to: t, .. } if t == to)
            })
            .await
    }

    /// Carries one request of the server to the leaf, and its answer back, as an honest relay does.
    async fn carry(&mut self) {
        let request = self.taken_down().await;
        self.hand_down(&request).await;
        let answer = self.taken_up(request.header.sequence).await;
        self.up.send(answer).await;
    }

    async fn refused(&self, target: &Target, status: Status, count: u64) {
        until_refused(target, self.leaf.running(), status, count).await;
    }
}

fn changed(message: &Envelope, change: impl FnOnce(&mut Envelope)) -> Envelope {
    let mut changed = message.clone();
    change(&mut changed);
    changed
}

/// Counts the jobs that the leaf starts and stops.
fn count_jobs(leaf: &NodeCell) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    for topic in [JOB_START, JOB_STOP] {
        let count = Arc::clone(&count);
        let handler = from_fn(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async { Ok(cellbus_channels::Reply::default()) }
        });
        // Where the leaf serves jobs itself, these handlers are not needed.
        leaf.running().handle_system(topic, handler).expect("the leaf serves no jobs here");
    }
    count
}

fn ask_server(target: &Target, topic: &str, payload: impl Into<Bytes>) -> RequestBuilder {
    let bus = target.cell("server").bus();
    bus.request(name(LEAF), topic.parse().expect("a topic"))
        .payload(payload)
        .budget(Duration::from_secs(200))
}

fn start_job(target: &Target) -> RequestBuilder {
    let start = JobStart {
        job: "job-1".parse().expect("a name"),
        program: "train".parse().expect("a name"),
        parameters: Blob(Vec::new()),
    };
    let bus = target.cell("server").bus();
    bus.request(name(LEAF), JOB_START.into())
        .payload(body::encode(&start))
        .budget(Duration::from_secs(200))
}

#[test]
fn atk_073_a_relay_cannot_start_a_job_in_the_servers_name() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        guard.expect("DUPLICATE");
        let mut relay = relay(target).await;
        let started = count_jobs(&relay.leaf);
        let asked = tokio::spawn(start_job(target).send());
        let honest = relay.taken_down().await;
        let proof_of = |message: &Envelope| message.header.extras.clone();
        let other = body::encode(&JobStart {
            job: "job-2".parse().expect("a name"),
            program: "other".parse().expect("a name"),
            parameters: Blob(b"of the relay".to_vec()),
        });
        let forged = [
            changed(&honest, |m| m.payload = other.clone()),
            changed(&honest, |m| m.header.target = JOB_STOP.into()),
            changed(&honest, |m| m.header.sequence += 1),
            changed(&honest, |m| m.header.kind = Kind::Publish),
            changed(&honest, |m| m.header.flags = Flags::RETRY),
            changed(&honest, |m| {
                let incarnation = Incarnation { counter: 99, nonce: 9 };
                m.header.origin = Address::exact(name("server"), incarnation);
            }),
            // Without proof, and with one that is later than it was.
            changed(&honest, |m| m.header.extras = None),
            changed(&honest, |m| {
                let mut extras = proof_of(&honest).expect("it is signed");
                extras.proof.as_mut().expect("it is signed").unix_ms += 1;
                m.header.extras = Some(extras);
            }),
        ];
        let count = u64::try_from(forged.len()).expect("few");
        for message in &forged {
            relay.hand_down(message).await;
        }
        relay.refused(target, Status::BadSignature, count).await;
        assert_eq!(started.load(Ordering::Relaxed), 0, "a forged order was obeyed");
        relay.hand_down(&honest).await;
        let answer = relay
            .down
            .expect_message(
                |m| matches!(m.header.kind, Kind::Reply { to } if to == honest.header.sequence),
            )
            .await;
        assert_eq!(started.load(Ordering::Relaxed), 1);
        relay.hand_down(&honest).await;
        relay.refused(target, Status::Duplicate, 1).await;
        assert_eq!(started.load(Ordering::Relaxed), 1, "it was obeyed twice");
        relay.up.send(answer).await;
        assert!(asked.await.expect("it does not panic").is_ok());
    });
}

#[test]
fn p_24_what_was_signed_minutes_ago_or_by_a_wrong_clock_is_refused_as_that() {
    attack(async |target, guard| {
        guard.expect("CLOCK_SKEW");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        for unix in [now_unix() - 150, now_unix() + 60] {
            x.wall = WallClock::starting_at(unix);
            let mut quit = x.request("server", "task/fetch");
            (quit.header.target, quit.header.lane) = (QUIT.into(), Lane::Control);
            quit.payload = Bytes::new();
            assert_eq!(x.ask(quit).await, Outcome::returned(Status::ClockSkew, "server"));
        }
        target.assert_refused(&before, &[("server", Status::ClockSkew, 2)]).await;
        assert!(target.holds("server", "x").await.1);
    });
}

#[test]
fn atk_072_a_relay_cannot_have_its_child_leave() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let mut relay = relay(target).await;
        let before = target.look().await;
        let mut quit = relay.up.request("server", "task/fetch");
        quit.header.origin = relay.up.address_of(LEAF);
        quit.header.token = relay.leaf.running().own().token();
        (quit.header.target, quit.header.lane) = (QUIT.into(), Lane::Control);
        quit.payload = Bytes::new();
        let outcome = relay.up.ask(quit).await;
        assert_eq!(outcome, Outcome::returned(Status::BadSignature, "server"));
        target.assert_refused(&before, &[("server", Status::BadSignature, 1)]).await;
        assert!(target.holds("server", LEAF).await.1);
    });
}

#[test]
fn p_28_a_relay_that_gives_its_own_certificate_for_its_childs_is_not_believed() {
    attack(async |target, guard| {
        guard.expect("what was given as a cell's certificate is not");
        let mut relay = relay(target).await;
        let own = relay.up.token.clone().expect("it is registered");
        let leafs = relay.leaf.running().own().token().expect("it is registered");
        let chain: Vec<Blob> = relay.up.papers.chain.iter().map(|der| Blob(der.to_vec())).collect();
        for (token, status) in [(own, Status::CertName), (leafs, Status::BadSignature)] {
            let asked = ask_server(target, "task/fetch", SECRET).sealed();
            let asked = tokio::spawn(asked.send());
            let question = relay.taken_down().await;
            assert!(CERTIFICATE.matches(&question.header.target), "{question:?}");
            let lie = Certificate { chain: chain.clone(), token: Blob(token.as_bytes().to_vec()) };
            let kind = Kind::Reply { to: question.header.sequence };
            let me = relay.up.address_of(LEAF);
            let sequence = relay.up.next_sequence();
            let token = relay.leaf.running().own().token();
            let common = || Arc::new(question.header.common.answer(&me, token));
            let header = question.header.answer(kind, sequence, common).expect("a request");
            relay.up.send(Envelope { header, payload: body::encode(&lie) }).await;
            let error = asked.await.expect("it does not panic").unwrap_err();
            assert_eq!((error.status(), error.by()), (status, Some(&name("server"))));
        }
        // Nothing was sealed to the relay, and nothing sent.
        relay.up.settle(Lane::Interactive).await;
        assert_eq!(relay.up.unasked_messages(), []);
    });
}

#[test]
fn p_28_a_relay_neither_reads_nor_changes_nor_repeats_what_is_sealed() {
    attack(async |target, guard| {
        guard.expect("SEAL_BROKEN");
        guard.expect("DUPLICATE");
        guard.expect("NOT_SEALED");
        let mut relay = relay(target).await;
        let asked = tokio::spawn(ask_server(target, "task/fetch", SECRET).sealed().send());
        relay.carry().await;
        let honest = relay.taken_down().await;
        assert!(honest.header.flags.contains(Flags::SEALED));
        let unmarked = Flags::default();
        let at = honest.payload.len() / 2;
        let forged = [
            changed(&honest, |m| m.header.flags = unmarked),
            changed(&honest, |m| m.header.flags = m.header.flags.with(Flags::RETRY)),
            changed(&honest, |m| m.header.target = "task/slow".parse().expect("a topic")),
            changed(&honest, |m| m.header.sequence += 1),
            changed(&honest, |m| m.header.kind = Kind::Publish),
            changed(&honest, |m| {
                let mut payload = m.payload.to_vec();
                payload[at] ^= 1;
                m.payload = payload.into();
            }),
            changed(&honest, |m| m.payload = m.payload.slice(..at)),
        ];
        for message in &forged {
            relay.hand_down(message).await;
        }
        let count = u64::try_from(forged.len()).expect("few");
        relay.refused(target, Status::SealBroken, count).await;
        assert_eq!(target.calls(), [], "a forged message was executed");
        relay.hand_down(&honest).await;
        let sequence = honest.header.sequence;
        let answer = relay
            .down
            .expect_message(|m| matches!(m.header.kind, Kind::Reply { to } if to == sequence))
            .await;
        let executed: Vec<Bytes> =
            target.calls().into_iter().map(|call| call.delivery.payload).collect();
        assert_eq!(executed, [SECRET.as_bytes()]);
        relay.hand_down(&honest).await;
        relay.refused(target, Status::Duplicate, 1).await;
        assert_eq!(target.calls().len(), 1, "it was executed twice");
        // The way back: an answer that the relay has made, in clear or changed, is none.
        assert!(answer.header.flags.contains(Flags::SEALED));
        let before = target.look().await;
        let clear = changed(&answer, |m| {
            (m.header.flags, m.payload) = (Flags::default(), Bytes::from_static(b"forged"));
        });
        let unmarked = changed(&answer, |m| m.header.flags = Flags::default());
        for forged in [clear, unmarked] {
            relay.up.send(forged).await;
        }
        for message in [&honest, &answer] {
            assert!(!contains(&message.payload, SECRET.as_bytes()), "the relay can read it");
        }
        target
            .until("the server refuses both", async || {
                target.refused_since(&before, "server", Status::NotSealed).await
                    + target.refused_since(&before, "server", Status::SealBroken).await
                    == 2
            })
            .await;
        relay.up.send(answer).await;
        let reply = asked.await.expect("it does not panic").expect("the honest answer counts");
        assert_eq!(reply.payload, SECRET);
    });
}

#[test]
fn p_28_what_is_sealed_to_one_site_is_not_opened_by_another() {
    attack(async |target, guard| {
        guard.expect("SEAL_KEY");
        let mut relay = relay(target).await;
        let bus = relay.leaf.running().bus();
        let asked = bus
            .request(name("site-2"), "share/read".parse().expect("a topic"))
            .payload(SECRET)
            .budget(Duration::from_secs(60))
            .sealed();
        let asked = tokio::spawn(asked.send());
        let is_to_site = |m: &Envelope| m.header.destination.name == name("site-2");
        let question = relay.down.expect_message(is_to_site).await;
        let to = relay.up.send(question).await;
        let answer = relay
            .up
            .expect_frame(|frame| {
                let cellbus_proto::codec::Frame::Message(m) = frame else { return None };
                matches!(m.header.kind, Kind::Reply { to: t } if t == to).then(|| m.clone())
            })
            .await;
        relay.hand_down(&answer).await;
        let sealed = relay.down.expect_message(is_to_site).await;
        assert!(sealed.header.flags.contains(Flags::SEALED));
        assert!(!contains(&sealed.payload, SECRET.as_bytes()));
        let before = target.look().await;
        let reflected = changed(&sealed, |m| {
            m.header.destination = Address::any(target.full_name("site-1"));
        });
        let outcome = relay.up.ask(reflected).await;
        assert_eq!(outcome, Outcome::returned(Status::SealKey, "relay.site-1"));
        target.assert_refused(&before, &[("site-1", Status::SealKey, 1)]).await;
        assert_eq!(target.calls(), []);
        asked.abort();
    });
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(8).any(|at| part.windows(8).any(|p| p == at))
}
