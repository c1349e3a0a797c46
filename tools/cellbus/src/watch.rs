//! Looking again and again.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    args::Watch,
    codes::CliCode,
    output::{Failure, Format, Human, Outcome, Success, print_text},
};

/// One look, as an event of `-o jsonl`.
#[derive(Serialize)]
struct LookEvent<'a> {
    event: &'static str,
    data: &'a Value,
}

/// Takes the cursor home and clears what is below.
const HOME_AND_CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Looks once, or as `watch` says, until Ctrl-C, until a look fails, or until nobody reads any more.
pub async fn run<L: Future<Output = Outcome>>(
    format: Format,
    watch: &Watch,
    mut look: impl FnMut() -> L,
) -> Outcome {
    let Some(every) = watch.watch else { return look().await };
    if format == Format::Json {
        let text = "`--watch` prints more than one envelope, and `-o json` is one";
        return Err(Failure::new(CliCode::Usage, text).hint("use `-o jsonl`"));
    }
    let mut looks = 0;
    let mut due = tokio::time::interval(every.max(Duration::from_millis(10)));
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while watch.times.is_none_or(|times| looks < times) {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => break,
            _ = due.tick() => {}
        }
        let success = look().await?;
        if show(format, looks, &success).is_err() {
            break;
        }
        looks += 1;
    }
    Ok(Success::new(&serde_json::json!({ "looks": looks }), String::new()))
}

fn show(format: Format, looks: u32, success: &Success) -> io::Result<()> {
    if format == Format::Jsonl {
        let event = LookEvent { event: "look", data: &success.data };
        return print_text(&serde_json::to_string(&event)?);
    }
    let Human::Text(text) = &success.human else { return Ok(()) };
    if io::stdout().is_terminal() {
        print_text(&format!("{HOME_AND_CLEAR}{text}"))
    } else {
        let space = if looks > 0 { "\n" } else { "" };
        print_text(&format!("{space}{text}"))
    }
}
