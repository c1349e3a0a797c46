//! `config`: what holds where a topology file is used, and where each value comes from.

use std::path::PathBuf;

use cellbus_cells::config;
use cellbus_proto::topology::{Setting, Source, Value as Held, effective};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    files,
    output::{Outcome, Success},
    table::Table,
    up,
};

/// Verbs of `config`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Shows every value that holds, defaults included
    Show(Show),
}

/// Arguments of `config show`.
#[derive(Args, Debug)]
pub struct Show {
    /// The topology file
    pub file: PathBuf,
    /// Show people where each value comes from; programs always see it
    #[arg(long)]
    pub origin: bool,
    /// State directory of the project, as for `up`
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// What `config show` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    /// The file.
    file: String,
    /// Its values, then those that do not stand in it.
    settings: Vec<Row>,
}

/// One value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// Its key.
    key: String,
    /// The value. A text that is not shown is `***`.
    value: Value,
    /// Unit of a figure; `null` where it has none.
    unit: Option<String>,
    /// Where it comes from.
    source: From,
    /// The line of the file, from 1.
    line: Option<u32>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum From {
    /// The file.
    File,
    /// An argument of this command.
    Argument,
    /// A variable of the environment.
    Environment,
    /// Nowhere: nothing says otherwise.
    Default,
}

/// Does what `verb` says.
pub fn run(verb: &Config) -> Outcome {
    match verb {
        Config::Show(args) => show(args),
    }
}

fn show(args: &Show) -> Outcome {
    let text = config::read_text(&args.file).map_err(|report| files::refused(&report))?;
    let file = args.file.display().to_string();
    let loaded = config::read(&file, &text).map_err(|report| files::refused(&report))?;
    files::show_warnings(loaded.warnings.as_ref(), false)?;
    let mut settings: Vec<Row> =
        effective(&loaded.topology, &text).into_iter().map(Row::from).collect();
    let state = up::state_root(args.state.clone(), &loaded.topology)?;
    let source = match &args.state {
        Some(_) => From::Argument,
        None => From::Environment,
    };
    let (key, value) = ("state".to_owned(), json!(state.display().to_string()));
    settings.push(Row { key, value, unit: None, source, line: None });
    let human = table(&settings, args.origin);
    Ok(Success::new(&Shown { file, settings }, human))
}

impl std::convert::From<Setting> for Row {
    fn from(setting: Setting) -> Self {
        let Setting { key, value, unit, source } = setting;
        let (source, line) = match source {
            Source::File { line } => (From::File, Some(line)),
            Source::Default => (From::Default, None),
        };
        let value = match value {
            Held::Text(text) => json!(text),
            Held::List(texts) => json!(texts),
            Held::Figure(figure) => json!(figure),
            Held::Flag(flag) => json!(flag),
        };
        let unit = (!unit.is_empty()).then(|| unit.to_owned());
        Self { key, value, unit, source, line }
    }
}

fn table(settings: &[Row], origin: bool) -> String {
    let mut narrow = Table::new(["KEY", "VALUE"]);
    let mut wide = Table::new(["KEY", "VALUE", "FROM"]);
    for row in settings {
        let value = shown(&row.value);
        if origin {
            wide.row([&row.key, &value, &row.source.text(row.line)]);
        } else {
            narrow.row([&row.key, &value]);
        }
    }
    if origin { wide.render() } else { narrow.render() }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(texts) if texts.is_empty() => "-".to_owned(),
        Value::Array(texts) => texts.iter().map(shown).collect::<Vec<_>>().join(" "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

impl From {
    fn text(self, line: Option<u32>) -> String {
        match (self, line) {
            (Self::File, Some(line)) => format!("line {line}"),
            (Self::File, None) => "file".to_owned(),
            (Self::Argument, _) => "argument".to_owned(),
            (Self::Environment, _) => "environment".to_owned(),
            (Self::Default, _) => "default".to_owned(),
        }
    }
}
