//! Whatever may go wrong, at random and together; and then all is well again.

use std::time::Duration;

use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::for_each_seed,
    sim::{LinkSettings, SimNet},
};
use cellbus_sim::{figures::show, ledger::Work, load::Load, trees::two_levels, views::until};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BUDGET: Duration = Duration::from_secs(6);
const LINKS: [(&str, &str); 8] = [
    ("relay-1", "server"),
    ("relay-2", "server"),
    ("relay-1.site-1", "relay-1"),
    ("relay-1.site-2", "relay-1"),
    ("relay-1.site-3", "relay-1"),
    ("relay-2.site-4", "relay-2"),
    ("relay-2.site-5", "relay-2"),
    ("relay-2.site-6", "relay-2"),
];
const CELLS: [&str; 9] = [
    "server",
    "relay-1",
    "relay-2",
    "relay-1.site-1",
    "relay-1.site-2",
    "relay-1.site-3",
    "relay-2.site-4",
    "relay-2.site-5",
    "relay-2.site-6",
];

/// Which faults a seed has; each seed has only some of them.
struct Faults {
    weather: bool,
    cuts: bool,
    one_way: bool,
    kills: bool,
    filters: bool,
}

impl Faults {
    fn of(rng: &mut ChaCha8Rng) -> Self {
        let mut some = || rng.random_bool(0.6);
        Self { weather: some(), cuts: some(), one_way: some(), kills: some(), filters: some() }
    }
}

async fn serve(net: &Net, load: &Load, name: &str) {
    load.ledger().serve(net.cell(name), "task/ping", Work::AtOnce).await;
    let work = Work::Lasting(Duration::from_millis(700));
    load.ledger().serve(net.cell(name), "task/slow", work).await;
}

/// Half a minute of trouble.
async fn trouble(net: &mut Net, sim: &SimNet, load: &Load, rng: &mut ChaCha8Rng) {
    let faults = Faults::of(rng);
    let mut dead: Option<(&str, u32)> = None;
    for step in 0..120 {
        for _ in 0..4 {
            let (from, to) = (rng.random_range(0..9), rng.random_range(0..9));
            let target = if rng.random_bool(0.3) { "task/slow" } else { "task/ping" };
            if dead.is_none_or(|(name, _)| name != CELLS[from]) {
                load.send(net.cell(CELLS[from]), CELLS[to], target, BUDGET);
            }
        }
        let (child, parent) = LINKS[rng.random_range(0..LINKS.len())];
        match rng.random_range(0..30) {
            0 if faults.weather => sim.set_default(LinkSettings {
                loss: rng.random_range(0.0..0.1),
                duplicate: 0.02,
                corrupt: 0.01,
                reorder: true,
                ..LinkSettings::default()
            }),
            1 | 2 if faults.cuts => net.cut(child, parent),
            3 if faults.one_way => net.cut_one_way(child, parent),
            4 if faults.one_way => net.cut_one_way(parent, child),
            5..=9 => net.heal(child, parent),
            10 if faults.kills && dead.is_none() => {
                net.crash(child).await;
                dead = Some((child, step));
            }
            11 if faults.filters && dead.is_none() => net.cell(child).running.crash_filter(),
            _ => {}
        }
        if let Some((name, since)) = dead.filter(|(_, since)| step - since > 20) {
            net.restart(name);
            serve(net, load, name).await;
            dead = None;
            let _ = since;
        }
        net.advance(Duration::from_millis(250)).await;
    }
    if let Some((name, _)) = dead {
        net.restart(name);
        serve(net, load, name).await;
    }
    sim.set_default(LinkSettings::default());
    sim.heal_all();
}

#[test]
fn f_44_after_any_trouble_every_request_has_ended_and_everybody_is_back() {
    let log = LogGuard::start();
    log.tolerate("an actor ended; the cell starts again");
    // A path that is cut right after the handshake looks the same as a peer that never says HELLO.
    log.tolerate("no HELLO in time");
    let seeds: Vec<u64> = (1..=40).chain([489]).collect();
    for_each_seed(&seeds, |seed| async move {
        let sim = SimNet::new(seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut net = Net::over_quic(sim.clone(), &two_levels(2, 3)).await;
        let load = Load::default();
        for name in CELLS {
            serve(&net, &load, name).await;
        }
        trouble(&mut net, &sim, &load, &mut rng).await;
        let back = tokio::time::Instant::now();
        net.wait_ready(Duration::from_secs(25)).await;
        let all_well = || async {
            for from in CELLS {
                for to in CELLS {
                    let request = net.cell(from).request(to, "cell/ping", "x");
                    if request.await.is_err() {
                        return false;
                    }
                }
            }
            true
        };
        until("everybody reaches everybody", Duration::from_secs(30), all_well).await;
        let back = back.elapsed();
        let verdict = load.verdict().await;
        show("F-44", seed, format!("well after {back:?}: {verdict}"));
        net.assert_tables().await;
        net.finish().await;
    });
}
