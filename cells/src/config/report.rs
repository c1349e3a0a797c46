//! Problems of a topology file, shown to people and to programs.

use std::{error::Error, fmt, ops::Range, sync::Arc};

use cellbus_proto::topology::{Code, Problem, Severity};
use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use serde_json::{Value, json};

/// Everything that is wrong or odd with one topology file.
///
/// As a [`Diagnostic`] it prints all findings at once, each with file, line, column, excerpt,
/// underline, code and help. A secret that stands in the file is in no excerpt.
#[derive(Debug)]
pub struct ConfigReport {
    file: String,
    findings: Vec<Finding>,
}

/// One problem, with its place as people count it.
#[derive(Debug)]
pub struct Finding {
    problem: Problem,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    line: usize,
    column: usize,
    shown: Arc<NamedSource<String>>,
}

impl ConfigReport {
    /// The report on `text`, which messages call `file`.
    #[must_use]
    pub fn new(file: &str, text: &str, problems: Vec<Problem>) -> Self {
        let shown = Arc::new(NamedSource::new(file, presentable(text, &problems)));
        let finding = |problem: Problem| {
            let (line, column) = position(text, problem.span.start);
            Finding { problem, place: Some(Place { line, column, shown: Arc::clone(&shown) }) }
        };
        Self { file: file.to_owned(), findings: problems.into_iter().map(finding).collect() }
    }

    /// The report on a file whose text is not known.
    pub(super) fn without_text(file: &str, problem: Problem) -> Self {
        Self { file: file.to_owned(), findings: vec![Finding { problem, place: None }] }
    }

    /// The file, as it was named.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The findings, in the order of the text.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many findings make the file unusable.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many findings leave the file usable.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.problem.severity() == severity).count()
    }

    /// The report for programs: `file`, `errors`, `warnings`, and `problems` with `code`,
    /// `severity`, `message`, `line`, `column` and `help`.
    ///
    /// Lines and columns count from 1, columns in characters; `null` where there is no place.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let problems: Vec<Value> = self.findings.iter().map(Finding::to_json).collect();
        json!({
            "file": self.file,
            "errors": self.errors(),
            "warnings": self.warnings(),
            "problems": problems,
        })
    }
}

impl Finding {
    /// The problem.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Its line, from 1, where it has one.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// Its column in characters, from 1, where it has one.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    fn to_json(&self) -> Value {
        let Problem { code, message, help, .. } = &self.problem;
        json!({
            "code": code.as_str(),
            "severity": self.problem.severity().to_string(),
            "message": message,
            "line": self.line(),
            "column": self.column(),
            "help": help,
        })
    }
}

impl fmt::Display for ConfigReport {
    /// `study.toml: 2 errors, 1 warning`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: usize, noun: &str| match count {
            0 => None,
            1 => Some(format!("1 {noun}")),
            _ => Some(format!("{count} {noun}s")),
        };
        let counts = [counted(self.errors(), "error"), counted(self.warnings(), "warning")];
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        write!(f, "{}: {}", self.file, counts.join(", "))
    }
}

impl Error for ConfigReport {}

impl Diagnostic for ConfigReport {
    fn severity(&self) -> Option<miette::Severity> {
        let worst = if self.errors() > 0 { Severity::Error } else { Severity::Warning };
        Some(shown_severity(worst))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.findings.iter().map(|finding| finding as &dyn Diagnostic)))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl Error for Finding {}

impl Diagnostic for Finding {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.problem.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(shown_severity(self.problem.severity()))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.problem.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        let place = self.place.as_ref()?;
        Some(&*place.shown)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.place.as_ref()?;
        let Problem { code, span, label, also, .. } = &self.problem;
        // These are about the file as a whole.
        if matches!(code, Code::TooLarge | Code::More) {
            return None;
        }
        let text = |label: &str| (!label.is_empty()).then(|| label.to_owned());
        let first = LabeledSpan::new_primary_with_span(text(label), span.clone());
        let second = also
            .as_ref()
            .map(|also| LabeledSpan::new_with_span(text(&also.label), also.span.clone()));
        Some(Box::new(std::iter::once(first).chain(second)))
    }
}

fn shown_severity(severity: Severity) -> miette::Severity {
    match severity {
        Severity::Error => miette::Severity::Error,
        Severity::Warning => miette::Severity::Warning,
    }
}

/// Line and column of a byte, both from 1, the column in characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

const HIDDEN: char = '*';
const UNPRINTABLE: char = '?';
const PEM_BEGIN: &str = "-----BEGIN";
const PEM_END: &str = "-----END";

/// The text as excerpts may show it, byte for byte as long: secrets hidden, and nothing in it that
/// a terminal would obey.
fn presentable(text: &str, problems: &[Problem]) -> String {
    let mut hidden: Vec<Range<usize>> = pem_blocks(text);
    let secrets = problems.iter().filter(|problem| problem.code == Code::Secret);
    hidden.extend(secrets.map(|problem| problem.span.clone()));
    hidden.sort_by_key(|range| range.start);
    let mut shown = String::with_capacity(text.len());
    let mut next = 0;
    let mut hidden_to = 0;
    for (at, c) in text.char_indices() {
        while let Some(range) = hidden.get(next).filter(|range| range.start <= at) {
            hidden_to = hidden_to.max(range.end);
            next += 1;
        }
        let crlf = c == '\r' && text[at + 1..].starts_with('\n');
        let instead = match c {
            '\n' => None,
            '\r' if crlf => None,
            _ if at < hidden_to => Some(HIDDEN),
            '\t' => None,
            _ if c.is_control() || turns_direction(c) => Some(UNPRINTABLE),
            _ => None,
        };
        match instead {
            Some(instead) => shown.extend(std::iter::repeat_n(instead, c.len_utf8())),
            None => shown.push(c),
        }
    }
    shown
}

/// Whether `c` is invisible and changes how its neighbours are shown.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        || c == '\u{feff}'
}

/// Keys and certificates, also in a text that is too broken to be read.
fn pem_blocks(text: &str) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find(PEM_BEGIN).map(|at| from + at) {
        let end = text[start..].find(PEM_END).map_or(text.len(), |at| start + at + PEM_END.len());
        blocks.push(start..end);
        from = end;
    }
    blocks
}
