//! Jobs with a part at a relay, which passes one mean on in place of what comes from below it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cellbus_channels::{
    Bus, ChannelTopic, Fqcn,
    local::connect_attached,
    task::{
        CONTENT_TYPE_TENSORS, Dtype, Given, Order, Tasking, Tasks, Tensor, Tensors, TensorsWriter,
        Verdict,
    },
};
use serde_json::Value;

use crate::driver::{Federation, Running, SOON, Study, outcome};

/// What cells offer: the combiner of this binary at the relay, and this very test at the server and the sites.
const PROGRAMS: &str = r#"
[[program]]
name = "combine"
cells = ["relay-a"]
builtin = "combine"
parameters = { quorum = "integer", grace_s = "integer" }

[[program]]
name = "book"
cells = ["server", "site-*"]
attach = true

[[program]]
name = "wait"
cells = ["server", "site-*"]
argv = ["sleep", "1000"]
"#;
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(50);
/// Numbers in the model: 8 MB.
const NUMBERS: u32 = 2_000_000;
const ROUNDS: u32 = 2;
/// Which sites take part, and how much each counts.
const SITES: [(&str, f64); 2] = [("relay-a.site-1", 1.0), ("relay-a.site-2", 3.0)];

fn job(study: &Study, name: &str, text: &str) -> PathBuf {
    let dir = study.cells.place.dir().join(format!("job-{name}"));
    std::fs::create_dir_all(&dir).expect("the place takes directories");
    std::fs::write(dir.join("job.toml"), format!("[job]\nname = \"{name}\"\n{text}"))
        .expect("the directory takes files");
    dir
}

/// A model of which each number is its own place times `factor`.
fn model(factor: f64) -> bytes::Bytes {
    let data = (0..NUMBERS).flat_map(|at| ((f64::from(at) * factor) as f32).to_le_bytes());
    let data: Vec<u8> = data.collect();
    let mut writer = TensorsWriter::default();
    let tensor = Tensor { dtype: Dtype::F32, shape: vec![NUMBERS.into()], data: data.into() };
    writer.push("w", &tensor).expect("it is as long as it says");
    writer.finish()
}

