//! How many instructions a cell spends on one message, step by step: the same that `decide` times, on a machine that others
//! use as well.
//!
//! For each step this program runs itself under callgrind, which counts within the functions that are called `measured_*`
//! and nowhere else. Where there is no valgrind, nothing is counted, and it says so.

use std::{
    env,
    error::Error,
    hint::black_box,
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use bytes::BytesMut;
use cellbus_proto::{admission::Arrival, envelope::Envelope, route::Hop};

#[path = "decide/scene.rs"]
mod scene;

use self::scene::{Scene, Site, UNIX, decide};

/// What is counted, with so many links.
type Step = fn(u32);

const LINKS: [u32; 2] = [1, 1000];
const STEPS: [(&str, Step); 5] = [
    ("decode", decode),
    ("admit", admit),
    ("next_hop", next_hop),
    ("encode", encode),
    ("decode+admit+next_hop", all),
];
/// Stands before a step and a number of links: what is done once, under callgrind.
const ONCE: &str = "--once";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [once, name, links] = arguments.as_slice()
        && once == ONCE
    {
        let step = STEPS.iter().find(|(step, _)| step == name);
        let (_, step) = step.ok_or("no such step")?;
        step(links.parse()?);
        return Ok(());
    }
    // `cargo test` runs benchmarks to see that they run; counting takes longer than that is worth.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    if !has_valgrind() {
        writeln!(out, "SKIPPED: there is no valgrind, so no instruction was counted")?;
        return Ok(());
    }
    writeln!(out, "{:<24}{:>8}{:>16}", "STEP", "LINKS", "INSTRUCTIONS")?;
    for (name, _) in STEPS {
        for links in LINKS {
            writeln!(out, "{name:<24}{links:>8}{:>16}", counted(name, links)?)?;
        }
    }
    Ok(())
}

fn has_valgrind() -> bool {
    let asked = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// The instructions of one step.
fn counted(step: &str, links: u32) -> Result<u64, Box<dyn Error>> {
    let Output { status, stderr, .. } = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*measured_*")
        .arg(env::current_exe()?)
        .args([ONCE, step, &links.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&stderr);
    let collected = said.lines().find_map(|line| line.split("Collected :").nth(1));
    let count = collected.and_then(|count| count.trim().parse().ok());
    match count {
        // Nothing collected is a function that was not found.
        Some(count @ 1..) if status.success() => Ok(count),
        _ => Err(format!("{step} with {links} links: {status}: {said}").into()),
    }
}

/// A cell with so many links that has decided on a message once, the site that sends it, and the message.
fn warm(links: u32) -> (Scene, Site, Envelope) {
    let mut scene = Scene::new(links);
    let mut site = scene.sites.pop().expect("there is a site");
    let envelope = site.decode();
    decide(&mut scene.gate, &scene.routes, scene.now, &site, envelope.clone());
    (scene, site, envelope)
}

fn decode(links: u32) {
    let (_scene, mut site, _) = warm(links);
    black_box(measured_decode(&mut site));
}

#[inline(never)]
fn measured_decode(site: &mut Site) -> Envelope {
    site.decode()
}

fn admit(links: u32) {
    let (mut scene, site, envelope) = warm(links);
    assert!(measured_admit(&mut scene, &site, envelope), "a rule allows it");
}

#[inline(never)]
fn measured_admit(scene: &mut Scene, site: &Site, envelope: Envelope) -> bool {
    let arrival = Arrival::Link(&site.peer);
    black_box(scene.gate.admit(scene.now, UNIX, black_box(envelope), arrival)).is_ok()
}

fn next_hop(links: u32) {
    let (scene, site, envelope) = warm(links);
    assert!(measured_next_hop(&scene, &site, &envelope), "its destination is linked");
}

#[inline(never)]
fn measured_next_hop(scene: &Scene, site: &Site, envelope: &Envelope) -> bool {
    let to = black_box(&envelope.header.destination.name);
    black_box(scene.routes.next_hop(to, Hop::Link(site.peer.link))).is_ok()
}

fn encode(links: u32) {
    let (_scene, mut site, _) = warm(links);
    let mut out = BytesMut::with_capacity(1 << 16);
    measured_encode(&mut site, &mut out);
    assert!(!out.is_empty(), "it was written");
}

#[inline(never)]
fn measured_encode(site: &mut Site, out: &mut BytesMut) {
    black_box(site.encoder.encode_message(black_box(&site.envelope), 29_999, out));
}

fn all(links: u32) {
    let (mut scene, mut site, _) = warm(links);
    black_box(measured_all(&mut scene, &mut site));
}

#[inline(never)]
fn measured_all(scene: &mut Scene, site: &mut Site) -> Hop {
    let envelope = site.decode();
    decide(&mut scene.gate, &scene.routes, scene.now, site, envelope)
}
