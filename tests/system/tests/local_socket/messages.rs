//! Messages between job code of one job, small and large.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cellbus_channels::{
    Delivery, Failure, HandlerOptions, Reply, RequestError, Status, TraceContext, from_fn,
    transfer::{FetchOptions, ServeOptions, SignedReference, Sink},
};
use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::run_paused,
    sim::{LinkSettings, SimNet},
};
use cellbus_proto::{local, transfer::ContentKey};
use cellbus_runtime::local_socket::Ended;

use super::jobs::{
    MIB, OTHER_JOB, SERVER, SITE_1, SITE_2, TREE, job, name, scenario, target, whole, within,
};

/// Answers every message with itself, and says in the content type who sent it.
async fn echo(bus: &cellbus_channels::Bus) {
    let handler = from_fn(|delivery: Delivery| async move {
        let content_type = format!("{} {:?}", delivery.origin.name, delivery.content_type);
        Ok(Reply { payload: delivery.payload, content_type: Some(content_type.into()) })
    });
    bus.handle(target("task/ping"), handler).await.unwrap();
}

#[test]
fn what_is_attached_arrives_whole_and_so_does_the_answer() {
    scenario(|net| async move {
        let (asking, answering) = (job(&net, SITE_1).await, job(&net, SERVER).await);
        echo(&answering.bus).await;
        // In the frame; attached and inline between the cells; at both sides of what is one message; large.
        for len in [0, 1, 300_000, MIB, MIB + 1, 5 * MIB + 3] {
            let sent = whole(len);
            let request = asking.bus.request(name(SERVER), target("task/ping"));
            let request = request.payload(sent.clone()).content_type("text/plain");
            let reply = within(request.send()).await.unwrap();
            assert!(reply.payload == sent, "{len} bytes come back as {}", reply.payload.len());
            let expected = format!("{SITE_1} Some(\"text/plain\")");
            assert_eq!(reply.content_type.as_deref(), Some(&*expected), "{len}");
        }
        net.finish().await;
    });
}

#[test]
fn a_publish_is_fetched_after_it_was_taken_and_when_its_job_code_is_gone() {
    scenario(|net| async move {
        let (sending, receiving) = (job(&net, SITE_1).await, job(&net, SERVER).await);
        let got = Arc::new(Mutex::new(Vec::new()));
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let store = Arc::clone(&got);
        let handler = from_fn(move |delivery: Delivery| {
            store.lock().unwrap().push((delivery.payload, delivery.headers));
            told.send(()).unwrap();
            async { Ok(Reply::default()) }
        });
        receiving.bus.handle(target("notes/ping"), handler).await.unwrap();
        let sent = whole(3 * MIB);
        let publish = sending.bus.request(name(SERVER), target("notes/ping"));
        publish.payload(sent.clone()).headers("round=3").publish().await.unwrap();
        drop(sending.bus);
        within(heard.recv()).await.unwrap();
        let got = std::mem::take(&mut *got.lock().unwrap());
        assert!(got.len() == 1 && got[0].0 == sent && got[0].1 == "round=3");
        assert_eq!(within(sending.ended).await.unwrap(), Ended::Finished);
        net.finish().await;
    });
}

#[test]
fn what_is_published_last_is_fetched_for_as_long_as_it_moves() {
    let _log = LogGuard::start();
    run_paused(1, async |seed| {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), TREE).await;
        sim.set_default(LinkSettings { bits_per_second: Some(800_000), ..LinkSettings::default() });
        let (sending, receiving) = (job(&net, SITE_1).await, job(&net, SERVER).await);
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let handler = from_fn(move |delivery: Delivery| {
            told.send(delivery.payload).unwrap();
            async { Ok(Reply::default()) }
        });
        receiving.bus.handle(target("notes/ping"), handler).await.unwrap();
        let sent = whole(12 * MIB);
        let publish = sending.bus.request(name(SERVER), target("notes/ping"));
        publish.payload(sent.clone()).publish().await.unwrap();
        drop(sending.bus);
        let begun = tokio::time::Instant::now();
        assert_eq!(within(sending.ended).await.unwrap(), Ended::Finished);
        assert!(begun.elapsed() > Duration::from_secs(75), "{:?}", begun.elapsed());
        assert!(within(heard.recv()).await.unwrap() == sent);
        net.finish().await;
    });
}

