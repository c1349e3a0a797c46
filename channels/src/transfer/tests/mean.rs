use cellbus_proto::{
    codec::body::Blob,
    transfer::{Audience, Part, TransferId},
};
use proptest::prelude::*;

use super::*;
use crate::transfer::gather::PIECE;

fn site() -> Fqcn {
    "site-1".parse().unwrap()
}

fn reference(parts: &[(&str, u64)], weight: Option<&[u8]>) -> Reference {
    let size = parts.iter().map(|(_, len)| len).sum();
    let named = parts.iter().filter(|(name, _)| !name.is_empty());
    Reference {
        id: TransferId::from_bytes([7; 16]),
        holder: site(),
        target: "model/update".parse().unwrap(),
        size: Some(size),
        size_max: size,
        digest: None,
        generation: 1,
        content_type: weight.map(|_| MEAN_CONTENT_TYPE.to_owned()),
        headers: Blob(weight.unwrap_or_default().to_vec()),
        parts: named.map(|(name, len)| Part { name: (*name).to_owned(), len: *len }).collect(),
        audience: Audience::Receivers(["server".parse().unwrap()].into()),
        expires_unix: 1_900_000_000,
        unix_ms: 1_800_000_000_000,
        seal: None,
    }
}

/// Combines a contribution as a gathering does.
fn add(mean: &mut Mean, parts: &[(&str, Vec<f64>)], weight: Option<f64>) -> Result<(), String> {
    let lens: Vec<_> = parts.iter().map(|(name, n)| (*name, n.len() as u64 * 8)).collect();
    let weight = weight.map(f64::to_be_bytes);
    mean.check(&site(), &reference(&lens, weight.as_ref().map(|w| &w[..])))?;
    for (name, numbers) in parts {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        for (at, piece) in bytes.chunks(PIECE).enumerate() {
            mean.part(&site(), name, (at * PIECE) as u64, piece)?;
        }
    }
    mean.end(&site());
    Ok(())
}

fn means(mean: &Mean) -> Vec<(&str, Vec<f64>)> {
    let of = |totals: &Vec<f64>| totals.iter().map(|total| total / mean.weight).collect();
    mean.parts.iter().map(|(name, totals)| (name.as_str(), of(totals))).collect()
}

proptest! {
    #[test]
    fn what_is_combined_on_the_way_is_what_would_have_been_combined_above(
        models in prop::collection::vec(prop::collection::vec(-1e6..1e6_f64, 5), 2..9),
        below in 1..8_usize,
    ) {
        let below = below.min(models.len() - 1);
        let object = |n: &[f64]| vec![("a", n[..2].to_vec()), ("b", vec![]), ("c", n[2..].to_vec())];
        let (mut flat, mut relay, mut above) =
            (Mean::of(Numbers::F64), Mean::of(Numbers::F64), Mean::of(Numbers::F64));
        for (place, model) in models.iter().enumerate() {
            let near = if place < below { &mut relay } else { &mut above };
            add(&mut flat, &object(model), None).unwrap();
            add(near, &object(model), None).unwrap();
        }
        add(&mut above, &means(&relay), Some(relay.weight())).unwrap();
        prop_assert_eq!(above.weight(), models.len() as f64);
        prop_assert_eq!(above.contributions(), (models.len() - below + 1) as u64);
        for ((name, one), (other_name, other)) in means(&flat).iter().zip(means(&above)) {
            prop_assert_eq!(*name, other_name);
            for (a, b) in one.iter().zip(other) {
                prop_assert!((a - b).abs() < 1e-6, "{} and {}", a, b);
            }
        }
    }
}

#[test]
fn what_has_other_parts_or_half_a_number_is_refused_and_nothing_of_it_counts() {
    let mut mean = Mean::of(Numbers::F64);
    add(&mut mean, &[("a", vec![1.0, 2.0]), ("b", vec![3.0])], None).unwrap();
    let bad: [&[(&str, u64)]; 6] = [
        &[("a", 16)],
        &[("a", 16), ("b", 16)],
        &[("b", 8), ("a", 16)],
        &[("a", 16), ("c", 8)],
        &[("a", 16), ("b", 7)],
        &[("", 24)],
    ];
    for parts in bad {
        assert!(mean.check(&site(), &reference(parts, None)).is_err(), "{parts:?}");
    }
    let nothing = Reference { size: None, ..reference(&[("", 8)], None) };
    assert!(Mean::of(Numbers::F64).check(&site(), &nothing).is_err());
    assert_eq!(means(&mean), [("a", vec![1.0, 2.0]), ("b", vec![3.0])]);
    assert_eq!(mean.contributions(), 1);
}

#[test]
fn a_mean_counts_as_often_as_it_says_and_says_a_positive_number() {
    let mut mean = Mean::of(Numbers::F64);
    add(&mut mean, &[("", vec![1.0])], None).unwrap();
    add(&mut mean, &[("", vec![5.0])], Some(3.0)).unwrap();
    assert_eq!(means(&mean), [("", vec![4.0])]);
    for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        assert!(add(&mut mean, &[("", vec![5.0])], Some(bad)).is_err(), "{bad}");
    }
    assert!(mean.check(&site(), &reference(&[("", 8)], Some(&[0; 7]))).is_err());
    assert_eq!((mean.weight(), mean.contributions()), (4.0, 2));
}

#[test]
fn numbers_of_four_bytes_are_read_and_written_as_such() {
    let mut mean = Mean::of(Numbers::F32);
    for number in [1.5_f32, 2.5] {
        let reference = reference(&[("", 4)], None);
        mean.check(&site(), &reference).unwrap();
        mean.part(&site(), "", 0, &number.to_le_bytes()).unwrap();
        mean.end(&site());
    }
    let mut bytes = BytesMut::new();
    Numbers::F32.put(2.0, &mut bytes);
    assert_eq!(bytes, 2.0_f32.to_le_bytes()[..]);
    assert_eq!(means(&mean), [("", vec![2.0])]);
    assert_eq!(mean.to_string(), "the mean of 2 contributions with weight 2");
}
