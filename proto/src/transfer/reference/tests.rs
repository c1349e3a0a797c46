use super::*;

pub(in crate::transfer) fn reference() -> Reference {
    Reference {
        id: TransferId::from_bytes([7; 16]),
        holder: "server".parse().unwrap(),
        target: "model/weights".parse().unwrap(),
        size: Some(20),
        size_max: 20,
        digest: Some(Digest::of(&[0; 20])),
        generation: 1,
        content_type: Some("application/octet-stream".into()),
        headers: Blob(b"h".to_vec()),
        parts: vec![Part { name: "a".into(), len: 5 }, Part { name: "b".into(), len: 15 }],
        audience: Audience::Receivers(["site-1", "site-2"].map(|n| n.parse().unwrap()).into()),
        expires_unix: 1_900_000_000,
        unix_ms: 1_800_000_000_000,
        seal: None,
    }
}

pub(in crate::transfer) fn signed() -> SignedReference {
    SignedReference { reference: reference(), signature: Blob(vec![9; 64]) }
}

fn with(change: impl FnOnce(&mut Reference)) -> Reference {
    let mut reference = reference();
    change(&mut reference);
    reference
}

fn names(count: usize) -> Audience {
    Audience::Receivers((0..count).map(|n| format!("site-{n}").parse().unwrap()).collect())
}

#[test]
fn a_reference_is_read_as_written() {
    let many = (0..5000).map(|n| Part { name: format!("layer.{n}"), len: 1 << 20 }).collect();
    for reference in [
        reference(),
        with(|r| r.audience = Audience::Job("job-1".parse().unwrap())),
        with(|r| r.audience = names(Reference::RECEIVERS_MAX)),
        with(|r| (r.size, r.digest, r.content_type, r.parts) = (None, None, None, vec![])),
        with(|r| (r.size, r.size_max, r.parts) = (Some(5000 << 20), SIZE_MAX, many)),
    ] {
        let signed = SignedReference { reference, signature: Blob(vec![9; 64]) };
        let bytes = signed.encode().unwrap();
        assert_eq!(SignedReference::decode(&bytes), Ok(signed));
        assert!(SignedReference::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(SignedReference::decode(&[&bytes[..], &[0xc0]].concat()).is_err());
    }
}

#[test]
fn fields_that_do_not_fit_are_neither_written_nor_read() {
    let part = |name: &str, len| Part { name: name.into(), len };
    let bad = [
        (BadReference::Size, with(|r| r.size_max = 19)),
        (BadReference::Size, with(|r| r.size_max = SIZE_MAX + 1)),
        (BadReference::Generation, with(|r| r.generation = 0)),
        (BadReference::Text, with(|r| r.content_type = Some(String::new()))),
        (BadReference::Text, with(|r| r.content_type = Some("a\nb".into()))),
        (BadReference::Text, with(|r| r.headers = Blob(vec![0; 4097]))),
        (BadReference::Text, with(|r| r.parts[0].name = "x".repeat(257))),
        (BadReference::Text, with(|r| r.parts[0].name.clear())),
        (BadReference::Parts, with(|r| r.parts[0].len = 4)),
        (BadReference::Parts, with(|r| r.size = None)),
        (BadReference::Parts, with(|r| r.parts = vec![part("a", u64::MAX), part("b", 21)])),
        (BadReference::Parts, with(|r| r.parts.extend(vec![part("z", 0); 65_536]))),
        (BadReference::Audience, with(|r| r.audience = names(0))),
        (BadReference::Audience, with(|r| r.audience = names(513))),
    ];
    for (why, reference) in bad {
        assert_eq!(reference.check(), Err(why));
        assert!(Reference::from_bytes(&reference.to_bytes()).is_err(), "{why}");
        let signed = SignedReference { reference, signature: Blob(vec![]) };
        assert_eq!(signed.encode(), Err(why));
    }
    let long = with(|r| {
        r.parts = vec![part(&"x".repeat(200), 0); 6000];
        r.size = Some(0);
    });
    let signed = SignedReference { reference: long, signature: Blob(vec![]) };
    assert_eq!(signed.encode(), Err(BadReference::TooLarge));
    let refused = SignedReference::decode(&vec![0; Reference::BYTES_MAX + 1]).unwrap_err();
    assert_eq!(refused.status, Status::TooLarge);
}

#[test]
fn parts_lie_one_behind_the_other() {
    let reference = reference();
    let places: Vec<_> = reference.places().collect();
    assert_eq!(places, [("a", 0..5), ("b", 5..20)]);
}

#[test]
fn c_14_a_reference_is_of_no_use_to_anybody_it_does_not_name() {
    let [site, other]: [Fqcn; 2] = ["site-1", "site-3"].map(|name| name.parse().unwrap());
    let [job, foreign]: [Segment; 2] = ["job-1", "job-2"].map(|name| name.parse().unwrap());
    let named = reference().audience;
    assert!(named.has(Receiver { name: &site, job: None }));
    assert!(!named.has(Receiver { name: &other, job: None }));
    let of_job = Audience::Job(job.clone());
    assert!(of_job.has(Receiver { name: &other, job: Some(&job) }));
    for job in [None, Some(&foreign)] {
        assert!(!of_job.has(Receiver { name: &site, job }));
    }
}

#[test]
fn c_14_only_a_fresh_reference_that_its_holder_signed_for_me_is_taken() {
    let signed = signed();
    let [me, other]: [Fqcn; 2] = ["site-1", "site-3"].map(|name| name.parse().unwrap());
    let judge = |name, now, good: bool| {
        let expected = signed.reference.signable("study");
        signed.judge("study", Receiver { name, job: None }, now, |signable, signature| {
            good && *signable == expected && signature == [9; 64]
        })
    };
    let end = signed.reference.expires_unix;
    assert_eq!(judge(&me, end - 1, true), Ok(()));
    assert_eq!(judge(&me, end, true), Err(Unfit::Expired));
    assert_eq!(judge(&other, end - 1, true), Err(Unfit::NotForMe));
    assert_eq!(judge(&me, end - 1, false), Err(Unfit::BadSignature));
}

#[test]
fn every_field_of_a_reference_is_signed() {
    let all = [
        reference(),
        with(|r| r.id = TransferId::from_bytes([8; 16])),
        with(|r| r.holder = "site-9".parse().unwrap()),
        with(|r| r.target = "model/other".parse().unwrap()),
        with(|r| r.size_max = 21),
        with(|r| r.digest = None),
        with(|r| r.generation = 2),
        with(|r| r.content_type = None),
        with(|r| r.headers = Blob(vec![])),
        with(|r| r.parts.clear()),
        with(|r| r.parts[0].name = "c".into()),
        with(|r| r.audience = names(1)),
        with(|r| r.expires_unix += 1),
        with(|r| r.unix_ms += 1),
    ];
    let mut seen: BTreeSet<Vec<u8>> = all.iter().map(|r| r.signable("study")).collect();
    assert_eq!(seen.len(), all.len());
    assert!(seen.insert(reference().signable("other")));
}
