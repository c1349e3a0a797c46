//! Draws a topology as a tree, in the languages of two common drawing tools.

use std::fmt::Write;

use cellbus_proto::{
    identity::CellKind,
    topology::{CellSpec, Topology},
};

/// The language of a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Mermaid, which many Markdown viewers draw.
    Mermaid,
    /// The language of Graphviz.
    Dot,
}

/// Draws the cells of `topology`, parents above children: kind by shape, each with its name, path
/// and listen address.
///
/// Names hold no character that either language treats specially.
#[must_use]
pub fn graph(topology: &Topology, format: Format) -> String {
    match format {
        Format::Mermaid => mermaid(topology),
        Format::Dot => dot(topology),
    }
}

fn mermaid(topology: &Topology) -> String {
    let mut out = format!("---\ntitle: {}\n---\nflowchart TD\n", topology.project);
    for (index, cell) in topology.cells().iter().enumerate() {
        let (open, close) = match cell.kind {
            CellKind::Server => ("{{", "}}"),
            CellKind::Relay => ("[", "]"),
            CellKind::Client | CellKind::Admin | CellKind::Job => ("(", ")"),
        };
        let label = lines_of(cell).join("<br/>");
        push(&mut out, format_args!("  c{index}{open}\"{label}\"{close}"));
    }
    for (above, below) in edges(topology) {
        push(&mut out, format_args!("  c{above} --- c{below}"));
    }
    out
}

fn dot(topology: &Topology) -> String {
    let mut out = format!("graph \"{}\" {{\n  node [fontname=\"sans-serif\"];\n", topology.project);
    for (index, cell) in topology.cells().iter().enumerate() {
        let shape = match cell.kind {
            CellKind::Server => "hexagon",
            CellKind::Relay => "box",
            CellKind::Client | CellKind::Admin | CellKind::Job => "ellipse",
        };
        let label = lines_of(cell).join("\\n");
        push(&mut out, format_args!("  c{index} [shape={shape}, label=\"{label}\"];"));
    }
    for (above, below) in edges(topology) {
        push(&mut out, format_args!("  c{above} -- c{below};"));
    }
    out.push_str("}\n");
    out
}

fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("a string takes any text");
}

/// What a drawing says about a cell, line by line.
fn lines_of(cell: &CellSpec) -> Vec<String> {
    let mut lines = vec![cell.name.to_string()];
    if cell.fqcn.as_str() != cell.name.as_str() {
        lines.push(cell.fqcn.to_string());
    }
    lines.extend(cell.listen.map(|listen| listen.to_string()));
    lines
}

/// Parent and child of each link, as indices into the cells.
fn edges(topology: &Topology) -> Vec<(usize, usize)> {
    let cells = topology.cells();
    let by_name: std::collections::BTreeMap<&str, usize> =
        cells.iter().enumerate().map(|(index, cell)| (cell.name.as_str(), index)).collect();
    let parent = |cell: &CellSpec| by_name.get(cell.parent.as_ref()?.as_str()).copied();
    let links = cells.iter().enumerate();
    links.filter_map(|(index, cell)| Some((parent(cell)?, index))).collect()
}
