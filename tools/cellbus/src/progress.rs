//! The demo while it runs: a bar on a terminal, lines elsewhere, events for programs.

use std::io::{self, IsTerminal};

use cellbus_cells::learning::report::DemoEvent;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    output::{Format, print_event, printable, say},
    table,
};

const BAR: &str = "{prefix:>10} [{bar:30}] {pos:>3}/{len} {msg}";

/// Shows what happens in the demo.
pub struct Progress {
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines,
    Events,
    Nothing,
}

impl Progress {
    /// Progress in this format: for tables a bar on a terminal and lines elsewhere, both on stderr.
    pub fn new(format: Format) -> Self {
        let shown = match format {
            Format::Json => Shown::Nothing,
            Format::Jsonl => Shown::Events,
            Format::Table if io::stderr().is_terminal() => Shown::Bar(bar()),
            Format::Table => Shown::Lines,
        };
        Self { shown }
    }

    /// Shows one event.
    pub fn show(&self, event: &DemoEvent) {
        match (&self.shown, event) {
            (Shown::Nothing, _) => {}
            (Shown::Events, event) => print_event(event),
            (Shown::Bar(bar), DemoEvent::Round { round, of, .. }) => {
                bar.set_length(u64::from(*of));
                bar.set_position(u64::from(*round));
                bar.set_prefix("training");
                bar.set_message(line(event));
            }
            (Shown::Bar(bar), event) => bar.suspend(|| say(&line(event))),
            (Shown::Lines, event) => say(&line(event)),
        }
    }

    /// Leaves the bar as it is and the terminal to others.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.abandon();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template(BAR).expect("a test draws the bar");
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

fn line(event: &DemoEvent) -> String {
    printable(&match event {
        DemoEvent::Phase { name } => format!("{name} ..."),
        DemoEvent::Round { round, of, loss, accuracy, bytes, elapsed_ms } => format!(
            "round {round}/{of}: loss {loss:.4}, accuracy {:.1} %, {}, {elapsed_ms} ms",
            accuracy * 100.0,
            table::bytes(*bytes),
        ),
        DemoEvent::Check { name, ok, detail } => {
            format!("{} {name}: {detail}", if *ok { "ok    " } else { "FAILED" })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_shown_in_every_format() {
        let event = DemoEvent::Phase { name: "start".to_owned() };
        let shown = [Shown::Bar(bar()), Shown::Lines, Shown::Events, Shown::Nothing];
        for progress in shown.map(|shown| Progress { shown }) {
            progress.show(&event);
            progress.finish();
        }
        assert!(matches!(Progress::new(Format::Json).shown, Shown::Nothing));
        assert!(matches!(Progress::new(Format::Jsonl).shown, Shown::Events));
    }

    #[test]
    fn the_bar_and_the_lines_can_be_drawn() {
        bar().finish();
        let round = DemoEvent::Round {
            round: 3,
            of: 50,
            loss: 1.5,
            accuracy: 0.912,
            bytes: 2048,
            elapsed_ms: 12,
        };
        assert_eq!(line(&round), "round 3/50: loss 1.5000, accuracy 91.2 %, 2.00 KiB, 12 ms");
        let check = DemoEvent::Check { name: "a".into(), ok: false, detail: "b\x1b".into() };
        assert_eq!(line(&check), "FAILED a: b\\u{1b}");
    }
}