fn numbers(body: &bytes::Bytes) -> Vec<f32> {
    let tensors = Tensors::read(body).expect("named arrays");
    let data = tensors.0["w"].data.as_chunks::<4>().0;
    data.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

async fn surroundings(bus: &Bus) -> (Fqcn, Vec<Fqcn>) {
    let target = ChannelTopic::parse("job", "surroundings").expect("names");
    let reply = bus.request(bus.name(), target).send().await.expect("its own cell answers");
    let told: Value = serde_json::from_slice(&reply.payload).expect("an object");
    let cell = |name: &Value| name.as_str().expect("text").parse().expect("a cell");
    let sites = told["sites"].as_array().expect("names").iter().map(cell).collect();
    (cell(&told["server_cell"]), sites)
}

/// The server's part: two rounds, and what came of each, who from, and with which weight.
async fn hand_out(file: &Path) -> Vec<(Fqcn, f64, bytes::Bytes)> {
    let bus = connect_attached(file).await.expect("it is let in");
    let (_, sites) = surroundings(&bus).await;
    assert_eq!(sites, ["relay-a.mean".parse::<Fqcn>().expect("a cell")], "the relay, and no site");
    let tasks = Tasks::serve(&bus).await.expect("nobody else hands out");
    let mut results = Vec::new();
    for round in 0..ROUNDS {
        let order = Order::new("train", sites.clone(), 4 * SOON)
            .round(round, Some(ROUNDS))
            .body(CONTENT_TYPE_TENSORS, model(f64::from(round + 1)));
        let mut running = tasks.post(order);
        let result = running.next().await.expect("a result in time");
        results.push((result.site, result.weight.expect("a weight"), result.body));
        assert!(running.next().await.is_none(), "one of all");
    }
    tasks.close();
    assert!(tasks.farewell(&sites, SOON).await, "the relay asks again");
    assert!(bus.finish(SOON).await, "what it was told is on its way");
    results
}

/// A site's part: what it was given, times its weight.
async fn train(file: PathBuf, weight: f64) -> u32 {
    let bus = connect_attached(&file).await.expect("it is let in");
    let (server, _) = surroundings(&bus).await;
    assert_eq!(server.as_str(), "relay-a.mean", "work comes from the relay");
    let worker = Tasking::new(bus, server).expect("random bytes");
    let mut done = 0;
    while let Some(given) = next(&worker).await {
        let round = f64::from(given.task.round.expect("a round") + 1);
        assert!(given.body == model(round), "round {round} is not what the server handed out");
        let result = model(round * weight);
        let submitted = given
            .submit(Some(CONTENT_TYPE_TENSORS), &result, Some(weight), Default::default())
            .await;
        assert_eq!(submitted.expect("it arrives"), Verdict::Accepted);
        done += 1;
    }
    done
}

/// The next task of the combiner, which is a process that may have just been started.
async fn next(worker: &Tasking) -> Option<Given<'_>> {
    loop {
        match worker.next().await {
            Ok(given) => return given,
            Err(error) => assert!(error.to_string().contains("NO_HANDLER"), "{error}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Bytes that the relay has sent to the server, and received from it.
fn line(cells: &Federation) -> [u64; 2] {
    let links = cells.ask("relay-a", &["links"]).data();
    let rows = links.as_array().expect("rows");
    let up = rows.iter().find(|row| row["name"] == "server").expect("a link to the server");
    ["sent_bytes", "received_bytes"].map(|key| up[key].as_u64().expect("a figure"))
}

/// A running job with a combiner at the relay, and where programs of the server and of both sites attach.
fn begin() -> (Study, Running, [PathBuf; 3]) {
    let study = Study { cells: Federation::up_with(PROGRAMS) };
    let dir = job(
        &study,
        "mean",
        "[server]\nprogram = \"book\"\n[relay]\nprogram = \"combine\"\n[site]\nprogram = \"book\"\n",
    );
    let running = study.run(&dir);
    running.out.wait_json("a running job", 4 * SOON, |line| {
        (line["event"] == "job" && line["state"] == "running").then_some(())
    });
    let files = ["server", SITES[0].0, SITES[1].0].map(|cell| -> PathBuf {
        let meeting = study.ask(&["attach", "mean", "--at", cell, "--for", "300"]).data();
        meeting["file"].as_str().expect("a path").into()
    });
    (study, running, files)
}

/// To be kept until the job has ended: it goes on until the sites have said goodbye.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

#[test]
fn a_relay_that_the_job_asks_for_combines_and_one_model_crosses_its_line_each_way() {
    let (study, running, [server, first, second]) = begin();
    let sites = [(first, SITES[0].1), (second, SITES[1].1)];
    let before = line(&study.cells);
    let runtime = runtime();
    let (results, first, second) = runtime.block_on(async {
        let [one, two] = sites.map(|(file, weight)| train(file, weight));
        tokio::join!(hand_out(&server), one, two)
    });
    let after = line(&study.cells);
    assert_eq!((first, second), (ROUNDS, ROUNDS));
    let total: f64 = SITES.iter().map(|(_, weight)| weight).sum();
    let squares: f64 = SITES.iter().map(|(_, weight)| weight * weight).sum();
    for ((from, weight, body), round) in results.iter().zip(1_u32..) {
        assert_eq!((from.as_str(), *weight), ("relay-a.mean", total));
        // What it would be if everything had come to the server.
        let central = numbers(&model(f64::from(round) * squares / total));
        for (at, (mean, expected)) in numbers(body).iter().zip(&central).enumerate() {
            assert!((mean - expected).abs() <= expected * 1e-6, "{at}: {mean}, not {expected}");
        }
    }
    let object = 4 * u64::from(NUMBERS * ROUNDS);
    for (what, (before, after)) in ["up", "down"].iter().zip(before.iter().zip(after)) {
        let crossed = after - before;
        assert!(
            (object..object + object / 4).contains(&crossed),
            "{what}: {crossed} bytes for {ROUNDS} rounds of {NUMBERS} numbers"
        );
    }
    let exit = running.exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(0), "completed"), "{envelope}");
    assert_eq!(envelope["data"]["parts"].as_array().map(Vec::len), Some(4));
    study.assert_nothing_left();
}

/// The server's part where a site is slow: one round that it ends when a first result is there, and one to the end.
async fn go_on(file: &Path) -> bytes::Bytes {
    let bus = connect_attached(file).await.expect("it is let in");
    let (_, sites) = surroundings(&bus).await;
    let tasks = Tasks::serve(&bus).await.expect("nobody else hands out");
    let order = |round| {
        let order = Order::new("train", sites.clone(), 4 * SOON).round(round, Some(ROUNDS));
        order.body(CONTENT_TYPE_TENSORS, model(f64::from(round + 1)))
    };
    let first = tasks.post(order(0));
    while first.progress().values().all(|done| *done == 0.0) {
        first.changed().await;
    }
    drop(first);
    let mut second = tasks.post(order(1));
    let result = second.next().await.expect("a result in time");
    assert!(second.next().await.is_none(), "one of all");
    tasks.close();
    assert!(tasks.farewell(&sites, SOON).await, "the relay asks again");
    assert!(bus.finish(SOON).await, "what it was told is on its way");
    result.body
}

/// A site that does not finish its first task before nobody wants it any more. Gives what its results have met.
async fn dawdle(file: PathBuf) -> Vec<Verdict> {
    let bus = connect_attached(&file).await.expect("it is let in");
    let (server, _) = surroundings(&bus).await;
    let worker = Tasking::new(bus, server).expect("random bytes");
    let mut met = Vec::new();
    while let Some(given) = next(&worker).await {
        while given.task.round == Some(0)
            && given.outlook(0.1, None).await.expect("the relay answers") == Verdict::Accepted
        {
            tokio::time::sleep(AGAIN).await;
        }
        let result = model(10.0);
        let submitted = given.submit(Some(CONTENT_TYPE_TENSORS), &result, None, Default::default());
        met.push(submitted.await.expect("it arrives"));
    }
    met
}

#[test]
fn a_relay_lets_go_of_a_task_that_the_server_does_not_wait_for() {
    let (study, running, [server, quick, slow]) = begin();
    let runtime = runtime();
    let (mean, done, met) =
        runtime.block_on(async { tokio::join!(go_on(&server), train(quick, 1.0), dawdle(slow)) });
    assert_eq!((done, met), (ROUNDS, vec![Verdict::Late, Verdict::Accepted]));
    // Twice its place from one, ten times from the other.
    assert_eq!(numbers(&mean)[..3], [0.0, 6.0, 12.0]);
    let exit = running.exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(0), "completed"), "{envelope}");
    study.assert_nothing_left();
}

