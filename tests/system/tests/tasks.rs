//! The exchange of tasks: fetched, submitted, averaged; stale, late and broken results refused.
//!
//! Every scenario is run over links in memory and over QUIC on a simulated network.

use std::{collections::BTreeMap, time::Duration};

use cellbus_channels::{
    Bytes, Fqcn,
    task::{
        CONTENT_TYPE_TENSORS, Dtype, End, Order, Submitted, Tasking, Tasks, Tensor, Tensors,
        Verdict, WeightedMean,
    },
};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
const SITES: [&str; 3] = ["relay.site-1", "relay.site-2", "site-3"];
const MINUTE: Duration = Duration::from_secs(60);

fn scenario<F: Future<Output = ()>>(test: impl Fn(Net) -> F) {
    scenario_with(|_| {}, test);
}

fn scenario_with<F: Future<Output = ()>>(announce: fn(&LogGuard), test: impl Fn(Net) -> F) {
    for is_quic in [false, true] {
        let log = LogGuard::start();
        announce(&log);
        run_paused(1, async |seed| match is_quic {
            false => test(Net::up(seed, TREE).await).await,
            true => test(Net::over_quic(SimNet::new(seed), TREE).await).await,
        });
    }
}

fn sites(names: &[&str]) -> Vec<Fqcn> {
    names.iter().map(|name| name.parse().expect("a cell")).collect()
}

async fn tasks(net: &Net) -> Tasks {
    Tasks::serve(&net.cell("server").running.bus()).await.expect("nobody else serves it")
}

fn worker(net: &Net, cell: &str) -> Tasking {
    let server = "server".parse().expect("a cell");
    Tasking::new(net.cell(cell).running.bus(), server).expect("random bytes")
}

fn weights(values: &[f64]) -> Bytes {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor { dtype: Dtype::F64, shape: vec![values.len() as u64], data };
    Tensors(BTreeMap::from([("w".to_owned(), tensor)])).write().expect("they fit")
}

fn sound(result: &Submitted) -> Result<(), String> {
    let tensors = Tensors::read(&result.body).map_err(|error| error.to_string())?;
    let weight = result.weight.ok_or_else(|| "no weight".to_owned())?;
    WeightedMean::default().check(&tensors, weight).map_err(|error| error.to_string())
}

fn order(to: &[&str]) -> Order {
    Order::new("train", sites(to), MINUTE).body(CONTENT_TYPE_TENSORS, weights(&[0.0])).check(sound)
}

fn none() -> BTreeMap<String, f64> {
    BTreeMap::new()
}

#[test]
fn three_sites_train_two_rounds_and_are_told_that_it_is_over() {
    scenario(|net| async move {
        let tasks = tasks(&net).await;
        let train = |site: &'static str, add: f64| {
            let worker = worker(&net, site);
            async move {
                let mut rounds = Vec::new();
                while let Some(given) = worker.next().await.unwrap() {
                    let tensors = Tensors::read(&given.body).unwrap();
                    let data = tensors.0["w"].data.as_chunks::<8>().0[0];
                    given.progress(0.5, Some("half")).await.unwrap();
                    let result = weights(&[f64::from_le_bytes(data) + add]);
                    let tensors = Some(CONTENT_TYPE_TENSORS);
                    let verdict = given.submit(tensors, &result, Some(add), none()).await.unwrap();
                    assert_eq!(verdict, Verdict::Accepted);
                    rounds.push((given.task.round, given.task.attempt));
                }
                rounds
            }
        };
        let (one, two, three) = (train("site-1", 1.0), train("site-2", 2.0), train("site-3", 5.0));
        let workers = tokio::task::spawn_local(async { tokio::join!(one, two, three) });
        let mut model = weights(&[0.0]);
        for round in 0..2 {
            let order = order(&SITES).round(round, Some(2)).body(CONTENT_TYPE_TENSORS, model);
            let mut running = tasks.post(order);
            let mut mean = WeightedMean::default();
            while let Some(result) = running.next().await {
                mean.add(&Tensors::read(&result.body).unwrap(), result.weight.unwrap()).unwrap();
            }
            assert_eq!(running.end().await.end, End::Complete);
            model = mean.write().unwrap();
        }
        tasks.close();
        let (one, two, three) = workers.await.unwrap();
        for rounds in [one, two, three] {
            assert_eq!(rounds, [(Some(0), 1), (Some(1), 1)]);
        }
        // (1*1 + 2*2 + 5*5) / 8 = 3.75 a round
        assert_eq!(model, weights(&[7.5]));
        net.finish().await;
    });
}

