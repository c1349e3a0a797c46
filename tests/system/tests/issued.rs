//! Cells that renew their certificates themselves, by the issuing authority of the server, while requests flow.
//!
//! Every scenario is run over links in memory and over QUIC on a simulated network.

#[path = "renewal/load.rs"]
mod load;

use std::{cell::Cell, collections::BTreeSet, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_harness::{
    guard::LogGuard,
    net::{NOW, Net, Settings},
    seeds::run_paused,
    sim::SimNet,
};
use cellbus_proto::{
    codec::body::{self, Blob, IssueCertificate, IssuedCertificate},
    identity::Identity,
    status::Status,
    transcript::IssueCertificateFacts,
    trust::{BanChange, RosterList},
};
use cellbus_runtime::{
    authority::{Issued, OwnCertificate, renewed::NewPair, self_sign},
    certificate::{LeafHash, identity_of},
    host::{AskError, Renewing},
};

use self::load::{TREE, Tasks};

const CELLS: [&str; 5] = ["server", "relay", "site-1", "site-2", "site-3"];
/// Between two requests of one pair.
const EVERY: Duration = Duration::from_secs(2);
/// A certificate counts from five minutes before it is issued.
const LEAF: Duration = Duration::from_secs(900);
/// Something that outlives every test.
const LONG: Duration = Duration::from_secs(100_000);
/// More than half of the life of the first certificates is over, and less than two thirds.
const HALF: Duration = Duration::from_secs(310);

fn scenario<F: Future<Output = ()>>(announce: fn(&LogGuard), test: impl Fn(Net) -> F) {
    for is_quic in [false, true] {
        let log = LogGuard::keeping(30_000, tracing::Level::INFO);
        announce(&log);
        run_paused(1, async |seed| {
            let sim = is_quic.then(|| SimNet::new(seed));
            let settings = Settings { leaf_life: Some(LEAF), ..Settings::default() };
            let mut net = Net::prepared(seed, TREE, sim, settings);
            net.start_all().await;
            for cell in ["server", "relay", "site-1", "site-3"] {
                net.cell(cell).echoes("task/ping").await;
            }
            test(net).await;
        });
    }
}

/// What a node does for each cell: renews its certificate whenever that is due. Counts what was kept.
fn renewals(net: &Net) -> Tasks {
    let stop = Rc::new(Cell::new(false));
    let one = |cell: &'static str| {
        let (running, stop) = (net.cell(cell).running.clone(), Rc::clone(&stop));
        tokio::task::spawn_local(async move {
            let (mut renewing, kept) = (Renewing::new(&running), Rc::new(Cell::new(0)));
            loop {
                // In short steps, so that it hears when it is to stop.
                let wait = renewing.wait();
                tokio::time::sleep(wait.min(Duration::from_secs(5))).await;
                if stop.get() {
                    return kept.get();
                }
                if wait > Duration::from_secs(5) {
                    continue;
                }
                let count = Rc::clone(&kept);
                let keep = async |pair: Arc<NewPair>| {
                    assert_ne!(pair.certificate().hash(), running.own().certificate().hash());
                    count.set(count.get() + 1);
                    Ok(())
                };
                if let Some((certificate, renewal)) = renewing.attempt(keep).await {
                    assert_eq!(renewal.again, [], "{cell}: no link is made again");
                    assert_eq!(running.own().certificate().hash(), certificate.hash());
                }
            }
        })
    };
    Tasks { running: CELLS.map(one).into(), stop }
}

async fn links(net: &Net) -> BTreeSet<(String, u64)> {
    let reports = net.inspect().await;
    let of = |(name, report): (String, cellbus_runtime::cell::InspectReport)| {
        let links: Vec<u64> = report.links.iter().map(|link| link.link).collect();
        links.into_iter().map(move |link| (name.clone(), link))
    };
    reports.into_iter().flat_map(of).collect()
}

async fn issued(net: &Net) -> u64 {
    net.inspect().await["server"].counters.certificates_issued
}

