use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cellbus_proto::{
    codec::{Octets, body::Blob},
    identity::Identity,
    joining::{Answer, CONNECTIONS_PER_ADDRESS, Knock, Refusal, SERVER_NAME},
};
use tokio::{net::UdpSocket, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    authority::{Authority, Credentials, self_sign},
    carrier::Task,
    certificate::CertDates,
    clock::WallClock,
    tls::{self, Roots},
};

const NOW: u64 = 1_800_000_000;
const LIMIT: Duration = Duration::from_secs(30);

fn wall() -> WallClock {
    WallClock::starting_at(NOW)
}

/// Keeps what is asked, and says that it waits, or gives what it was given.
#[derive(Default)]
struct Notes {
    asked: Mutex<Vec<Asked>>,
    proved: AtomicUsize,
    reply: Mutex<Option<Vec<u8>>>,
}

#[derive(Clone, Default)]
struct Desk(Arc<Notes>);

impl JoinDesk for Desk {
    fn answer(&self, asked: Asked) -> Task<Answer> {
        if asked.is_proved() {
            self.0.proved.fetch_add(1, Ordering::SeqCst);
        }
        self.0.asked.lock().unwrap().push(asked);
        let reply = self.0.reply.lock().unwrap().clone();
        let answer =
            reply.map_or(Answer::Waiting { after_s: 2 }, |reply| Answer::Granted { reply });
        Box::pin(async move { answer })
    }
}

struct Place {
    desk: Desk,
    at: SocketAddr,
    root: [u8; 32],
    serving: JoinHandle<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn authority() -> Authority {
    Authority::create_for_project("study".parse().unwrap(), NOW, Duration::from_secs(9000)).unwrap()
}

impl Place {
    fn open() -> Self {
        let (authority, former) = (authority(), authority());
        let identity = Identity::from_uri("cell://study/server/server?org=hq").unwrap();
        let dates = CertDates::lasting(NOW, Duration::from_secs(5000));
        let issued = authority.issue(&identity, &[], dates).unwrap();
        // Two generations of the authority, as while one takes the place of the other.
        let roots = Roots::new(vec![former.root().clone(), authority.root().clone()]).unwrap();
        let own = OwnCertificate::try_from(&issued).unwrap();
        let own = Credentials::new(own, Arc::new(roots), NOW).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let door = JoinDoor::open(any, &own, wall()).unwrap();
        let (desk, at) = (Desk::default(), door.address().unwrap());
        let serving = tokio::spawn(door.serve(Arc::new(desk.clone())));
        Self { desk, at, root: authority.root_hash(), serving }
    }

    fn pin(&self) -> DoorPin {
        let (project, cell) = ("study".parse().unwrap(), "server".parse().unwrap());
        DoorPin { project, cell, root: self.root }
    }

    fn knocker(&self) -> Knocker {
        let identity = Identity::from_uri("cell://study/client/site-9?org=hq").unwrap();
        let made = self_sign(&identity, NOW).unwrap();
        let certificate = made.chain().swap_remove(0).to_vec();
        let key = JoinKey::new(&certificate, made.key_pem().as_bytes()).unwrap();
        let (name, access) = ("site-9".parse().unwrap(), [7; 32]);
        let (pin, address, request) = (self.pin(), self.at.to_string(), b"a request".to_vec());
        Knocker { pin, address, name, access, certificate, request, key }
    }

    fn heard(&self) -> usize {
        self.desk.0.asked.lock().unwrap().len()
    }

