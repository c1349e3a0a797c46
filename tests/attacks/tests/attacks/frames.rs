//! Bytes that are no frames: false lengths, bombs, truncations and flipped bits.

use std::{fs, path::Path};

use cellbus_attacks::{
    Closed, RawPeer, Target, attack,
    socket::resident_bytes,
    wire::{self, Mp, s},
};
use cellbus_harness::alone;
use cellbus_proto::{codec::body, envelope::Lane, status::Status};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Sends bytes on the control stream of a registered peer, and says how the connection ends.
async fn end_of(target: &Target, bytes: &[u8]) -> Closed {
    let mut x = RawPeer::registered(target, "server", "x").await;
    x.write(bytes).await;
    let end = x.closed().await;
    target.until_gone("server", "x").await;
    end
}

#[test]
fn atk_085_lengths_are_checked_before_anything_is_kept() {
    attack(async |target, guard| {
        guard.expect("TOO_LARGE");
        guard.expect("BAD_FRAME");
        let before = target.look().await;
        let (mut large, mut bad) = (0, 0);
        for (kind, header, payload, status) in [
            (wire::MESSAGE, 40, u32::MAX, Status::TooLarge),
            (wire::MESSAGE, 40, 1 << 31, Status::TooLarge),
            (wire::MESSAGE, 40, (1 << 20) + 1, Status::TooLarge),
            (wire::MESSAGE, u16::MAX, 0, Status::TooLarge),
            (wire::MESSAGE, (16 << 10) + 1, 0, Status::TooLarge),
            (wire::BEAT, 2, 1, Status::TooLarge),
            (wire::LANE, 2, u32::MAX, Status::TooLarge),
            (wire::MESSAGE, 0, 0, Status::BadFrame),
            (wire::MESSAGE, 0, 5, Status::BadFrame),
            (wire::BEAT, 0, 0, Status::BadFrame),
            (0, 1, 0, Status::BadFrame),
            (10, 1, 0, Status::BadFrame),
            (255, u16::MAX, u32::MAX, Status::BadFrame),
        ] {
            let end = end_of(target, &wire::prefix(kind, header, payload)).await;
            assert_eq!(end, Closed::protocol(status), "{kind} {header} {payload}");
            *(if status == Status::TooLarge { &mut large } else { &mut bad }) += 1;
        }
        let refused = [("server", Status::TooLarge, large), ("server", Status::BadFrame, bad)];
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn atk_085_before_hello_next_to_nothing_is_read() {
    attack(async |target, guard| {
        guard.expect("TOO_LARGE");
        let before = target.look().await;
        for (kind, header, payload) in [
            (wire::HELLO, (8 << 10) + 1, 0),
            (wire::HELLO, 100, 1),
            (wire::MESSAGE, 100, 1),
            (wire::MESSAGE, 100, u32::MAX),
        ] {
            let mut x = RawPeer::connect(target, "server", "x").await;
            x.write(&wire::prefix(kind, header, payload)).await;
            assert_eq!(x.closed().await, Closed::unauthenticated());
        }
        target.assert_refused(&before, &[("server", Status::TooLarge, 4)]).await;
    });
}

/// Values that claim to be more than they are, or are more than anybody needs.
fn bombs() -> Vec<Vec<u8>> {
    let nested = |open: u8, depth: usize| [vec![open; depth], vec![0xc0]].concat();
    let many = |element: &[u8]| [&[0xdc, 0x3a, 0x98][..], &element.repeat(15_000)].concat();
    vec![
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0xdb, 0xff, 0xff, 0xff, 0xff],
        vec![0xc6, 0xff, 0xff, 0xff, 0xff],
        vec![0xc9, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0xdc, 0xff, 0xff],
        nested(0x91, 10_000),
        nested(0x9a, 10_000),
        nested(0x81, 10_000),
        [[0xdd, 0, 0, 0, 1].repeat(3000), vec![0xc0]].concat(),
        many(&[0xc0]),
        many(&[0xa0]),
        [&[0xde, 0x1d, 0x4c][..], &[0x01, 0x02].repeat(7500)].concat(),
        Mp::M(vec![(Mp::F(f64::NAN), Mp::Nil), (Mp::F(f64::NAN), Mp::Nil)]).bytes(),
        vec![0xa4, 0xff, 0xfe, 0xfd, 0xfc],
        vec![0xd9, 0x02, 0xc3, 0x28],
        vec![0xc1],
        vec![0xd4, 0x01, 0x00],
        vec![0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
        Vec::new(),
    ]
}

/// One bomb in every place where a value may stand.
async fn throw(target: &Target, bomb: &[u8]) {
    if !bomb.is_empty() {
        let header = &bomb[..bomb.len().min(16 << 10)];
        let end = end_of(target, &wire::frame(wire::MESSAGE, header, b"")).await;
        assert!(matches!(end, Closed::Application(4, _)), "{end:?} for {:x?}", &bomb[..4]);
        let mut x = RawPeer::connect(target, "server", "x").await;
        let hello = &bomb[..bomb.len().min(8 << 10)];
        x.write(&wire::frame(wire::HELLO, hello, b"")).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
    }
    for place in 0..4 {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut loose = x.loose("server", "task", "fetch");
        let raw = Mp::Raw(bomb.to_vec());
        match place {
            0 => loose.origin = raw,
            1 => loose.target = Mp::A(vec![Mp::U(0), s("task"), raw]),
            2 => loose.token = Mp::A(vec![Mp::U(0), raw]),
            _ => loose.rest = [vec![Mp::Nil; 5], vec![raw]].concat(),
        }
        x.send_loose(&loose).await;
        let end = x.closed().await;
        assert!(matches!(end, Closed::Application(4, _)), "{end:?} at {place} for {bomb:x?}");
        target.until_gone("server", "x").await;
    }
}

#[test]
fn atk_086_msgpack_bombs_do_not_go_off() {
    if alone::run("frames::atk_086_msgpack_bombs_do_not_go_off").is_some() {
        return;
    }
    attack(async |target, guard| {
        guard.expect("link closed");
        let before = target.look().await;
        // What stays of an attack stays of every one; what is taken once and used again does not.
        let (mut resident, mut least) = (resident_bytes(), usize::MAX);
        for _ in 0..8 {
            for bomb in bombs() {
                throw(target, &bomb).await;
            }
            let now = resident_bytes();
            least = least.min(now.saturating_sub(resident));
            resident = now;
        }
        assert!(least < 1 << 20, "{least} bytes more in every round");
        let now = target.look().await;
        assert!(now.unchanged_since(&before), "{now:?}");
    });
}

#[test]
fn f_31_a_hello_that_is_cut_anywhere_ends_the_connection() {
    attack(async |target, guard| {
        guard.expect("BAD_FRAME");
        let before = target.look().await;
        let mut cuts = 0;
        let mut len = usize::MAX;
        while cuts < len {
            let mut x = RawPeer::connect(target, "server", "x").await;
            let hello = wire::frame(wire::HELLO, &body::encode(&x.hello()), b"");
            len = hello.len();
            x.write(&hello[..cuts]).await;
            x.finish_control();
            assert_eq!(x.closed().await, Closed::unauthenticated(), "after {cuts} bytes");
            cuts += 1;
        }
        let count = u64::try_from(cuts).expect("few");
        target.assert_refused(&before, &[("server", Status::BadFrame, count)]).await;
    });
}

#[test]
fn f_31_a_message_that_is_cut_anywhere_is_no_message() {
    attack(async |target, _| {
        let mut random = ChaCha8Rng::seed_from_u64(31);
        let before = target.look().await;
        for _ in 0..60 {
            let mut x = RawPeer::registered(target, "server", "x").await;
            let frame = x.loose("server", "task", "fetch").frame(b"payload");
            let cut = random.random_range(0..frame.len());
            x.write_lane(Lane::Bulk, &frame[..cut]).await;
            x.finish_lane(Lane::Bulk);
            x.settle(Lane::Interactive).await;
            drop(x);
            target.until_gone("server", "x").await;
        }
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn f_31_no_flipped_bit_makes_one_cell_another() {
    attack(async |target, guard| {
        guard.tolerate("link closed");
        guard.tolerate("message refused");
        let mut random = ChaCha8Rng::seed_from_u64(32);
        let before = target.look().await;
        for round in 0..150 {
            let mut x = RawPeer::registered(target, "server", "x").await;
            let mut frame = x.loose("server", "task", "fetch").frame(b"payload");
            let bit = random.random_range(0..frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            x.write_lane(Lane::Bulk, &frame).await;
            if round % 2 == 0 {
                x.finish_lane(Lane::Bulk);
            }
            x.beat().await;
            drop(x);
            target.until_gone("server", "x").await;
        }
        let now = target.look().await;
        assert!(now.tables_unchanged_since(&before), "{now:?}");
        for call in target.calls() {
            // A flip in what the sender may choose leaves a good message of the same sender.
            assert_eq!(call.delivery.origin, "x client attacks", "{call:?}");
            assert_eq!((call.at.as_str(), call.handler.as_str()), ("server", "fetch"), "{call:?}");
        }
    });
}

#[test]
fn f_31_a_hello_with_a_flipped_bit_names_nobody_else() {
    attack(async |target, guard| {
        guard.tolerate("link closed");
        let mut random = ChaCha8Rng::seed_from_u64(33);
        let before = target.look().await;
        for _ in 0..150 {
            let mut x = RawPeer::connect(target, "server", "x").await;
            let mut hello = wire::frame(wire::HELLO, &body::encode(&x.hello()), b"");
            let bit = random.random_range(0..hello.len() * 8);
            hello[bit / 8] ^= 1 << (bit % 8);
            x.write(&hello).await;
            x.finish_control();
            assert!(matches!(x.closed().await, Closed::Application(4 | 5, _)), "bit {bit}");
        }
        let now = target.look().await;
        assert!(now.unchanged_since(&before), "{now:?}");
        assert_eq!(target.holds("server", "x").await, (false, false));
    });
}

#[test]
fn f_31_every_bad_vector_is_refused_over_a_connection_with_its_code() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/wire/v1/bad");
        let before = target.look().await;
        let mut tried = 0;
        let mut files: Vec<_> = fs::read_dir(directory)
            .expect("the vectors are there")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
            .collect();
        files.sort();
        for path in files {
            let text = fs::read_to_string(&path).expect("a vector");
            let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let (Some(limits), Some(0)) = (vector["limits"].as_str(), vector["frames"].as_u64())
            else {
                continue;
            };
            let bytes = fs::read(path.with_extension("bin")).expect("its bytes");
            let status = vector["code"].as_str().and_then(Status::from_code).expect("a code");
            if limits == "default" {
                // On a stream on which nothing has been introduced yet.
                let mut x = RawPeer::registered(target, "server", "x").await;
                x.write_lane(Lane::Bulk, &bytes).await;
                assert_eq!(x.closed().await, Closed::protocol(status), "{}", path.display());
                target.until_gone("server", "x").await;
            } else {
                let mut x = RawPeer::connect(target, "server", "x").await;
                x.write(&bytes).await;
                assert_eq!(x.closed().await, Closed::unauthenticated(), "{}", path.display());
            }
            tried += 1;
        }
        assert!(tried > 50, "{tried} vectors");
        let now = target.look().await;
        assert!(now.unchanged_since(&before), "{now:?}");
    });
}
