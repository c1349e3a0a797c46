//! Networks of many cells, as the harness reads them.

/// `count` sites directly below the server, `site-1` and up.
#[must_use]
pub fn star(count: usize) -> String {
    (1..=count).map(|site| format!("server -> site-{site}\n")).collect()
}

/// `relays` relays below the server, `relay-1` and up, with `leaves` sites below each. Sites are numbered
/// through, from `site-1`.
#[must_use]
pub fn two_levels(relays: usize, leaves: usize) -> String {
    let site = |relay: usize, leaf: usize| (relay - 1) * leaves + leaf;
    (1..=relays)
        .flat_map(|relay| (1..=leaves).map(move |leaf| (relay, leaf)))
        .map(|(relay, leaf)| format!("server -> relay-{relay} -> site-{}\n", site(relay, leaf)))
        .collect()
}
