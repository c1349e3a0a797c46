//! Transfers that several receivers behind one relay share: asked for by each, carried once.

#[path = "shared_conduits/ends.rs"]
mod ends;

use std::{sync::Arc, time::Duration};

use cellbus_channels::Broken;
use cellbus_harness::{
    guard::LogGuard,
    net::{Net, Settings},
    seeds::run_paused,
    sim::SimNet,
};

use self::ends::{
    AGAIN, Fetched, Holder, OTHER, fetch, fetch_on, open, open_again, open_fetch, read_pieces,
};

const TREE: &str = "server -> relay -> site-1; relay -> site-2; relay -> site-3";
const MIB: usize = 1 << 20;

fn scenario<F: Future<Output = ()>>(test: impl Fn(Net) -> F) {
    scenario_with(&Settings::default(), test);
}

fn scenario_with<F: Future<Output = ()>>(settings: &Settings, test: impl Fn(Net) -> F) {
    scenario_in(TREE, settings, test);
}

fn scenario_in<F: Future<Output = ()>>(tree: &str, settings: &Settings, test: impl Fn(Net) -> F) {
    for is_quic in [false, true] {
        let _log = LogGuard::start();
        run_paused(1, async |seed| {
            let sim = is_quic.then(|| SimNet::new(seed));
            let mut net = Net::prepared(seed, tree, sim, settings.clone());
            net.start_all().await;
            test(net).await;
        });
    }
}

fn spooled(net: &Net) -> u64 {
    net.cell("relay").running.own().conduits.spooled_bytes()
}

#[test]
fn f_36_three_receivers_cost_the_holder_one_copy_and_each_is_decided_on_and_settled() {
    scenario(|net| async move {
        let holder = Holder::serve(&net, "server", 3 * MIB).await;
        let (one, two, three) = tokio::join!(
            fetch(&net, "site-1", 0),
            fetch(&net, "site-2", 0),
            fetch(&net, "site-3", 0)
        );
        let whole = holder.bytes.clone();
        for fetched in [one, two, three] {
            let Fetched { bytes, settled, .. } = fetched;
            assert!(bytes == whole, "{} bytes of {}", bytes.len(), whole.len());
            assert_eq!(settled, Some(1));
        }
        {
            let seen = holder.seen();
            assert_eq!(seen.requests.len(), 3, "the holder decides on every one");
            assert_eq!(seen.requests.iter().filter(|(_, data)| *data).count(), 1);
            assert_eq!((seen.copies, seen.receipts.len()), (1, 3));
        }
        let out = net.inspect().await["server"].counters.bytes_out;
        assert!(out < 3 * MIB as u64 + 200_000, "{out} bytes have left the server");
        net.finish().await;
    });
}

#[test]
fn the_same_bytes_do_not_cross_the_link_again_in_a_later_transfer() {
    scenario(|net| async move {
        let holder = Holder::serve(&net, "server", 3 * MIB).await;
        fetch(&net, "site-1", 0).await;
        net.advance(Duration::from_secs(30)).await;
        let before = net.inspect().await["server"].counters.bytes_out;
        let mut again = open(&net, "site-2", 0, AGAIN, Some(holder.digest())).await.unwrap();
        let (bytes, end) = read_pieces(&mut again.recv).await;
        assert_eq!((bytes == holder.bytes, end), (true, Ok(())));
        {
            let seen = holder.seen();
            assert_eq!((seen.copies, seen.requests.len()), (1, 2));
        }
        let grown = net.inspect().await["server"].counters.bytes_out - before;
        assert!(grown < 200_000, "{grown} bytes have left the server again");
        drop(again);
        net.finish().await;
    });
}

#[test]
fn what_an_outer_relay_has_crosses_to_an_inner_one_once() {
    let tree = "server -> outer; outer -> site-0; outer -> inner; inner -> site-1; inner -> site-2";
    scenario_in(tree, &Settings::default(), |net| async move {
        let holder = Holder::serve(&net, "server", 3 * MIB).await;
        fetch(&net, "site-0", 0).await;
        let before = net.inspect().await["outer"].counters.bytes_out;
        let digest = Some(holder.digest());
        let mut one = open(&net, "site-1", 0, AGAIN, digest).await.unwrap();
        let mut two = open(&net, "site-2", 0, AGAIN, digest).await.unwrap();
        for conduit in [&mut one, &mut two] {
            let (bytes, end) = read_pieces(&mut conduit.recv).await;
            assert_eq!((bytes == holder.bytes, end), (true, Ok(())));
        }
        assert_eq!(holder.seen().copies, 1);
        let grown = net.inspect().await["outer"].counters.bytes_out - before;
        assert!(grown < 3 * MIB as u64 + 200_000, "{grown} bytes have left the outer relay");
        drop((one, two));
        net.finish().await;
    });
}

