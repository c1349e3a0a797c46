//! Text: topology files, and the names in certificates.

use std::ops::Range;

use cellbus_proto::{
    identity::Identity,
    name::{ChannelTopic, Fqcn},
    topology::{self, Problem, Severity},
};

/// A topology file. Bytes that are no UTF-8 are nobody's business here.
///
/// # Panics
/// When a problem lies outside the text, or a file is refused without one.
pub fn topology(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match topology::parse(text) {
        Ok(parsed) => {
            assert!(parsed.warnings.iter().all(|p| p.severity() == Severity::Warning));
            check_places(text, &parsed.warnings);
            let cells = parsed.topology.cells();
            assert!(
                cells.iter().all(|cell| parsed.topology.cell(cell.name.as_str()) == Some(cell))
            );
        }
        Err(problems) => {
            assert!(
                problems.iter().any(|p| p.severity() == Severity::Error),
                "refused, and no why"
            );
            check_places(text, &problems);
        }
    }
}

fn check_places(text: &str, problems: &[Problem]) {
    let lies_inside = |span: &Range<usize>| text.get(span.clone()).is_some();
    for problem in problems {
        assert!(lies_inside(&problem.span), "{problem} at {:?}", problem.span);
        let also = problem.also.as_ref().map(|also| &also.span);
        assert!(also.is_none_or(lies_inside), "{problem}, also at {also:?}");
        assert!(!problem.message.contains('\n'), "{problem:?}");
    }
}

/// The URI name of a certificate, and names of cells and topics.
///
/// # Panics
/// When a name that passed is not what was given.
pub fn identity_uri(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(identity) = Identity::from_uri(text) {
        assert_eq!(Identity::from_uri(&identity.to_uri()), Ok(identity));
    }
    if let Ok(name) = text.parse::<Fqcn>() {
        assert_eq!(name.as_str(), text);
        assert!(name.segments().count() == name.depth() && name.covers(&name));
        assert!(name.parent().is_none_or(|parent| parent.is_ancestor_of(&name)));
    }
    if let Ok(target) = text.parse::<ChannelTopic>() {
        assert_eq!(target.to_string(), text);
    }
}