    /// A connection from `from` that says nothing by itself.
    async fn connect(&self, from: Ipv4Addr) -> Result<Raw, quinn::ConnectionError> {
        let tls = tls::knock_config(self.pin(), tls::clock_from(|| NOW), Arc::new(|_| {})).unwrap();
        let config = transport().unwrap().client_config(tls).unwrap();
        let endpoint = quinn::Endpoint::client((from, 0).into()).unwrap();
        let connecting = endpoint.connect_with(config, self.at, SERVER_NAME).unwrap();
        let connection = timeout(LIMIT, connecting).await.expect("an answer or a refusal")?;
        Ok(Raw { connection, _endpoint: endpoint })
    }
}

struct Raw {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Raw {
    async fn say(&self, bytes: &[u8]) -> Option<Answer> {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        let body = timeout(LIMIT, knocker::read_frame(&mut recv, 1 << 20)).await.expect("an end");
        Answer::from_body(&body.ok()?).ok()
    }
}

#[tokio::test]
async fn v_22_a_knock_is_heard_with_its_proof_and_answered_however_large_the_reply_is() {
    let place = Place::open();
    let knocker = place.knocker();
    assert_eq!(knocker.knock(wall()).await.unwrap(), Answer::Waiting { after_s: 2 });
    let reply = vec![9; cellbus_proto::joining::REPLY_MAX_BYTES];
    *place.desk.0.reply.lock().unwrap() = Some(reply.clone());
    assert_eq!(knocker.knock(wall()).await.unwrap(), Answer::Granted { reply });
    assert_eq!((place.heard(), place.desk.0.proved.load(Ordering::SeqCst)), (2, 2));
    let asked = place.desk.0.asked.lock().unwrap()[0].clone();
    assert_eq!(asked.knock.request, Blob(b"a request".to_vec()));
    assert_eq!(asked.knock.access, Octets([7; 32]));
}

#[tokio::test]
async fn v_22_atk_150_nothing_is_said_to_a_door_of_another_fingerprint_name_or_project() {
    let place = Place::open();
    let pins: [fn(&mut DoorPin); 3] = [
        |pin| pin.root = [1; 32],
        |pin| pin.cell = "relay-a".parse().unwrap(),
        |pin| pin.project = "other".parse().unwrap(),
    ];
    for change in pins {
        let mut knocker = place.knocker();
        change(&mut knocker.pin);
        let error = knocker.knock(wall()).await.unwrap_err();
        assert!(matches!(error, KnockError::NotTheDoor { .. }), "{error}");
    }
    assert_eq!(place.heard(), 0);
    // An authority of the attacker's own, with the same names: it has another fingerprint.
    let stranger = Place::open();
    let mut knocker = place.knocker();
    knocker.address = stranger.at.to_string();
    assert!(matches!(knocker.knock(wall()).await, Err(KnockError::NotTheDoor { .. })));
    assert_eq!(stranger.heard(), 0);
}

#[tokio::test]
async fn v_22_where_nobody_listens_a_knock_ends_by_itself() {
    let mut knocker = Place::open().knocker();
    let free = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    knocker.address = free.local_addr().unwrap().to_string();
    let ended = timeout(LIMIT, knocker.knock(wall())).await.expect("it ends by itself");
    assert!(matches!(ended, Err(KnockError::Unanswered { .. })));
}

#[tokio::test]
async fn v_22_atk_150_a_knock_that_was_seen_elsewhere_or_changed_proves_nothing() {
    let place = Place::open();
    place.knocker().knock(wall()).await.unwrap();
    let seen = place.desk.0.asked.lock().unwrap()[0].knock.clone();
    // The same bytes on another connection; and each part of it changed on its own one.
    let again = place.connect(Ipv4Addr::new(127, 0, 0, 9)).await.unwrap();
    again.say(&seen.to_frame()).await.unwrap();
    let mut other = seen.clone();
    other.certificate = Blob(place.knocker().certificate);
    let third = place.connect(Ipv4Addr::new(127, 0, 0, 9)).await.unwrap();
    third.say(&other.to_frame()).await.unwrap();
    assert_eq!((place.heard(), place.desk.0.proved.load(Ordering::SeqCst)), (3, 1));
}

#[tokio::test]
async fn v_22_huge_and_malformed_frames_are_refused_unheard() {
    let place = Place::open();
    let huge = [&u32::MAX.to_be_bytes()[..], &[0; 100]].concat();
    let too_long = [&10u32.to_be_bytes()[..], &[0; 11]].concat();
    let noise = [&10u32.to_be_bytes()[..], &[0xc1; 10]].concat();
    let mut knock = Knock {
        name: "site-9".parse().unwrap(),
        access: Octets([0; 32]),
        certificate: Blob(Vec::new()),
        request: Blob(vec![0; cellbus_proto::joining::REQUEST_MAX_BYTES + 1]),
        signature: Blob(Vec::new()),
    };
    let large = knock.to_frame();
    knock.request = Blob(Vec::new());
    let cut = knock.to_frame();
    for bytes in [&huge, &too_long, &noise, &large] {
        let raw = place.connect(Ipv4Addr::new(127, 0, 0, 8)).await.unwrap();
        assert_eq!(raw.say(bytes).await, Some(Answer::Refused(Refusal::Malformed)));
    }
    let raw = place.connect(Ipv4Addr::new(127, 0, 0, 7)).await.unwrap();
    assert_eq!(raw.say(&cut[..cut.len() - 1]).await, None, "nothing is said to a part of a frame");
    assert_eq!(place.heard(), 0);
}

#[tokio::test]
async fn v_22_silent_connections_of_one_address_keep_nobody_else_out_and_end_by_themselves() {
    let place = Place::open();
    let flooding = Ipv4Addr::new(127, 0, 0, 6);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_ADDRESS {
        held.push(place.connect(flooding).await.unwrap());
    }
    let refused = place.connect(flooding).await.map(drop).unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    place.knocker().knock(wall()).await.unwrap();
    // Kept alive by their owner, they are cut off all the same.
    let ended = held.iter().map(|raw| raw.connection.closed());
    timeout(LIMIT, futures_util::future::join_all(ended)).await.expect("the door ends them");
    place.connect(flooding).await.unwrap();
}

#[tokio::test]
async fn v_22_half_open_connections_are_answered_by_a_retry_and_leave_nothing() {
    let place = Place::open();
    // The first packet of somebody who never says more.
    let decoy = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let tls = tls::knock_config(place.pin(), tls::clock_from(|| NOW), Arc::new(|_| {})).unwrap();
    let config = transport().unwrap().client_config(tls).unwrap();
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let _connecting =
        endpoint.connect_with(config, decoy.local_addr().unwrap(), SERVER_NAME).unwrap();
    let mut first = vec![0; 2048];
    let len = timeout(LIMIT, decoy.recv(&mut first)).await.expect("a packet").unwrap();
    first.truncate(len);
    for _ in 0..200 {
        let stranger = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 4), 0)).await.unwrap();
        stranger.send_to(&first, place.at).await.unwrap();
        let mut answer = [0; 2048];
        let len = timeout(LIMIT, stranger.recv(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(answer[0] & 0xf0, 0xf0, "a Retry");
        assert!(len < first.len(), "whose address was made up gets no more than was sent");
    }
    place.knocker().knock(wall()).await.unwrap();
    assert_eq!(place.heard(), 1);
}

#[tokio::test]
async fn v_22_a_key_of_another_certificate_is_none() {
    let identity = Identity::from_uri("cell://study/client/site-9?org=hq").unwrap();
    let (one, two) = (self_sign(&identity, NOW).unwrap(), self_sign(&identity, NOW).unwrap());
    assert!(JoinKey::new(&one.chain()[0], two.key_pem().as_bytes()).is_err());
    assert!(JoinKey::new(&one.chain()[0], b"no key").is_err());
}
