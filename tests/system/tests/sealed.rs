//! Messages that only their destination can read, and control messages that only their origin can have
//! sent: each over links in memory, and over QUIC through a relay.

use std::{future::Future, time::Duration};

use cellbus_channels::{
    Bus, Bytes, ChannelTopic, Failure, Flags, Fqcn, HandlerOptions, Reply, RequestBuilder,
    RequestError, RetryPolicy, Status, from_fn,
};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};
use cellbus_proto::{codec::body, well_known};

const TREE: &str =
    "server -> relay -> site-1 -> job-a; relay -> site-2; server -> site-3; server -> job-a";

/// Runs a scenario on both carriers.
fn both<F: Future<Output = ()>>(scenario: impl Fn(Net) -> F + Copy) {
    let _log = LogGuard::start();
    run_paused(1, |seed| async move { scenario(Net::up(seed, TREE).await).await });
    run_paused(2, |seed| async move {
        scenario(Net::over_quic(SimNet::new(seed), TREE).await).await;
    });
}

fn name(text: &str) -> Fqcn {
    text.parse().expect("a cell")
}

fn bus(net: &Net, cell: &str) -> Bus {
    net.cell(cell).running.bus()
}

fn sealed(net: &Net, from: &str, to: &str, payload: &str) -> RequestBuilder {
    bus(net, from)
        .request(name(to), "task/ping".parse().expect("a target"))
        .payload(payload.to_owned())
        .budget(Duration::from_secs(10))
        .sealed()
}

#[test]
fn p_28_a_sealed_request_is_read_at_its_end_and_its_reply_where_it_was_made() {
    both(|net| async move {
        for to in ["server", "site-2", "site-3", "relay"] {
            net.cell(to).echoes("task/ping").await;
            let to = net.cell(to).running.own().name.clone();
            for text in ["one", "two", ""] {
                let reply = sealed(&net, "site-1", to.as_str(), text).content_type("text/plain");
                assert_eq!(reply.send().await.unwrap().payload, text, "{to}");
            }
        }
        assert_eq!(net.cell("server").calls(), ["one", "two", ""]);
        // To oneself too, and what is not sealed goes beside it.
        net.cell("site-1").echoes("task/ping").await;
        let own = sealed(&net, "site-1", "relay.site-1", "own").send().await.unwrap();
        assert_eq!(own.payload, "own");
        let plain = net.cell("site-1").request("server", "task/ping", "plain").await.unwrap();
        assert_eq!(plain, "plain");
        net.finish().await;
    });
}

#[test]
fn p_28_job_cells_seal_to_each_other() {
    both(|net| async move {
        net.cell("server.job-a").echoes("task/ping").await;
        net.cell("relay.site-1.job-a").echoes("task/ping").await;
        for (from, to) in
            [("relay.site-1.job-a", "server.job-a"), ("server.job-a", "relay.site-1.job-a")]
        {
            let reply = sealed(&net, from, to, "weights").send().await.unwrap();
            assert_eq!(reply.payload, "weights");
        }
        net.finish().await;
    });
}

#[test]
fn p_28_every_operation_can_be_sealed() {
    both(|net| async move {
        let handler = from_fn(|delivery: cellbus_channels::Delivery| {
            let replies = delivery.replies();
            async move {
                for n in 0..5 {
                    let _ = replies.send(Reply::from(format!("part {n}").into_bytes())).await;
                }
                Ok(Reply::from(delivery.payload))
            }
        });
        let target: ChannelTopic = "task/slow".parse().expect("a target");
        let options = HandlerOptions::concurrent(9);
        bus(&net, "server").handle_with(target, options, handler).await.unwrap();
        let many = bus(&net, "site-1")
            .request(name("server"), "task/slow".parse().expect("a target"))
            .payload("end")
            .sealed();
        let mut replies = many.replies();
        let mut parts: Vec<Bytes> = Vec::new();
        while let Some(reply) = replies.next().await {
            parts.push(reply.unwrap().payload);
        }
        assert_eq!(parts, ["part 0", "part 1", "part 2", "part 3", "part 4", "end"]);

        for cell in ["server", "site-2", "site-3"] {
            net.cell(cell).echoes("task/ping").await;
        }
        sealed(&net, "site-1", "server", "published").publish().await.unwrap();
        sealed(&net, "site-1", "server", "receipted").receipt().publish().await.unwrap();
        assert_eq!(net.cell("server").calls(), ["published", "receipted"]);
        let retry =
            RetryPolicy { first: Duration::from_millis(100), max: Duration::from_millis(200) };
        let again = sealed(&net, "site-1", "server", "again").retry(retry).send().await.unwrap();
        assert_eq!(again.payload, "again");
        let probe = sealed(&net, "site-1", "server", "probed").probe(true).await;
        assert_eq!(probe.outcome.unwrap().payload, "probed");
        assert_eq!(probe.path.len(), 3);
        assert_eq!(net.cell("server").calls().len(), 4);
        net.finish().await;
    });
}

