//! The same seed, the same run.

use super::*;

/// Asks `count` times, one after the other, over a rough network; gives the hash of the trace.
fn rough_run(seed: u64, count: u32) -> u64 {
    run_paused(seed, |seed| async move {
        let world = World::new(seed);
        world.net.set_default(rough());
        let served = world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        let mut wanted = Vec::new();
        for number in 0..count {
            let body = [u64::from(number).to_be_bytes(); 8].concat();
            assert_eq!(ask(&connection, &body).await.as_ref(), Some(&body));
            wanted.push(body[..8].to_vec());
        }
        assert_eq!(*served.lock().unwrap(), wanted, "each once, in order");
        let Traffic { dropped, duplicated, corrupted, .. } = world.net.traffic();
        assert!(count < 1000 || dropped > 100 && duplicated > 50 && corrupted > 20);
        world.net.trace_hash()
    })
}

#[test]
fn requests_over_a_rough_network_are_complete_and_in_order_and_the_run_repeats() {
    let traces = [rough_run(1, 2000), rough_run(1, 2000), rough_run(2, 2000)];
    assert_eq!(traces[0], traces[1], "the same seed gives the same run");
    assert_ne!(traces[0], traces[2], "another seed gives another run");
}

#[test]
fn many_handshakes_repeat() {
    // Each has its own chance of a signature, a key or an identifier that is a byte shorter.
    let run = || {
        run_paused(3, |seed| async move {
            let world = World::new(seed);
            world.net.set_default(rough());
            world.serve();
            let site = world.site();
            for _ in 0..200 {
                let connection = world.dial(&site).await;
                connection.close(0u32.into(), b"");
            }
            site.wait_idle().await;
            world.net.trace_hash()
        })
    };
    assert_eq!(run(), run());
}

#[test]
fn the_run_repeats_in_another_process() {
    let trace = format!("trace={};", rough_run(5, 100));
    let test = "sim::tests::repeats::the_run_repeats_in_another_process";
    match crate::alone::run(test) {
        Some(said) => assert!(said.contains(&trace), "{trace} here, there {said}"),
        None => println!("{trace}"),
    }
}

#[test]
fn certificates_repeat_to_the_byte() {
    let site = id("cell://study/client/site-1?org=st-mary");
    let authority = |seed| SimAuthority::new(&"study".parse().unwrap(), seed, NOW);
    assert_eq!(authority(1).certificate(&site).hash(), authority(1).certificate(&site).hash());
    assert_ne!(authority(1).certificate(&site).hash(), authority(2).certificate(&site).hash());
    assert_eq!(authority(1).roots().ders(), authority(1).roots().ders());
    let job = id("cell://study/job/site-1.job-7?org=st-mary");
    assert_eq!(authority(1).certificate(&job).identity(), &job);
}