fn hash(net: &Net, cell: &str) -> LeafHash {
    net.cell(cell).running.own().certificate().hash()
}

#[test]
fn g_52_f_24_cells_with_short_lived_certificates_renew_them_and_no_request_fails() {
    scenario(
        |_| {},
        |net| async move {
            net.issues(LONG, LEAF);
            let before = links(&net).await;
            let (load, renewals) = (Tasks::load(&net, EVERY), renewals(&net));
            // The first certificates end after 900 s, and the ones after them have ended, too.
            net.advance(Duration::from_secs(2200)).await;
            let kept = renewals.stop().await;
            assert!(kept.iter().all(|kept| (3..=6).contains(kept)), "{kept:?}");
            let answered = load.stop().await;
            assert!(answered.iter().all(|answered| *answered > 1000), "{answered:?}");
            assert_eq!(issued(&net).await, u64::from(kept.iter().sum::<u32>()));
            assert_eq!(links(&net).await, before, "no link was made again");
            for cell in CELLS {
                let certificate = net.cell(cell).running.own().certificate();
                assert!(certificate.dates().not_before > NOW + 900, "{cell}");
                assert_eq!(certificate.chain().len(), 2, "{cell}: by the issuing authority");
            }
            net.finish().await;
        },
    );
}

#[test]
fn f_24_a_renewal_service_that_is_down_is_asked_again_and_warned_about_only_when_time_runs_out() {
    scenario(
        |log| log.expect("the certificate is not renewed and ends soon"),
        |net| async move {
            let (load, renewals) = (Tasks::load(&net, EVERY), renewals(&net));
            // A quarter of 1200 s is left at 600 s.
            net.advance(Duration::from_secs(700)).await;
            assert_eq!(issued(&net).await, 0);
            net.issues(LONG, LEAF);
            net.advance(Duration::from_secs(190)).await;
            assert_eq!(issued(&net).await, 5, "each has one before the old one ends");
            net.advance(Duration::from_secs(300)).await;
            assert!(load.stop().await.iter().all(|answered| *answered > 500));
            renewals.stop().await;
            net.finish().await;
        },
    );
}

/// A request of `cell` for what `made` holds, signed by it as by whoever is named.
fn request(cell: &str, held: &OwnCertificate, shown: &Issued, made: &Issued) -> Bytes {
    let request = shown.chain().swap_remove(0).to_vec();
    let signable = IssueCertificateFacts {
        project: "harness",
        cell,
        server: "server",
        held: &held.hash(),
        request: &request,
    }
    .signable();
    let signature = Blob(made.prove(&signable).expect("the library signs"));
    body::encode(&IssueCertificate { request: Blob(request), signature })
}

async fn ask(net: &Net, from: &str, body: Bytes) -> Result<Identity, Status> {
    let (channel, topic) =
        ("cell".parse().expect("a name"), "issue_certificate".parse().expect("a name"));
    let target = cellbus_channels::ChannelTopic::new(channel, topic);
    let bus = net.cell(from).running.bus();
    let asked = bus.request("server".parse().expect("a name"), target).payload(body);
    let reply = asked.budget(Duration::from_secs(10)).send().await.map_err(|e| e.status())?;
    let reply: IssuedCertificate = body::decode_exact(&reply.payload).expect("a chain");
    Ok(identity_of(&reply.chain[0].0).expect("it names somebody").0)
}