#[test]
fn c_09_the_late_result_of_a_trainer_that_was_started_again_is_refused() {
    scenario(|net| async move {
        let tasks = tasks(&net).await;
        let mut running = tasks.post(order(&["site-3"]));
        let (first, second) = (worker(&net, "site-3"), worker(&net, "site-3"));
        let old = first.next().await.unwrap().unwrap();
        let new = second.next().await.unwrap().unwrap();
        assert_eq!((old.task.attempt, new.task.attempt), (1, 2));
        let body = weights(&[1.0]);
        assert_eq!(old.submit(None, &body, Some(1.0), none()).await.unwrap(), Verdict::Stale);
        assert_eq!(new.submit(None, &body, Some(2.0), none()).await.unwrap(), Verdict::Accepted);
        assert_eq!(new.submit(None, &body, Some(2.0), none()).await.unwrap(), Verdict::Before);
        let taken = running.next().await.unwrap();
        assert_eq!((taken.site.as_str(), taken.weight), ("site-3", Some(2.0)));
        assert_eq!(running.next().await, None);
        assert_eq!(new.submit(None, &body, Some(2.0), none()).await.unwrap(), Verdict::Before);
        net.finish().await;
    });
}

#[test]
fn s0_16_a_broken_result_is_told_by_tensor_and_may_be_brought_again() {
    scenario(|net| async move {
        let tasks = tasks(&net).await;
        let mut running = tasks.post(order(&["site-3"]));
        let worker = worker(&net, "site-3");
        let given = worker.next().await.unwrap().unwrap();
        let broken = weights(&[0.0, f64::NAN]);
        let verdict = given.submit(None, &broken, Some(1.0), none()).await.unwrap();
        let expected = "element 1 of tensor \"w\" is NaN".to_owned();
        assert_eq!(verdict, Verdict::Rejected(expected));
        let verdict = given.submit(None, &weights(&[1.0]), None, none()).await.unwrap();
        assert_eq!(verdict, Verdict::Rejected("no weight".to_owned()));
        assert_eq!(running.progress().values().collect::<Vec<_>>(), [&0.0], "nothing counts yet");
        let verdict = given.submit(None, &weights(&[1.0]), Some(1.0), none()).await.unwrap();
        assert_eq!(verdict, Verdict::Accepted);
        assert_eq!(running.next().await.unwrap().body, weights(&[1.0]));
        net.finish().await;
    });
}

#[test]
fn enough_results_end_a_task_and_the_straggler_is_late() {
    scenario(|net| async move {
        let tasks = tasks(&net).await;
        let mut running = tasks.post(order(&SITES).quorum(2, Duration::from_secs(5)));
        let slow = worker(&net, "site-3");
        let slow = slow.next().await.unwrap().unwrap();
        for site in ["site-1", "site-2"] {
            let worker = worker(&net, site);
            let given = worker.next().await.unwrap().unwrap();
            given.submit(None, &weights(&[1.0]), Some(1.0), none()).await.unwrap();
        }
        let end = running.end().await;
        assert_eq!((end.end, end.missing), (End::Enough, sites(&["site-3"])));
        let late = slow.submit(None, &weights(&[1.0]), Some(1.0), none()).await.unwrap();
        assert_eq!(late, Verdict::Late);
        net.finish().await;
    });
}