#[test]
fn one_attachment_goes_to_many_and_each_answers_with_one() {
    scenario(|net| async move {
        let asking = job(&net, SERVER).await;
        let sites = [job(&net, SITE_1).await, job(&net, SITE_2).await];
        for site in &sites {
            echo(&site.bus).await;
        }
        let sent = whole(2 * MIB);
        let to = [SITE_1, SITE_2, OTHER_JOB, "server"].map(name);
        let many = asking.bus.multicast(to, target("task/ping")).payload(sent.clone());
        let mut outcomes = within(async { many.send().await.all().await }).await;
        outcomes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let found: Vec<_> = outcomes
            .iter()
            .map(|(cell, outcome)| match outcome {
                Ok(reply) => (cell.as_str(), Ok(reply.payload == sent)),
                Err(error) => (cell.as_str(), Err(error.status())),
            })
            .collect();
        let expected = [
            (SITE_1, Ok(true)),
            (SITE_2, Ok(true)),
            ("server", Err(Status::NoHandler)),
            (OTHER_JOB, Err(Status::JobScope)),
        ];
        assert_eq!(found, expected);
        let many = asking.bus.multicast([SITE_1, SITE_2].map(name), target("task/ping"));
        let receipts = many.payload(sent.clone()).publish_with_receipts().await.all().await;
        assert!(receipts.len() == 2 && receipts.iter().all(|(_, outcome)| outcome.is_ok()));
        net.finish().await;
    });
}

#[test]
fn several_replies_come_one_after_the_other_large_ones_too() {
    scenario(|net| async move {
        let (asking, answering) = (job(&net, SITE_1).await, job(&net, SERVER).await);
        let handler = from_fn(|delivery: Delivery| async move {
            let replies = delivery.replies();
            for len in [1, 400_000, 2 * MIB] {
                replies.send(whole(len)).await.expect("somebody waits");
            }
            Ok(Reply::from(whole(7)))
        });
        let options = HandlerOptions::concurrent(2);
        answering.bus.handle_with(target("task/count"), options, handler).await.unwrap();
        let mut replies = asking.bus.request(name(SERVER), target("task/count")).replies();
        let mut lens = Vec::new();
        while let Some(reply) = within(replies.next()).await {
            let payload = reply.unwrap().payload;
            assert!(payload == whole(payload.len()));
            lens.push(payload.len());
        }
        assert_eq!(lens, [1, 400_000, 2 * MIB, 7]);
        net.finish().await;
    });
}

#[test]
fn small_messages_travel_in_batches_and_each_has_its_outcome() {
    scenario(|net| async move {
        let (asking, answering) = (job(&net, SITE_1).await, job(&net, SERVER).await);
        echo(&answering.bus).await;
        let queue = asking.bus.queue(name(SERVER), target("task/ping")).open();
        let mut pushed = Vec::new();
        for number in 0..100 {
            pushed.push(queue.enqueue(number.to_string()).await.unwrap());
        }
        for (number, pushed) in pushed.into_iter().enumerate() {
            assert_eq!(within(pushed).await.unwrap(), number.to_string());
        }
        queue.close().await;
        net.finish().await;
    });
}

#[test]
fn p_28_a_sealed_message_of_any_size_is_read_by_its_receiver_alone() {
    scenario(|net| async move {
        let (asking, answering) = (job(&net, SITE_1).await, job(&net, SERVER).await);
        echo(&answering.bus).await;
        let sealed = |len| {
            let request = asking.bus.request(name(SERVER), target("task/ping"));
            within(request.payload(whole(len)).sealed().send())
        };
        for len in [1000, 300_000, 2 * MIB, 9 * MIB] {
            assert_eq!(
                sealed(len).await.unwrap().payload,
                whole(len),
                "{len} bytes there and back"
            );
        }
        net.finish().await;
    });
}

#[test]
fn p_28_what_a_sealed_message_attaches_opens_with_the_key_in_it_and_with_no_other() {
    scenario(|net| async move {
        let asking = job(&net, SITE_1).await;
        let own = net.cell("relay.site-1").running.bus();
        let bus = own.clone();
        let handler = from_fn(move |delivery: Delivery| {
            let transfers = bus.transfers();
            async move {
                let content_type = delivery.content_type.as_deref();
                let is_sealed = content_type == Some(local::SEALED_ATTACHED_CONTENT_TYPE);
                let (key, reference) = delivery.payload.split_first_chunk().expect("a key");
                let signed = SignedReference::decode(reference).expect("a reference");
                let fetch = |key: Option<[u8; 32]>| {
                    let options = FetchOptions::default();
                    let options = match key {
                        Some(key) => options.key(ContentKey::from_bytes(key)),
                        None => options,
                    };
                    transfers.fetch(&signed, Sink::memory(4 << 20), options)
                };
                let mut other = *key;
                other[0] ^= 1;
                let without = [fetch(None).await.is_err(), fetch(Some(other)).await.is_err()];
                let opened = fetch(Some(*key)).await.expect("it opens").into_bytes();
                let is_whole = opened == whole(2 * MIB);
                let said = format!("{} {is_sealed} {without:?} {is_whole}", delivery.is_sealed);
                Ok(Reply::from(said.into_bytes()))
            }
        });
        own.handle(target("task/ping"), handler).await.unwrap();
        let request = asking.bus.request(name("relay.site-1"), target("task/ping"));
        let reply = within(request.payload(whole(2 * MIB)).sealed().send()).await.unwrap();
        assert_eq!(&reply.payload[..], b"true true [true, true] true");
        net.finish().await;
    });
}