#[test]
fn whoever_names_the_digest_of_what_it_is_not_to_have_gets_no_byte_of_it() {
    scenario(|net| async move {
        let holder = Holder::serve(&net, "server", MIB).await;
        fetch(&net, "site-1", 0).await;
        // The holder lets it in, and says of what it serves that it is something else.
        match open(&net, "site-2", 0, OTHER, Some(holder.digest())).await {
            Ok(mut claimed) => {
                let (bytes, end) = read_pieces(&mut claimed.recv).await;
                assert_eq!((bytes.len(), end), (0, Err(Broken::Lost)));
            }
            Err(lost) => assert_eq!(lost.status(), cellbus_channels::Status::PeerLost),
        }
        let seen = holder.seen().requests.len();
        assert_eq!((seen, holder.seen().copies), (2, 1));
        net.finish().await;
    });
}

#[test]
fn who_comes_late_is_served_by_the_relay_until_nothing_is_kept_any_more() {
    let mut settings = Settings::default();
    settings.cell.share.keep = Duration::from_secs(60);
    scenario_with(&settings, |net| async move {
        let holder = Holder::serve(&net, "server", MIB).await;
        fetch(&net, "site-1", 0).await;
        net.advance(Duration::from_secs(50)).await;
        assert_eq!(spooled(&net), MIB as u64);
        let late = fetch(&net, "site-2", 1000).await;
        assert!(late.bytes[..] == holder.bytes[1000..], "{}", late.bytes.len());
        assert_eq!((late.settled, holder.seen().copies), (Some(1), 1));
        net.advance(Duration::from_secs(62)).await;
        assert_eq!(spooled(&net), 0);
        fetch(&net, "site-3", 0).await;
        assert_eq!(holder.seen().copies, 2);
        net.finish().await;
    });
}

#[test]
fn who_leads_may_leave_and_the_others_get_the_rest() {
    scenario(|net| async move {
        let holder = Holder::serve(&net, "server", 20 * MIB).await;
        let leading = open_fetch(&net, "site-1", 0).await.unwrap();
        let net = Arc::new(net);
        let other = {
            let net = Arc::clone(&net);
            tokio::task::spawn_local(async move { fetch(&net, "site-2", 0).await })
        };
        net.advance(Duration::from_millis(20)).await;
        drop(leading);
        let Fetched { bytes, settled, .. } = other.await.unwrap();
        assert!(bytes == holder.bytes, "{}", bytes.len());
        assert_eq!((settled, holder.seen().copies), (Some(1), 1));
        let net = Arc::into_inner(net).expect("the other has ended");
        net.finish().await;
    });
}

#[test]
fn a_slow_receiver_holds_nobody() {
    scenario(|net| async move {
        let holder = Holder::serve(&net, "server", 20 * MIB).await;
        let mut slow = open_fetch(&net, "site-1", 0).await.unwrap();
        let quick = fetch(&net, "site-2", 0).await;
        assert!(quick.bytes == holder.bytes);
        let (bytes, end) = read_pieces(&mut slow.recv).await;
        assert_eq!(end, Ok(()));
        assert!(bytes == holder.bytes, "{}", bytes.len());
        assert_eq!(holder.seen().copies, 1);
        drop(slow);
        net.finish().await;
    });
}

#[test]
fn a_spool_is_bounded_and_who_falls_behind_it_comes_again() {
    let mut settings = Settings::default();
    settings.cell.share.budget = 4 * MIB as u64;
    settings.cell.share.window_min = MIB as u64;
    scenario_with(&settings, |net| async move {
        let holder = Holder::serve(&net, "server", 20 * MIB).await;
        let slow = open_fetch(&net, "site-1", 0).await.unwrap();
        // Who of the two is cut off depends on who reads when; whoever is goes on where it was.
        let quick = open_again(&net, "site-2", 0).await;
        assert!(fetch_on(&net, "site-2", quick).await == holder.bytes);
        assert!(spooled(&net) <= 4 * MIB as u64);
        assert!(fetch_on(&net, "site-1", slow).await == holder.bytes);
        net.finish().await;
    });
}

#[test]
fn a_holder_that_refuses_one_receiver_is_obeyed() {
    scenario(|net| async move {
        let holder = Holder::serve(&net, "server", MIB).await;
        holder.refuses("relay.site-1");
        let refused = open_fetch(&net, "site-1", 0).await.unwrap_err();
        assert_eq!(refused.status(), cellbus_channels::Status::TopicDenied);
        let good = fetch(&net, "site-2", 0).await;
        assert!(good.bytes == holder.bytes);
        // Though the relay has every byte of it.
        let refused = open_fetch(&net, "site-1", 0).await.unwrap_err();
        assert_eq!(refused.status(), cellbus_channels::Status::TopicDenied);
        assert_eq!(holder.seen().copies, 1);
        net.finish().await;
    });
}

#[test]
fn a_holder_that_is_lost_breaks_all_that_share_it() {
    scenario(|mut net| async move {
        Holder::serve(&net, "server", 20 * MIB).await;
        let mut one = open_fetch(&net, "site-1", 0).await.unwrap();
        let mut two = open_fetch(&net, "site-2", 0).await.unwrap();
        net.crash("server").await;
        net.advance(Duration::from_secs(20)).await;
        for conduit in [&mut one, &mut two] {
            let (_, end) = read_pieces(&mut conduit.recv).await;
            assert_eq!(end, Err(Broken::Lost));
        }
        drop((one, two));
        net.restart("server");
        net.wait_ready(Duration::from_secs(60)).await;
        net.finish().await;
    });
}
