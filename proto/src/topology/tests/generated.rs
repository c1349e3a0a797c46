//! Valid files, generated: they parse, and what they state comes out unchanged.

use super::*;

/// A tree: for each cell after the server, the index of its parent among the cells that may have
/// children, and whether it is a relay.
fn any_tree() -> impl Strategy<Value = Vec<(prop::sample::Index, bool)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..12)
}

/// A figure within its bounds for some of the limits, so that all rules between them hold.
fn any_limits() -> impl Strategy<Value = Vec<(&'static str, u64)>> {
    let free = [
        "budget_default_ms",
        "hops_max",
        "header_max_bytes",
        "handlers_max",
        "handshake_deadline_ms",
        "challenge_ttl_ms",
        "token_ttl_s",
        "send_window_bytes",
        "socket_buffer_bytes",
        "drain_deadline_ms",
    ];
    let spec = |key| *Limits::SPECS.iter().find(|spec| spec.key == key).unwrap();
    let one = prop::sample::select(free.map(spec).to_vec())
        .prop_flat_map(|spec| (Just(spec.key), spec.floor..=spec.ceiling));
    let windows = (1_u64..=16, 1_u64..=16, 65_536_u64..=1 << 20, 0_u64..=1 << 20).prop_map(
        |(uni, bidi, stream, spare)| {
            let receive = (uni + 2 * bidi) * stream + Limits::LANE_RESERVE_BYTES + spare;
            vec![
                ("uni_streams_max", uni),
                ("bidi_streams_max", bidi),
                ("stream_receive_window_bytes", stream),
                ("receive_window_bytes", receive.max(1_310_720)),
            ]
        },
    );
    (prop::collection::btree_map(0..free.len(), one, 0..6), prop::option::of(windows)).prop_map(
        |(figures, windows)| {
            let mut all: BTreeMap<_, _> = figures.into_values().collect();
            all.extend(windows.into_iter().flatten());
            all.into_iter().collect()
        },
    )
}

/// Any figures at all for what the lane rule is about.
fn any_windows() -> impl Strategy<Value = [u64; 4]> {
    [0_u64..300, 0_u64..300, 0_u64..1 << 25, 0_u64..1 << 29]
}

proptest! {
    #[test]
    fn a_valid_file_parses_and_says_what_was_written(
        tree in any_tree(),
        limits in any_limits(),
        dev in any::<bool>(),
    ) {
        let mut text = format!("[project]\nname = \"study\"\ndev = {dev}\n");
        text += "[[cell]]\nname = \"hub\"\nkind = \"server\"\nlisten = \"[::1]:0\"\n";
        // Name and depth of what can have children.
        let mut parents = vec![("hub".to_owned(), 0)];
        let mut expected = vec![("hub".to_owned(), None)];
        for (index, (parent, is_relay)) in tree.iter().enumerate() {
            let (parent, depth) = parent.get(&parents).clone();
            let name = format!("c{}", char::from(b'a' + u8::try_from(index).unwrap()));
            let is_relay = *is_relay && depth < Fqcn::MAX_SEGMENTS - 2;
            let (kind, listen) =
                if is_relay { ("relay", "listen = \"127.0.0.1:0\"\n") } else { ("client", "") };
            text += &format!("[[cell]]\nname = '{name}'\nkind = '{kind}'\nparent = '{parent}'\n{listen}");
            text += &format!("[[allow]]\nfrom = '{name}'\nto = 'c*'\nchannel = 'c'\ntopics = ['t']\n");
            if is_relay {
                parents.push((name.clone(), depth + 1));
            }
            expected.push((name, Some(parent)));
        }
        text += "[limits]\n";
        for (key, figure) in &limits {
            text += &format!("{key} = {figure}\n");
        }
        let Parsed { topology, warnings } = parsed(&text);
        prop_assert_eq!(warnings, []);
        prop_assert_eq!(topology.dev, dev);
        let found: Vec<_> = topology
            .cells()
            .iter()
            .map(|cell| (cell.name.to_string(), cell.parent.as_ref().map(Segment::to_string)))
            .collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(topology.rules.len(), tree.len());
        for cell in topology.cells() {
            match &cell.parent {
                Some(parent) => {
                    let above = &topology.cell(parent.as_str()).unwrap().fqcn;
                    prop_assert!(topology.is_child_of(above, cell.name.as_str()));
                    let is_path = above.is_ancestor_of(&cell.fqcn);
                    prop_assert!(is_path || above == &topology.server().fqcn);
                }
                None => prop_assert_eq!(cell.kind, CellKind::Server),
            }
            prop_assert_eq!(cell.fqcn.base(), cell.name.as_str());
        }
        for (key, figure) in topology.limits.figures() {
            let written = limits.iter().find(|(written, _)| *written == key);
            let spec = Limits::SPECS.iter().find(|spec| spec.key == key).unwrap();
            prop_assert_eq!(figure, written.map_or(spec.default, |(_, figure)| *figure));
        }
    }

    #[test]
    fn no_valid_file_breaks_the_lane_rule([uni, bidi, stream, window] in any_windows()) {
        let text = format!(
            "{SERVER}[limits]\nuni_streams_max = {uni}\nbidi_streams_max = {bidi}\n\
             stream_receive_window_bytes = {stream}\nreceive_window_bytes = {window}\n"
        );
        let holds = (uni + 2 * bidi) * stream + (1 << 20) <= window;
        match parse(&text) {
            Ok(Parsed { topology: Topology { limits, .. }, .. }) => {
                prop_assert!(holds);
                prop_assert!(limits.lane_rule_bytes() <= u64::from(limits.receive_window_bytes));
            }
            Err(problems) => {
                let in_range = problems.iter().all(|problem| problem.code == Code::LaneRule);
                prop_assert!(!in_range || !holds);
            }
        }
    }

    #[test]
    fn no_valid_file_has_timers_that_end_live_links(
        interval in 100_u64..30_000,
        deadline in 200_u64..60_000,
        idle in 1_000_u64..120_000,
        keep_alive in 100_u64..60_000,
    ) {
        let text = format!(
            "{SERVER}[limits]\nbeat_interval_ms = {interval}\nbeat_deadline_ms = {deadline}\n\
             idle_timeout_ms = {idle}\nkeep_alive_ms = {keep_alive}\n"
        );
        let holds = interval < deadline && deadline < idle && keep_alive < idle;
        prop_assert_eq!(parse(&text).is_ok(), holds);
    }
}
