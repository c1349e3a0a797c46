//! `top`: a running cell while it works, looked at every second.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use cellbus_cells::control::{CellRow, LinkRow, Request, StatsReply};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::{
    args::Target,
    codes::CliCode,
    output::{Failure, Outcome, Success},
    target::ask,
};

mod view;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// What one look found.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    stats: StatsReply,
    links: Vec<LinkRow>,
    cells: Vec<CellRow>,
}

/// The last two looks.
#[derive(Debug)]
struct Model {
    now: Sample,
    before: Option<Sample>,
}

/// `top`.
pub async fn run(target: Target) -> Outcome {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let failure =
            Failure::new(CliCode::NoTerminal, "`top` draws on a terminal, and this is none");
        return Err(failure.hint("`cellbus stats --watch -o jsonl` gives the same figures"));
    }
    let mut model = Model { now: look(&target).await?, before: None };
    let mut terminal = ratatui::try_init().map_err(|error| no_terminal(&error))?;
    let outcome = show(&target, &mut model, &mut terminal).await;
    ratatui::restore();
    outcome?;
    Ok(Success::new(&serde_json::json!({}), String::new()))
}

async fn look(target: &Target) -> Result<Sample, Box<Failure>> {
    let stats: Box<StatsReply> = ask(target, Request::Stats).await?;
    let links = ask(target, Request::Links).await?;
    let cells = ask(target, Request::Cells).await?;
    Ok(Sample { at: Instant::now(), stats: *stats, links, cells })
}

async fn show(
    target: &Target,
    model: &mut Model,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), Box<Failure>> {
    loop {
        terminal.draw(|frame| view::draw(frame, model)).map_err(|error| no_terminal(&error))?;
        let end = Instant::now() + EVERY;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if !event::poll(left).map_err(|error| no_terminal(&error))? {
                break;
            }
            match event::read().map_err(|error| no_terminal(&error))? {
                Event::Key(key) if ends(key) => return Ok(()),
                Event::Resize(..) => {
                    let drawn = terminal.draw(|frame| view::draw(frame, model));
                    drawn.map_err(|error| no_terminal(&error))?;
                }
                Event::Key(_)
                | Event::Mouse(_)
                | Event::Paste(_)
                | Event::FocusGained
                | Event::FocusLost => {}
            }
        }
        let next = look(target).await?;
        model.before = Some(std::mem::replace(&mut model.now, next));
    }
}

/// Whether a key ends it: q, Esc or Ctrl-C, which comes as a key here.
fn ends(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && (matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
            || (control && key.code == KeyCode::Char('c')))
}

fn no_terminal(error: &io::Error) -> Box<Failure> {
    Failure::new(CliCode::NoTerminal, format!("the terminal cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_end_it_and_nothing_else_does() {
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        assert!(ends(key(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(ends(key(KeyCode::Esc, KeyModifiers::NONE)));
        assert!(ends(key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!ends(key(KeyCode::Char('c'), KeyModifiers::NONE)));
        assert!(!ends(key(KeyCode::Enter, KeyModifiers::NONE)));
    }
}