#[test]
fn nobody_who_comes_in_time_is_a_failure_that_names_all() {
    scenario(|net| async move {
        let tasks = tasks(&net).await;
        let mut running = tasks.post(order(&SITES));
        let end = running.end().await;
        assert_eq!((end.end, end.missing), (End::Failed, sites(&SITES)));
        net.finish().await;
    });
}

#[test]
fn a_worker_outlasts_the_loss_of_its_relay() {
    let announce: fn(&LogGuard) = |log| log.tolerate("link");
    scenario_with(announce, |mut net| async move {
        let tasks = tasks(&net).await;
        let mut running = tasks.post(order(&["relay.site-1"]));
        let worker = worker(&net, "site-1");
        let given = worker.next().await.unwrap().unwrap();
        net.crash("relay").await;
        let result = weights(&[3.0]);
        let submit = given.submit(None, &result, Some(1.0), none());
        let restart = async {
            net.restart("relay");
        };
        let (verdict, ()) = tokio::join!(submit, restart);
        assert_eq!(verdict.unwrap(), Verdict::Accepted);
        assert_eq!(running.next().await.unwrap().body, result);
        net.finish().await;
    });
}

#[test]
fn what_is_no_message_of_the_exchange_changes_nothing() {
    scenario(|net| async move {
        let tasks = tasks(&net).await;
        let running = tasks.post(order(&["site-3"]));
        let bus = net.cell("site-3").running.bus();
        for topic in ["fetch", "submit"] {
            let target = format!("task/{topic}").parse().unwrap();
            let request = bus.request("server".parse().unwrap(), target);
            let error = request.payload(&b"\xff\xff\xff\xffnothing"[..]).send().await.unwrap_err();
            assert!(error.to_string().contains("HANDLER_FAILED"), "{error}");
            assert!(error.to_string().contains("header"), "{error}");
        }
        assert_eq!(running.progress().values().collect::<Vec<_>>(), [&0.0]);
        drop(running);
        net.finish().await;
    });
}

#[test]
fn results_that_nobody_takes_are_bounded_in_bytes_and_the_next_one_waits_for_room() {
    scenario(|net| async move {
        let body = weights(&[1.0]);
        let bus = net.cell("server").running.bus();
        let tasks = Tasks::serve_within(&bus, body.len()).await.expect("nobody else serves it");
        let mut running = tasks.post(order(&SITES));
        let submit = |site: &'static str| {
            let (worker, body) = (worker(&net, site), body.clone());
            tokio::task::spawn_local(async move {
                let given = worker.next().await.unwrap().unwrap();
                given.progress(0.5, Some(&format!("{site} is half way"))).await.unwrap();
                given.submit(None, &body, Some(1.0), none()).await
            })
        };
        let first = submit("site-3");
        assert_eq!(first.await.unwrap().unwrap(), Verdict::Accepted);
        assert_eq!(running.said()[&sites(&["site-3"])[0]], "site-3 is half way");
        let second = submit(SITES[0]);
        tokio::time::sleep(MINUTE / 2).await;
        assert!(!second.is_finished(), "there is no room for it");
        assert_eq!(running.next().await.unwrap().site.as_str(), "site-3");
        assert_eq!(second.await.unwrap().unwrap(), Verdict::Accepted);
        // One that is larger than all the room passes alone.
        assert_eq!(running.next().await.unwrap().site.as_str(), SITES[0]);
        let large = weights(&[1.0; 8]);
        let worker = worker(&net, SITES[1]);
        let given = worker.next().await.unwrap().unwrap();
        let verdict = given.submit(None, &large, Some(1.0), none()).await.unwrap();
        assert_eq!(verdict, Verdict::Accepted);
        assert_eq!(running.next().await.unwrap().body, large);
        assert_eq!(running.end().await.end, End::Complete);
        assert!(running.said().is_empty(), "it has ended");
        drop(running);
        net.finish().await;
    });
}