#[test]
fn a_relay_runs_nothing_that_it_does_not_offer_and_a_part_there_that_dies_ends_the_job() {
    let study = Study { cells: Federation::up_with(PROGRAMS) };
    let refuse = |relay: &str| {
        let text = format!("[server]\nprogram = \"wait\"\n{relay}\n[site]\nprogram = \"wait\"\n");
        let exit = study.run(&job(&study, "no", &text)).exit(2 * SOON);
        let envelope = exit.envelope();
        let message = envelope["message"].as_str().unwrap_or_default().to_owned();
        (envelope["error_code"].as_str().unwrap_or_default().to_owned(), message)
    };
    let (code, message) = refuse("[relay]\nprogram = \"wait\"");
    assert_eq!(code, "COMPONENT_NOT_ALLOWED", "{message}");
    assert!(message.starts_with("relay-a: "), "{message}");
    let (code, message) = refuse("[relay]\nprogram = \"combine\"\nrelays = [\"relay-b\"]");
    assert!(code == "JOB_INVALID" && message.contains("relay-b"), "{code}: {message}");
    study.assert_nothing_left();

    let text = "[server]\nprogram = \"wait\"\n[relay]\nprogram = \"combine\"\n[site]\nprogram = \"wait\"\n";
    let running = study.run(&job(&study, "dies", text));
    study.wait_running(&running);
    study.program("relay-a").signal(rustix::process::Signal::KILL);
    let exit = running.exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), "failed"), "{envelope}");
    let detail = envelope["data"]["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("relay-a: "), "{detail}");
    study.assert_nothing_left();
}
