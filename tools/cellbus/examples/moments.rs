//! Job code in Rust: mean and deviation of columns whose rows lie at several sites, none of which shows its rows.
//!
//! The same program is the part at the server, `moments server`, and the one at every site, `moments site FILE`. The
//! server hands out two tasks, one for the means and one for the squares of what differs from them; every site asks
//! what came of it. `docs/JOBS.md` says how it is run.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a program of a job prints are the lines of its log"
)]

use std::{collections::BTreeMap, error::Error, fs, process::ExitCode, sync::Arc, time::Duration};

use cellbus_channels::{
    Bus, Bytes, Endpoint, Failure, Fqcn, local,
    task::{
        CONTENT_TYPE_TENSORS, Dtype, End, Order, Tasking, Tasks, Tensor, Tensors, Verdict,
        WeightedMean,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

type Failed = Box<dyn Error + Send + Sync>;

/// Time for the work of one task.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the server knows of a column.
const ASK: Endpoint<Column, Moments> = Endpoint::new("moments", "ask");

/// The number of a column, from 0.
#[derive(Serialize, Deserialize)]
struct Column(usize);

/// Over the rows of all sites.
#[derive(Clone, Serialize, Deserialize)]
struct Moments {
    mean: f64,
    deviation: f64,
    rows: f64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Failed::from).and_then(|runtime| {
        runtime.block_on(async {
            match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["server"] => {
                    let bus = local::from_env().await?;
                    serve(&bus).await?;
                    // The sites have been told that it is over; only now it is on its way to all of them.
                    bus.finish(PATIENCE).await;
                    Ok(())
                }
                ["site", file] => work(local::from_env().await?, file).await,
                _ => Err("moments server | moments site FILE".into()),
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moments: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The part at the server.
async fn serve(bus: &Bus) -> Result<(), Failed> {
    let sites = std::env::var("CELLBUS_SITES")?;
    let sites: Vec<Fqcn> = sites.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let tasks = Tasks::serve(bus).await?;
    // Who asks before it is known waits for it.
    let known = watch::Sender::new(None::<Arc<[Moments]>>);
    let asking = known.clone();
    bus.serve(&ASK, move |Column(number), _origin| {
        let mut known = asking.subscribe();
        async move {
            let known = known.wait_for(Option::is_some).await;
            let known =
                known.map_err(|_| Failure::failed("the work has ended without a result"))?;
            let columns = known.as_deref().unwrap_or_default();
            columns.get(number).cloned().ok_or_else(|| Failure::failed("there is no such column"))
        }
    })
    .await?;

    let (means, _) = mean_of(&tasks, &sites, 0, Bytes::new()).await?;
    let (squares, rows) = mean_of(&tasks, &sites, 1, arrays(&means)?).await?;
    let found = means.iter().zip(&squares);
    let found = found.map(|(&mean, square)| Moments { mean, deviation: square.sqrt(), rows });
    known.send_replace(Some(found.collect()));
    println!("{} columns of {rows} rows at {} sites", means.len(), sites.len());
    tasks.close();
    match tasks.farewell(&sites, PATIENCE).await {
        true => Ok(()),
        false => Err("a site has not heard that the work is over".into()),
    }
}

/// Has every site do its part of a round, and gives the mean of what they bring by their rows, and how many those are.
async fn mean_of(
    tasks: &Tasks,
    sites: &[Fqcn],
    round: u32,
    body: Bytes,
) -> Result<(Vec<f64>, f64), Failed> {
    let order = Order::new("moments", sites.to_vec(), PATIENCE)
        .round(round, Some(2))
        .body(CONTENT_TYPE_TENSORS, body);
    let mut running = tasks.post(order);
    let mut mean = WeightedMean::default();
    while let Some(result) = running.next().await {
        mean.add(&Tensors::read(&result.body)?, result.weight.ok_or("no weight")?)?;
    }
    if running.end().await.end != End::Complete {
        return Err("not every site has brought its part".into());
    }
    let rows = mean.weight();
    Ok((numbers(&mean.finish()?)?, rows))
}

/// The part at a site.
async fn work(bus: Bus, file: &str) -> Result<(), Failed> {
    let server: Fqcn = std::env::var("CELLBUS_SERVER_CELL")?.parse()?;
    let rows = read(file)?;
    let count = rows.len() as f64;
    let columns = rows[0].len();
    let worker = Tasking::new(bus.clone(), server.clone())?.telling_job();
    while let Some(given) = worker.next().await? {
        let (means, power) = match given.task.round {
            Some(0) => (vec![0.0; columns], 1),
            _ => (numbers(&Tensors::read(&given.body)?)?, 2),
        };
        if means.len() != columns {
            return Err(
                format!("{} columns are asked for, {file} has {columns}", means.len()).into()
            );
        }
        let mut sums = vec![0.0; columns];
        for row in &rows {
            for (sum, (value, mean)) in sums.iter_mut().zip(row.iter().zip(&means)) {
                *sum += (value - mean).powi(power);
            }
        }
        let own: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
        let verdict = given
            .submit(Some(CONTENT_TYPE_TENSORS), &arrays(&own)?, Some(count), BTreeMap::new())
            .await?;
        if verdict != Verdict::Accepted {
            return Err(
                format!("the result of {} does not count: {verdict:?}", given.task.name).into()
            );
        }
        if power == 2 {
            let number = columns / 2;
            // It is answered when the slowest site has brought its part.
            let (column, budget) = (Column(number), Some(PATIENCE));
            let of_all = bus.call_within(&ASK, server.clone(), &column, budget).await?;
            let Moments { mean, deviation, rows } = of_all;
            println!(
                "column {number}: mean {mean:.4}, deviation {deviation:.4}, {count} of {rows} rows"
            );
        }
    }
    Ok(())
}

/// Rows of numbers between commas, all of one length, and at least one.
fn read(file: &str) -> Result<Vec<Vec<f64>>, Failed> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let row: Result<Vec<f64>, _> = text.split(',').map(|field| field.trim().parse()).collect();
        let row = row.map_err(|error| format!("{file}, line {line}: {error}"))?;
        if rows.first().is_some_and(|first| first.len() != row.len()) {
            return Err(
                format!("{file}, line {line}: {} numbers, not as the first", row.len()).into()
            );
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(format!("{file} has no row").into());
    }
    Ok(rows)
}

/// One array, as it travels.
fn arrays(numbers: &[f64]) -> Result<Bytes, Failed> {
    let data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let tensor = Tensor { dtype: Dtype::F64, shape: vec![numbers.len() as u64], data };
    Ok(Tensors(BTreeMap::from([("columns".to_owned(), tensor)])).write()?)
}

/// The one array of [`arrays`].
fn numbers(tensors: &Tensors) -> Result<Vec<f64>, Failed> {
    let tensor = tensors.0.get("columns").filter(|tensor| tensor.dtype == Dtype::F64);
    let data = tensor.ok_or("no array of doubles named `columns`")?.data.as_chunks::<8>().0;
    Ok(data.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}
