//! Named arrays and their mean: what is read, what is refused, and what comes out.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{BadTensors, Dtype, NoMean, Tensor, Tensors, Unsound, WeightedMean};

fn f32s(values: &[f32]) -> Tensor {
    let data: Bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { dtype: Dtype::F32, shape: vec![values.len() as u64], data }
}

fn of(tensors: &[(&str, Tensor)]) -> Tensors {
    Tensors(tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect())
}

fn raw(header: &str, data: &[u8]) -> Bytes {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes.into()
}

#[test]
fn arrays_survive_the_way_and_are_not_copied() {
    let scalar = Tensor { dtype: Dtype::I64, shape: Vec::new(), data: Bytes::from_static(&[7; 8]) };
    let empty = Tensor { dtype: Dtype::F64, shape: vec![0, 3], data: Bytes::new() };
    let tensors = of(&[("b", f32s(&[1.0, 2.0])), ("a", scalar), ("leer", empty)]);
    let bytes = tensors.write().unwrap();
    let read = Tensors::read(&bytes).unwrap();
    assert_eq!(read, tensors);
    let within = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
    assert!(within.contains(&(read.0["b"].data.as_ptr() as usize)));
    assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0, "data are aligned");
}

#[test]
fn metadata_are_passed_over() {
    let header =
        r#"{"__metadata__":{"format":"pt"},"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
    let tensors = Tensors::read(&raw(header, &[1, 2])).unwrap();
    assert_eq!(tensors.0.keys().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn what_are_no_arrays_is_refused_by_what_is_wrong() {
    let one = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let x = || "x".to_owned();
    let cases = [
        (Bytes::from_static(b"1234567"), BadTensors::Header),
        (Bytes::copy_from_slice(&u64::MAX.to_le_bytes()), BadTensors::Header),
        (raw("{}", b"")[..9].to_vec().into(), BadTensors::Header),
        (raw("[]", b""), BadTensors::Json { line: 1, column: 0 }),
        (raw(&one("U8", "[2]", 0, 3), &[0; 3]), BadTensors::Place(x())),
        (raw(&one("U8", "[2]", 1, 3), &[0; 3]), BadTensors::Place(x())),
        (raw(&one("U8", "[2]", 2, 0), &[0; 3]), BadTensors::Place(x())),
        (raw(&one("F32", "[2]", 0, 8), &[0; 7]), BadTensors::Place(x())),
        (raw(&one("U8", "[2]", 0, 2), &[0; 3]), BadTensors::Rest(1)),
        (raw(&one("U8", "[4294967296,4294967296]", 0, 0), &[]), BadTensors::Shape(x())),
        (raw(&one("F64", "[2305843009213693952]", 0, 0), &[]), BadTensors::Shape(x())),
        (raw(&one("U8", &format!("[{}1]", "1,".repeat(32)), 0, 1), &[0]), BadTensors::Shape(x())),
    ];
    for (bytes, expected) in cases {
        let found = Tensors::read(&bytes).unwrap_err();
        match (&found, &expected) {
            (BadTensors::Json { .. }, BadTensors::Json { .. }) => {}
            _ => assert_eq!(found, expected),
        }
    }
    let twice = r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert_eq!(Tensors::read(&raw(twice, &[0; 2])), Err(BadTensors::Place(x())));
    let overlap = r#"{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    assert_eq!(Tensors::read(&raw(overlap, &[0; 3])), Err(BadTensors::Place("y".to_owned())));
    for bad in [
        r#"{"x":{"dtype":"F128","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1}}"#,
        r#"{"x":{"dtype":"U8","shape":[1]}}"#,
    ] {
        assert!(matches!(Tensors::read(&raw(bad, &[0])), Err(BadTensors::Json { .. })), "{bad}");
    }
}

#[test]
fn a_mean_counts_each_by_its_weight() {
    let mut mean = WeightedMean::default();
    mean.add(&of(&[("w", f32s(&[1.0, -2.0]))]), 1.0).unwrap();
    mean.add(&of(&[("w", f32s(&[4.0, 2.0]))]), 3.0).unwrap();
    assert_eq!(mean.count(), 2);
    assert_eq!(mean.finish().unwrap(), of(&[("w", f32s(&[3.25, 1.0]))]));
    assert_eq!(WeightedMean::default().finish(), Err(NoMean));
}

#[test]
fn integers_are_rounded_and_those_that_a_double_cannot_hold_are_refused() {
    let whole = |value: i64| Tensor {
        dtype: Dtype::I64,
        shape: Vec::new(),
        data: Bytes::copy_from_slice(&value.to_le_bytes()),
    };
    let mut mean = WeightedMean::default();
    mean.add(&of(&[("n", whole(10))]), 1.0).unwrap();
    mean.add(&of(&[("n", whole(13))]), 2.0).unwrap();
    let refused = mean.add(&of(&[("n", whole(i64::MAX))]), 1.0);
    assert_eq!(refused, Err(Unsound::Uncheckable("n".to_owned())));
    assert_eq!(mean.finish().unwrap(), of(&[("n", whole(12))]));
}

#[test]
fn s0_16_broken_numbers_are_refused_by_tensor_and_element_and_change_nothing() {
    let sound = of(&[("w", f32s(&[1.0, 2.0]))]);
    let mut mean = WeightedMean::default();
    mean.add(&sound, 1.0).unwrap();
    for (value, weight) in [(f32::NAN, 1.0), (f32::INFINITY, 1.0), (f32::NEG_INFINITY, 1.0)] {
        let broken = of(&[("w", f32s(&[0.0, value]))]);
        match mean.add(&broken, weight) {
            Err(Unsound::NotFinite { tensor, element: 1, .. }) => assert_eq!(tensor, "w"),
            other => panic!("{other:?}"),
        }
    }
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(mean.add(&sound, weight), Err(Unsound::Weight(_))), "{weight}");
    }
    let differs = [
        of(&[("w", f32s(&[1.0]))]),
        of(&[("v", f32s(&[1.0, 2.0]))]),
        of(&[("w", f32s(&[1.0, 2.0])), ("x", f32s(&[1.0]))]),
    ];
    for other in differs {
        assert!(matches!(mean.add(&other, 1.0), Err(Unsound::Differs(_))), "{other:?}");
    }
    let flags = Tensor { dtype: Dtype::Bool, shape: vec![1], data: Bytes::from_static(&[1]) };
    let flags = of(&[("mask", flags)]);
    let refused = WeightedMean::default().add(&flags, 1.0);
    assert_eq!(refused, Err(Unsound::Uncheckable("mask".to_owned())));
    assert_eq!(mean.add(&Tensors(BTreeMap::new()), 1.0), Err(Unsound::Empty));
    assert_eq!((mean.count(), mean.finish().unwrap()), (1, sound));
}

