//! What a cell spends on one message between its bytes and its next hop, by the number of its links.
//!
//! The cell is a server; every link leads to a site, and each message goes from one site to another. `one`
//! is always the same message, as in a closed loop of one caller; `all` takes the sites in turn, each with
//! a stream, a token and a destination of its own.

use std::hint::black_box;

use bytes::BytesMut;
use cellbus_proto::{admission::Arrival, route::Hop};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[path = "decide/scene.rs"]
mod scene;

use self::scene::{Scene, UNIX, decide};

const LINKS: [u32; 2] = [1, 1000];

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one");
    group.throughput(Throughput::Elements(1));
    for links in LINKS {
        let Scene { mut gate, routes, mut sites, now } = Scene::new(links);
        let mut site = sites.pop().expect("there is a site");
        let id = |step: &str| BenchmarkId::new(step, links);
        group.bench_function(id("decode"), |b| b.iter(|| black_box(site.decode())));
        let envelope = site.envelope.clone();
        group.bench_function(id("admit"), |b| {
            b.iter(|| {
                let arrival = Arrival::Link(&site.peer);
                black_box(gate.admit(now, UNIX, black_box(envelope.clone()), arrival)).is_ok()
            });
        });
        let to = &envelope.header.destination.name;
        let arrived = Hop::Link(site.peer.link);
        group.bench_function(id("next_hop"), |b| {
            b.iter(|| black_box(routes.next_hop(black_box(to), arrived)));
        });
        let mut out = BytesMut::with_capacity(1 << 16);
        group.bench_function(id("encode"), |b| {
            b.iter(|| {
                out.clear();
                black_box(site.encoder.encode_message(black_box(&envelope), 29_999, &mut out))
            });
        });
        group.bench_function(id("decode+admit+next_hop"), |b| {
            b.iter(|| {
                let envelope = site.decode();
                black_box(decide(&mut gate, &routes, now, &site, envelope))
            });
        });
    }
    group.finish();
}

fn in_turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("all");
    group.throughput(Throughput::Elements(1));
    for links in LINKS {
        let Scene { mut gate, routes, mut sites, now } = Scene::new(links);
        let mut next = 0;
        group.bench_function(BenchmarkId::new("decode+admit+next_hop", links), |b| {
            b.iter(|| {
                next = (next + 1) % sites.len();
                let site = &mut sites[next];
                let envelope = site.decode();
                black_box(decide(&mut gate, &routes, now, site, envelope))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps, in_turn);
criterion_main!(benches);