#[test]
fn p_28_an_attachment_that_is_not_sealed_is_none_of_a_sealed_message() {
    scenario(|net| async move {
        let asking = job(&net, SITE_1).await;
        let own = net.cell("relay.site-1").running.bus();
        // A cell that answers a sealed request by what every cell on the way can fetch and read.
        let at = own.clone();
        let (keep, _kept) = tokio::sync::mpsc::unbounded_channel();
        let careless = from_fn(move |delivery: Delivery| {
            let (at, keep) = (at.clone(), keep.clone());
            async move {
                let options = ServeOptions::new(delivery.target, [delivery.origin.name.clone()]);
                let served = at.transfers().serve(whole(2 * MIB), options).await;
                let served = served.map_err(|error| Failure::failed(error.to_string()))?;
                let payload = served.reference().encode().expect("it is small");
                let content_type = Some(local::ATTACHED_CONTENT_TYPE.into());
                let _ = keep.send(served);
                Ok(Reply { payload, content_type })
            }
        });
        own.handle(target("task/careless"), careless).await.unwrap();
        let request = asking.bus.request(name("relay.site-1"), target("task/careless"));
        let refused = within(request.sealed().send()).await.unwrap_err();
        let RequestError::Returned { status, detail, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(*status, Status::HandlerFailed, "the work has been done");
        assert!(String::from_utf8_lossy(detail).contains("NOT_SEALED"), "{detail:?}");
        net.finish().await;
    });
}

#[test]
fn s_37_job_code_that_does_not_read_its_attachments_delays_nobody_else() {
    scenario(|net| async move {
        let (asking, answering) = (job(&net, SITE_1).await, job(&net, SERVER).await);
        let stuck = from_fn(|_| std::future::pending());
        answering.bus.handle(target("task/slow"), stuck).await.unwrap();
        echo(&answering.bus).await;
        let slow = asking.bus.request(name(SERVER), target("task/slow")).payload(whole(2 * MIB));
        let slow = tokio::task::spawn_local(slow.send());
        let other = job(&net, SITE_2).await;
        let ask = other.bus.request(name(SERVER), target("task/ping")).payload(whole(2 * MIB));
        assert_eq!(within(ask.send()).await.unwrap().payload.len(), 2 * MIB);
        let late = within(slow).await.unwrap().unwrap_err();
        assert_eq!(late.status(), Status::Deadline);
        net.finish().await;
    });
}

/// Version and trace; every handler has a span of its own behind them.
fn of_trace(TraceContext(context): TraceContext) -> Vec<u8> {
    context[..17].to_vec()
}

#[test]
fn a_trace_goes_through_job_code_and_on_with_what_it_sends() {
    scenario(|net| async move {
        let asking = job(&net, SITE_1).await;
        let (between, last) = (job(&net, SERVER).await, job(&net, SITE_2).await);
        let answer = from_fn(|delivery: Delivery| async move {
            Ok(Reply::from(format!("{:?}", delivery.trace.map(of_trace)).into_bytes()))
        });
        last.bus.handle(target("task/ping"), answer).await.unwrap();
        let bus = between.bus.clone();
        let handler = from_fn(move |_| {
            let asked = bus.request(name(SITE_2), target("task/ping")).send();
            async move { Ok(Reply::from(asked.await.expect("it answers").payload)) }
        });
        between.bus.handle(target("task/ping"), handler).await.unwrap();
        let ask = || asking.bus.request(name(SERVER), target("task/ping"));
        let trace = TraceContext(std::array::from_fn(|index| index as u8));
        for (request, expected) in [(ask().trace(trace), Some(trace)), (ask(), None)] {
            let reply = within(request.send()).await.unwrap();
            assert_eq!(reply.payload, format!("{:?}", expected.map(of_trace)));
        }
        net.finish().await;
    });
}