#[test]
fn what_was_expected_has_to_be_added_or_something_like_it() {
    let mut mean = WeightedMean::default();
    mean.expect(&of(&[("w", f32s(&[1.0, 2.0]))]), 1.0).unwrap();
    for other in [of(&[("w", f32s(&[1.0]))]), of(&[("v", f32s(&[1.0, 2.0]))])] {
        assert!(matches!(mean.expect(&other, 1.0), Err(Unsound::Differs(_))), "{other:?}");
    }
    assert_eq!((mean.count(), mean.weight()), (0, 0.0));
    mean.add(&of(&[("w", f32s(&[3.0, 4.0]))]), 2.0).unwrap();
    assert_eq!(mean.finish().unwrap(), of(&[("w", f32s(&[3.0, 4.0]))]));
}

#[test]
fn s0_17_finite_numbers_whose_sum_is_not_are_refused() {
    let large = |value: f64| Tensor {
        dtype: Dtype::F64,
        shape: vec![1],
        data: Bytes::copy_from_slice(&value.to_le_bytes()),
    };
    let mut mean = WeightedMean::default();
    mean.add(&of(&[("w", large(1e308))]), 1.0).unwrap();
    let refused = mean.add(&of(&[("w", large(1e308))]), 1.0);
    assert_eq!(refused, Err(Unsound::Overflow { tensor: "w".to_owned(), element: 0 }));
    assert_eq!(mean.finish().unwrap(), of(&[("w", large(1e308))]));
}
