//! Transfers while they go on: a bar for each receiver on a terminal, events for programs.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
};

use cellbus_cells::control::{Event, TransferEnd, TransferEvent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    output::{Format, print_event, print_text, printable, say},
    table,
};

const BAR: &str = "{prefix:>20} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
const COUNT: &str = "{prefix:>20} {bytes} {binary_bytes_per_sec}";

/// Shows what happens with transfers.
pub struct Show {
    format: Format,
    bars: Option<Bars>,
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    each: BTreeMap<(String, String), ProgressBar>,
}

impl Show {
    pub fn new(format: Format) -> Self {
        let is_seen = format == Format::Table && io::stderr().is_terminal();
        Self { format, bars: is_seen.then(Bars::default) }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Event) {
        if self.format == Format::Jsonl {
            return print_event(event);
        }
        let Event::Transfer(event) = event else {
            if let (Format::Table, Event::Ready { cell, of }) = (self.format, event) {
                self.say(&format!("{of} at {cell}; Ctrl-C ends it"));
            }
            return;
        };
        match event {
            TransferEvent::Progress { id, other, bytes, size, .. } => {
                let name = (id.clone(), other.to_string());
                if let Some(bars) = &mut self.bars {
                    bars.advance(name, *bytes, *size);
                }
            }
            TransferEvent::Ended(end) => {
                if let Some(bars) = &mut self.bars {
                    bars.remove(&(end.id.clone(), end.other.to_string()));
                }
                if self.format == Format::Table {
                    self.line(&line(end));
                }
            }
            TransferEvent::Served { reference: Some(reference), .. } => {
                if self.format == Format::Table {
                    self.line(reference);
                }
            }
            TransferEvent::Refused { other, text, .. } if self.format == Format::Table => {
                self.say(&format!("refused what {other} offers: {text}"));
            }
            TransferEvent::Served { reference: None, .. }
            | TransferEvent::Begun { .. }
            | TransferEvent::Refused { .. } => {}
        }
    }

    /// Nobody reading any more ends no transfer.
    fn line(&self, text: &str) {
        let print = || print_text(&printable(text));
        let _ = match &self.bars {
            Some(bars) => bars.all.suspend(print),
            None => print(),
        };
    }

    fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.all.suspend(|| say(&printable(text))),
            None => say(&printable(text)),
        }
    }
}

impl Bars {
    fn advance(&mut self, name: (String, String), bytes: u64, size: Option<u64>) {
        let all = &self.all;
        let bar = self.each.entry(name.clone()).or_insert_with(|| {
            let style = ProgressStyle::with_template(if size.is_some() { BAR } else { COUNT });
            let style = style.expect("a test draws the bars").progress_chars("=> ");
            all.add(ProgressBar::new(size.unwrap_or(0)).with_style(style).with_prefix(name.1))
        });
        if let Some(size) = size {
            bar.set_length(size);
        }
        bar.set_position(bytes);
    }

    fn remove(&mut self, name: &(String, String)) {
        if let Some(bar) = self.each.remove(name) {
            bar.finish_and_clear();
        }
    }
}

/// `stored relay.site-1 w.bin: 95.4 MiB in 1.20 s, 79.5 MiB/s, blake3 ab12..`
fn line(end: &TransferEnd) -> String {
    let TransferEnd { other, file, size, elapsed_ms, .. } = end;
    let size_text = size.map_or_else(|| "unknown size".to_owned(), table::bytes);
    if !end.stored {
        let (code, text) = (end.code.as_deref(), end.text.as_deref());
        return format!(
            "FAILED {other} {file}: {}: {}",
            code.unwrap_or("-"),
            text.unwrap_or("nobody said why")
        );
    }
    let seconds = seconds(*elapsed_ms);
    let rate = size.map(|size| table::bytes(per_second(size, *elapsed_ms)));
    format!(
        "stored {other} {file}: {size_text} in {seconds:.2} s, {}/s, blake3 {}",
        rate.as_deref().unwrap_or("-"),
        end.digest.as_deref().unwrap_or("-")
    )
}

#[expect(clippy::cast_precision_loss, reason = "a transfer takes less than 2^53 milliseconds")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn per_second(size: u64, ms: u64) -> u64 {
    let rate = u128::from(size) * 1000 / u128::from(ms.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_one_line_with_size_time_rate_and_digest_or_with_the_reason() {
        let mut end = TransferEnd {
            id: "00".to_owned(),
            other: "relay.site-1".parse().expect("a name"),
            file: "w.bin".to_owned(),
            stored: true,
            size: Some(3 << 20),
            digest: Some("ab".to_owned()),
            elapsed_ms: 1500,
            code: None,
            text: None,
        };
        let good = "stored relay.site-1 w.bin: 3.00 MiB in 1.50 s, 2.00 MiB/s, blake3 ab";
        assert_eq!(line(&end), good);
        end.stored = false;
        end.code = Some("STORAGE_FULL".to_owned());
        assert_eq!(line(&end), "FAILED relay.site-1 w.bin: STORAGE_FULL: nobody said why");
    }

    #[test]
    fn bars_can_be_drawn_with_and_without_a_size() {
        let mut bars = Bars::default();
        for size in [Some(10), None] {
            let name = ("00".to_owned(), format!("{size:?}"));
            bars.advance(name.clone(), 5, size);
            bars.remove(&name);
        }
        assert!(bars.each.is_empty());
    }
}
