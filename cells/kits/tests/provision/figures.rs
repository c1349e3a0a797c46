//! How long a large project takes. A figure for people; nothing depends on it.

use std::{fmt::Write, time::Instant};

use crate::place::{NOW, Place, STUDY, open};

#[test]
fn kits_for_five_hundred_sites() {
    let mut text = STUDY.to_owned();
    for number in 0..500 {
        writeln!(
            text,
            "[[cell]]\nname = \"hospital-{number}\"\nkind = \"client\"\nparent = \"relay-a\""
        )
        .unwrap();
    }
    let place = Place::new();
    let begun = Instant::now();
    let report = place.run(&text, NOW).unwrap();
    let took = begun.elapsed();
    println!("{} kits in {:.1} s", report.participants.len(), took.as_secs_f64());
    assert_eq!(report.participants.len(), 506);
    open(&place.kit("hospital-499")).unwrap();
}