#[test]
fn p_28_what_a_handler_says_of_its_failure_is_sealed_too() {
    both(|net| async move {
        let handler = from_fn(|_| async { Err::<Reply, _>(Failure::failed("no such patient")) });
        let target: ChannelTopic = "task/ping".parse().expect("a target");
        bus(&net, "server").handle(target, handler).await.unwrap();
        let error = sealed(&net, "site-1", "server", "x").send().await.unwrap_err();
        let RequestError::Returned { by, status, detail } = error else { panic!("{error}") };
        assert_eq!((by, status), (name("server"), Status::HandlerFailed));
        assert_eq!(detail, "no such patient");
        let unheard = sealed(&net, "site-1", "relay.site-2", "x").send().await.unwrap_err();
        assert_eq!(unheard.status(), Status::NoHandler);
        net.finish().await;
    });
}

#[test]
fn g_12_a_sealed_request_whose_reply_was_lost_is_answered_again_and_executed_once() {
    both(|net| async move {
        net.cell("server").echoes_after("task/slow", Duration::from_millis(300)).await;
        let retry =
            RetryPolicy { first: Duration::from_millis(100), max: Duration::from_millis(200) };
        let asked = bus(&net, "site-1")
            .request(name("server"), "task/slow".parse().expect("a target"))
            .payload("once")
            .budget(Duration::from_secs(10))
            .sealed()
            .retry(retry);
        let waiting = actix_rt::spawn(asked.send());
        net.advance(Duration::from_millis(150)).await;
        net.cut_one_way("relay", "site-1");
        net.advance(Duration::from_secs(1)).await;
        net.heal("relay", "site-1");
        assert_eq!(waiting.await.unwrap().unwrap().payload, "once");
        assert_eq!(net.cell("server").calls(), ["once"]);
        assert_eq!(net.cell("server").running.own().counters.refused(Status::Duplicate), 0);
        net.advance(Duration::from_secs(1)).await;
        net.finish().await;
    });
}

#[test]
fn a_channel_that_demands_sealing_gets_it_without_being_asked() {
    both(|mut net| async move {
        let mut rules = cellbus_harness::net::open_policy();
        rules.iter_mut().for_each(|rule| rule.seal = true);
        net.set_policy(rules);
        net.cell("server").echoes("task/ping").await;
        let reply = net.cell("site-1").request("server", "task/ping", "secret").await.unwrap();
        assert_eq!(reply, "secret");
        assert_eq!(net.cell("server").calls(), ["secret"]);
        net.finish().await;
    });
}

#[test]
fn p_12_a_job_is_started_by_the_server_and_its_signature_alone() {
    both(|net| async move {
        let running = &net.cell("site-1").running;
        let started = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&started);
        let handler = from_fn(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async { Ok(Reply::default()) }
        });
        running.handle_system(well_known::JOB_START, handler).unwrap();
        let start = body::JobStart {
            job: "job-7".parse().unwrap(),
            program: "train".parse().unwrap(),
            parameters: body::Blob(Vec::new()),
        };
        let ask = |flags: Flags| {
            let builder = bus(&net, "server")
                .request(name("relay.site-1"), well_known::JOB_START.into())
                .payload(body::encode(&start));
            if flags.contains(Flags::SEALED) { builder.sealed() } else { builder }
        };
        ask(Flags::default()).send().await.unwrap();
        ask(Flags::SEALED).send().await.unwrap();
        assert_eq!(started.load(std::sync::atomic::Ordering::Relaxed), 2);
        net.finish().await;
    });
}
