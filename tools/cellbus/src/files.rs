//! The commands about topology files, and the one way in which every command reads one.

use std::path::Path;

use cellbus_cells::config::{self, ConfigReport, Format, Loaded};
use miette::{GraphicalReportHandler, GraphicalTheme};
use serde_json::{Value, json};

use crate::{
    args::{self, Drawing, SchemaOf},
    codes::CliCode,
    output::{Failure, Outcome, Success, say, stderr_is_colourful},
};

/// Reads a topology file.
///
/// # Errors
/// A failure with everything that is wrong with the file.
pub fn load(file: &Path) -> Result<Loaded, Box<Failure>> {
    config::load(file).map_err(|report| refused(&report))
}

/// `validate`.
pub fn validate(args: &args::Validate) -> Outcome {
    let Loaded { topology, warnings } = load(&args.file)?;
    let file = args.file.display().to_string();
    let problems = show_warnings(warnings.as_ref(), args.deny_warnings)?;
    let (cells, count) = (topology.cells().len(), warnings.map_or(0, |report| report.warnings()));
    let data = json!({
        "file": file,
        "project": topology.project,
        "cells": cells,
        "errors": 0,
        "warnings": count,
        "problems": problems,
    });
    let human = format!("{file}: project {}, {cells} cells, {count} warnings", topology.project);
    Ok(Success::new(&data, human))
}

/// Shows what is odd about a file to people, and gives it for programs.
///
/// # Errors
/// Where warnings are to count as errors, and there are some.
pub fn show_warnings(warnings: Option<&ConfigReport>, deny: bool) -> Result<Value, Box<Failure>> {
    let Some(report) = warnings else { return Ok(json!([])) };
    if deny {
        return Err(refused(report));
    }
    say(rendered(report).trim_end());
    Ok(report.to_json()["problems"].take())
}

/// `graph`.
pub fn graph(args: &args::Graph) -> Outcome {
    let topology = load(&args.file)?.topology;
    let (name, format) = match args.drawing {
        Drawing::Mermaid => ("mermaid", Format::Mermaid),
        Drawing::Dot => ("dot", Format::Dot),
    };
    let text = config::graph(&topology, format);
    Ok(Success::new(&json!({ "format": name, "text": text }), text))
}

/// `schema`.
pub fn schema(args: &args::Schema) -> Success {
    let schema = match args.of {
        SchemaOf::Topology => config::schema(),
        SchemaOf::Job => config::job_schema(),
    };
    let human = format!("{schema:#}");
    Success::new(&schema, human)
}

/// The failure that a report on a file is.
pub fn refused(report: &ConfigReport) -> Box<Failure> {
    let findings = report.findings().iter();
    let first = findings.map(|finding| finding.problem()).next();
    let failure = Failure::new(CliCode::Config, report.to_string()).data(&report.to_json());
    let hint = first.map(|problem| match &problem.help {
        Some(help) => format!("{}: {help}", problem.code),
        None => format!("`cellbus errors explain {}` says what the first one means", problem.code),
    });
    Box::new(Failure { report: Some(rendered(report)), hint, ..*failure })
}

fn rendered(report: &ConfigReport) -> String {
    let theme = if stderr_is_colourful() {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false);
    let mut text = String::new();
    handler.render_report(&mut text, report).expect("a string takes any text");
    text
}
