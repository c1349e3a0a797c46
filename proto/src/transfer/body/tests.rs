use super::*;

fn fetch() -> Fetch {
    let id = TransferId::from_bytes([1; 16]);
    let digest = Some(Digest::of(b"x"));
    Fetch { id, generation: 1, offset: 8 << 20, nonce: Octets([2; 16]), have: false, digest }
}

fn answer() -> Answer {
    Answer {
        id: TransferId::from_bytes([1; 16]),
        generation: 1,
        size: Some(100),
        size_max: 100,
        offset: 50,
        data: true,
        digest: None,
    }
}

fn receipt() -> Receipt {
    Receipt {
        id: TransferId::from_bytes([1; 16]),
        generation: 1,
        nonce: Octets([2; 16]),
        size: 100,
        digest: Some(Digest::of(b"x")),
        outcome: 0,
        signature: Some(Blob(vec![5; 72])),
    }
}

#[test]
fn bodies_are_read_as_written_and_in_no_other_spelling() {
    let trailer = Trailer { size: 100, digest: Digest::of(b"x"), generation: 1 };
    assert_eq!(Fetch::decode(&fetch().encode()), Ok(fetch()));
    assert_eq!(Answer::decode(&answer().encode()), Ok(answer()));
    assert_eq!(Trailer::decode(&trailer.encode()), Ok(trailer));
    assert_eq!(Receipt::decode(&receipt().to_stream()[2..]), Ok(receipt()));
    for bytes in [fetch().encode(), answer().encode(), trailer.encode()] {
        for bad in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
            assert!(Fetch::decode(bad).is_err());
            assert!(Answer::decode(bad).is_err());
            assert!(Trailer::decode(bad).is_err());
            assert!(Receipt::decode(bad).is_err());
        }
    }
}

#[test]
fn fields_outside_their_limits_are_refused() {
    let bad_fetches =
        [Fetch { generation: 0, ..fetch() }, Fetch { offset: SIZE_MAX + 1, ..fetch() }];
    for bad in bad_fetches {
        assert_eq!(Fetch::decode(&bad.encode()).unwrap_err().status, Status::BadFrame);
    }
    let bad_answers = [
        Answer { generation: 0, ..answer() },
        Answer { size: Some(101), ..answer() },
        Answer { offset: 101, ..answer() },
        Answer { size: None, offset: 101, ..answer() },
        Answer { size_max: SIZE_MAX + 1, ..answer() },
    ];
    for bad in bad_answers {
        assert_eq!(Answer::decode(&bad.encode()).unwrap_err().status, Status::BadFrame, "{bad:?}");
    }
    let bad_receipts = [
        Receipt { generation: 0, ..receipt() },
        Receipt { digest: None, ..receipt() },
        Receipt { outcome: 128, ..receipt() },
        Receipt { signature: Some(Blob(vec![0; 257])), ..receipt() },
        Receipt { size: SIZE_MAX + 1, ..receipt() },
    ];
    for bad in bad_receipts {
        assert!(Receipt::decode(&bad.to_stream()[2..]).is_err(), "{bad:?}");
    }
}

#[test]
fn what_says_that_it_failed_says_why_and_an_unknown_why_is_still_a_failure() {
    let failed = |outcome| Receipt { outcome, digest: None, ..receipt() }.outcome();
    assert_eq!(receipt().outcome(), Ok(()));
    assert_eq!(failed(128), Err(Status::StorageFull));
    assert_eq!(failed(255), Err(Status::HandlerFailed));
}

#[test]
fn a_receipt_is_signed_for_one_receiver_one_holder_and_one_fetch() {
    let [a, b]: [Fqcn; 2] = ["site-1", "server"].map(|name| name.parse().unwrap());
    let signed = receipt().signable("study", &a, &b);
    assert_eq!(Receipt { signature: None, ..receipt() }.signable("study", &a, &b), signed);
    let others = [
        receipt().signable("other", &a, &b),
        receipt().signable("study", &b, &a),
        Receipt { nonce: Octets([3; 16]), ..receipt() }.signable("study", &a, &b),
        Receipt { generation: 2, ..receipt() }.signable("study", &a, &b),
        Receipt { size: 99, ..receipt() }.signable("study", &a, &b),
        Receipt { digest: None, outcome: 128, ..receipt() }.signable("study", &a, &b),
    ];
    for (at, other) in others.iter().enumerate() {
        assert_ne!(*other, signed, "{at}");
    }
}
