//! How far a program says that it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a program has said last about how far it is. Whatever it says is for people alone; nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartProgress {
    /// What it does, such as `train`.
    pub task: Option<String>,
    /// Which round of it, from 0.
    pub round: Option<u32>,
    /// How many rounds there are.
    pub rounds: Option<u32>,
    /// How much of this is done, in thousandths.
    pub done_permille: Option<u16>,
    /// What it says about it.
    pub text: Option<String>,
}

impl PartProgress {
    /// Bytes in the longest name of a task.
    pub const TASK_MAX: usize = 64;
    /// Bytes in the longest text.
    pub const TEXT_MAX: usize = 200;

    /// The same, short and without control characters: nobody who says it has to be believed.
    #[must_use]
    pub fn tidy(self) -> Self {
        let cut = |text: Option<String>, max: usize| {
            let mut text: String = text?.chars().filter(|c| !c.is_control()).collect();
            text.truncate(text.floor_char_boundary(max));
            (!text.is_empty()).then_some(text)
        };
        Self {
            task: cut(self.task, Self::TASK_MAX),
            text: cut(self.text, Self::TEXT_MAX),
            done_permille: self.done_permille.map(|done| done.min(1000)),
            ..self
        }
    }
}

impl fmt::Display for PartProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.task.iter().cloned().collect();
        // People count from one.
        words.extend(self.round.map(|round| {
            let (at, of) = (u64::from(round) + 1, self.rounds);
            of.map_or_else(|| format!("round {at}"), |of| format!("round {at} of {of}"))
        }));
        words.extend(self.done_permille.map(|done| format!("{} %", done / 10)));
        words.extend(self.text.iter().cloned());
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_is_one_line_for_people() {
        let said = PartProgress {
            task: Some("train".into()),
            round: Some(2),
            rounds: Some(10),
            done_permille: Some(505),
            text: Some("loss 0.25".into()),
        };
        assert_eq!(said.to_string(), "train, round 3 of 10, 50 %, loss 0.25");
        assert_eq!(PartProgress::default().to_string(), "");
    }

    #[test]
    fn j_32_a_progress_is_short_and_prints_nothing_but_text() {
        let said = PartProgress {
            task: Some("\u{1b}[2J\n".into()),
            done_permille: Some(u16::MAX),
            text: Some("ä".repeat(500)),
            ..PartProgress::default()
        };
        let tidy = said.tidy();
        assert_eq!(tidy.task.as_deref(), Some("[2J"));
        assert_eq!(tidy.done_permille, Some(1000));
        assert_eq!(tidy.text.as_ref().map(String::len), Some(PartProgress::TEXT_MAX));
        let empty = PartProgress { text: Some("\n".into()), ..PartProgress::default() };
        assert_eq!(empty.tidy(), PartProgress::default());
    }
}