#[test]
fn v_22_nobody_gets_a_certificate_for_another_or_without_the_key_or_before_it_is_time() {
    scenario(
        |log| log.tolerate("refused"),
        |net| async move {
            net.issues(LONG, LEAF);
            let own = |cell: &str| net.cell(cell).running.own().clone();
            let (site, other) = (own("site-1"), own("site-2"));
            let held = site.certificate();
            let key = |identity: &Identity| self_sign(identity, NOW).unwrap();
            let (mine, foreign, strange) =
                (key(&site.identity), key(&site.identity), key(&other.identity));
            let name = "relay.site-1";
            let good = request(name, &held, &mine, &mine);
            net.advance(Duration::from_secs(10)).await;
            assert_eq!(
                ask(&net, "site-1", good.clone()).await,
                Err(Status::RateLimit),
                "too early"
            );
            net.advance(HALF).await;
            let cases = [
                ("a foreign key", request(name, &held, &foreign, &mine), Status::BadSignature),
                ("for another", request("relay.site-2", &held, &mine, &mine), Status::BadSignature),
                (
                    "for another's certificate",
                    request(name, &other.certificate(), &mine, &mine),
                    Status::BadSignature,
                ),
                ("no request", Bytes::from_static(b"x"), Status::BadFrame),
            ];
            for (what, body, status) in cases {
                assert_eq!(ask(&net, "site-1", body).await, Err(status), "{what}");
            }
            // Somebody else brings what site-1 has signed.
            let brought = ask(&net, "site-2", good.clone()).await;
            assert_eq!(brought, Err(Status::BadSignature));
            assert_eq!(issued(&net).await, 0);
            // Whatever stands in the request, what is certified is who asks.
            let named = request(name, &held, &strange, &strange);
            assert_eq!(ask(&net, "site-1", named).await, Ok(site.identity.clone()));
            assert_eq!(ask(&net, "site-1", good.clone()).await, Ok(site.identity.clone()));
            for _ in 0..3 {
                ask(&net, "site-1", good.clone()).await.unwrap();
            }
            assert_eq!(ask(&net, "site-1", good).await, Err(Status::RateLimit), "and no more");
            assert_eq!(issued(&net).await, 5);
            assert_eq!(site.certificate().hash(), held.hash(), "nothing goes by any of them");
            net.finish().await;
        },
    );
}

#[test]
fn p_26_who_is_revoked_banned_or_not_as_the_roster_says_is_not_certified_again() {
    scenario(
        |log| {
            log.tolerate("refused");
            log.tolerate("link closed");
            log.tolerate("CERT_REVOKED");
            log.tolerate("DISABLED");
        },
        |net| async move {
            net.issues(LONG, LEAF);
            net.advance(HALF).await;
            let roster = |version: u64, org: &str| {
                let mut roster: RosterList = net.roster(version, &[]);
                let site = roster.cells.iter_mut().find(|cell| cell.name.as_str() == "site-1");
                site.unwrap().org = org.parse().unwrap();
                roster
            };
            net.give("server", &roster(1, "else")).await.unwrap();
            net.advance(Duration::from_secs(5)).await;
            let asked = net.cell("site-1").running.ask_certificate().await;
            assert!(
                matches!(&asked, Err(AskError::Server(error)) if error.status() == Status::CertName),
                "{asked:?}"
            );
            net.give("server", &roster(2, "org")).await.unwrap();
            let shown = hash(&net, "site-1");
            let name = "site-2".parse().unwrap();
            let reason = "lost".to_owned();
            net.change_bans(BanChange::Ban { name, reason }).await.unwrap();
            net.give("server", &net.revocations(1, &["site-3"])).await.unwrap();
            for cell in ["site-2", "site-3"] {
                let asked = net.cell(cell).running.ask_certificate().await;
                assert!(matches!(asked, Err(AskError::Server(_))), "{cell}: {asked:?}");
            }
            assert_eq!(issued(&net).await, 0);
            // The others are not concerned.
            net.cell("site-1").running.ask_certificate().await.unwrap();
            net.cell("relay").running.ask_certificate().await.unwrap();
            assert_eq!(issued(&net).await, 2);
            assert_eq!(hash(&net, "site-1"), shown);
        },
    );
}

#[test]
fn a_server_without_an_issuing_authority_says_so() {
    scenario(
        |log| log.tolerate("refused"),
        |net| async move {
            net.advance(HALF).await;
            for cell in CELLS {
                let asked = net.cell(cell).running.ask_certificate().await;
                assert!(matches!(asked, Err(AskError::NoIssuer)), "{cell}: {asked:?}");
            }
            net.finish().await;
        },
    );
}
