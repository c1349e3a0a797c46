use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{
    codec::body::Blob,
    envelope::{
        Address, Common, Extras, Flags, Header, HopRecord, Incarnation, Kind, OriginProof,
        TraceContext,
    },
    name::Fqcn,
    token::Token,
};

fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

fn message(origin: &str, payload: &[u8]) -> Envelope {
    Envelope {
        header: Header {
            kind: Kind::Request,
            sequence: 7,
            common: Arc::new(Common {
                origin: Address::exact(name(origin), Incarnation { counter: 3, nonce: u64::MAX }),
                destination: Address::any(name("server")),
                target: "task/fetch".parse().unwrap(),
                token: Token::from_bytes(vec![5; 200].into()),
                lane: Lane::Interactive,
                flags: Flags::IDEMPOTENT,
            }),
            budget_ms: 30_000,
            hops_left: 16,
            extras: None,
        },
        payload: Bytes::copy_from_slice(payload),
    }
}

fn encode(encoder: &mut Encoder, frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    let tail = encoder.encode(frame, &mut out);
    [out.as_ref(), tail.as_deref().unwrap_or_default()].concat()
}

fn decode(bytes: &[u8]) -> Result<Vec<Frame>, CodecError> {
    let mut frames = Vec::new();
    let mut decoder = Decoder::new(FrameLimits::default());
    decoder.feed(Bytes::copy_from_slice(bytes), |frame| {
        frames.push(frame);
        true
    })?;
    Ok(frames)
}

fn one_message(header: &[u8]) -> Vec<u8> {
    let len = u16::try_from(header.len()).unwrap().to_be_bytes();
    [&[types::MESSAGE], &len[..], &[0; 4], header].concat()
}

#[test]
fn a_small_publish_on_a_warm_link_has_a_header_of_well_under_forty_bytes() {
    let mut encoder = Encoder::new();
    let mut publish = message("site-1", &[1; 64]);
    publish.header.kind = Kind::Publish;
    publish.header.sequence = 100_000;
    let cold = encode(&mut encoder, &Frame::Message(publish.clone())).len() - 64;
    let warm = encode(&mut encoder, &Frame::Message(publish)).len() - 64;
    assert!(warm <= 28, "{warm} bytes");
    assert!(cold > 200);
}

#[test]
fn a_value_is_known_by_its_content_also_where_it_is_another_allocation() {
    let mut encoder = Encoder::new();
    encode(&mut encoder, &Frame::Message(message("site-1", b"")));
    let again = encode(&mut encoder, &Frame::Message(message("site-1", b"")));
    assert!(again.len() < 32);
}

#[test]
fn tables_are_bounded_and_old_entries_give_way() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(FrameLimits::default()));
    for round in 0..2 {
        for n in 0..(TableLimits::ADDRESSES + 40) {
            let sent = message(&format!("site-{n}"), &[round]);
            let bytes = encode(&mut encoder, &Frame::Message(sent.clone()));
            let mut got = Vec::new();
            decoder
                .feed(bytes.into(), |frame| {
                    got.push(frame);
                    true
                })
                .unwrap();
            assert_eq!(got, [Frame::Message(sent)]);
        }
    }
}

#[test]
fn atk_085_lengths_are_checked_before_anything_is_held() {
    let frame = |kind: u8, header: u16, payload: u32| {
        [&[kind], &header.to_be_bytes()[..], &payload.to_be_bytes()[..]].concat()
    };
    for (bytes, want) in [
        (frame(types::MESSAGE, 10, u32::MAX), Status::TooLarge),
        (frame(types::MESSAGE, 10, 1 << 31), Status::TooLarge),
        (frame(types::MESSAGE, 10, (1 << 20) + 1), Status::TooLarge),
        (frame(types::MESSAGE, u16::MAX, 0), Status::TooLarge),
        (frame(types::MESSAGE, 0, 0), Status::BadFrame),
        (frame(types::HELLO, 10, 1), Status::TooLarge),
        (frame(0, 10, 0), Status::BadFrame),
        (frame(99, 10, 0), Status::BadFrame),
    ] {
        let mut decoder = Decoder::new(FrameLimits::default());
        let error = decoder.feed(bytes.into(), |_| true).unwrap_err();
        assert_eq!(error.status, want);
        assert_eq!(decoder.pending(), 0);
    }
}

#[test]
fn atk_086_hostile_headers_are_refused() {
    let deep = [vec![0x9a; 10_000], vec![0xc0]].concat();
    let deep = &deep[..16_000.min(deep.len())];
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("array32 of 2^32-1", vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
        ("map", vec![0x8a, 1, 1]),
        ("map32", vec![0xdf, 0xff, 0xff, 0xff, 0xff]),
        ("nested arrays", deep.to_vec()),
        ("nine elements", [vec![0x99], vec![1; 9]].concat()),
        ("reference to nothing", [vec![0x9a], vec![1; 10]].concat()),
        ("string for a number", [vec![0x9a], vec![0xa1, b'x'], vec![1; 9]].concat()),
        ("float for a number", [vec![0x9a, 0xca, 0x7f, 0xc0, 0, 0], vec![1; 9]].concat()),
        ("negative number", [vec![0x9a, 0xff], vec![1; 9]].concat()),
        ("str32 of 2^32-1", vec![0x9a, 1, 1, 0x92, 0, 0xdb, 0xff, 0xff, 0xff, 0xff]),
        ("name is not UTF-8", vec![0x9a, 1, 1, 0x92, 0, 0xa2, 0xff, 0xfe]),
        ("name in upper case", vec![0x9a, 1, 1, 0x92, 0, 0xa2, b'A', b'b']),
        ("introduced out of order", vec![0x9a, 1, 1, 0x92, 9, 0xa2, b'a', b'b']),
        ("ext", vec![0x9a, 0xd4, 1, 1]),
        ("empty", vec![0xc0]),
    ];
    for (what, header) in hostile {
        assert!(decode(&one_message(&header)).is_err(), "{what} passed");
    }
}

#[test]
fn what_follows_a_header_inside_its_frame_is_refused() {
    let whole = encode(&mut Encoder::new(), &Frame::Message(message("site-1", b"")));
    let header = &whole[PREFIX_LEN..];
    assert!(decode(&one_message(header)).is_ok());
    let error = decode(&one_message(&[header, &[0xc0]].concat())).unwrap_err();
    assert_eq!(error.status, Status::BadFrame);
}

/// Rewrites the ten-element header of a message as one with more elements.
fn lengthened(extra: &[u8], len: u8) -> Vec<u8> {
    let whole = encode(&mut Encoder::new(), &Frame::Message(message("site-1", b"")));
    let mut header = whole[PREFIX_LEN..].to_vec();
    header[0] = 0x90 | len.min(15);
    if len > 15 {
        header.splice(0..1, [0xdc, 0, len]);
    }
    header.extend_from_slice(extra);
    one_message(&header)
}

#[test]
fn a_trailing_nil_is_a_second_spelling_and_refused() {
    for len in 11..=15u8 {
        let nils = vec![0xc0; usize::from(len) - 10];
        assert_eq!(decode(&lengthened(&nils, len)).unwrap_err().what, "trailing nil");
    }
}

#[test]
fn g_71_an_unknown_critical_field_is_a_version_error_and_an_optional_one_is_dropped() {
    let nils = [0xc0; 5];
    let extension = |number: u8| [&nils[..], &[0x91, 0x92, number, 0xc4, 1, 7]].concat();
    let error = decode(&lengthened(&extension(8), 16)).unwrap_err();
    assert_eq!(error.status, Status::Version);
    assert_eq!(decode(&lengthened(&extension(3), 16)).unwrap().len(), 1);
    assert!(decode(&lengthened(&[&nils[..], &[0x90]].concat(), 16)).is_err());
    assert!(decode(&lengthened(&[&nils[..], &[0xc0]].concat(), 17)).is_err());
}

#[test]
fn p_03_control_bodies_have_one_spelling() {
    let beat = body::encode(&body::Beat { number: 1 });
    assert!(body::decode_exact::<body::Beat>(&beat).is_ok());
    for bytes in
        [vec![0x91, 0xcc, 1], vec![0x91, 1, 1], vec![0x92, 1, 1], vec![1], vec![], vec![0x90]]
    {
        assert!(body::decode_exact::<body::Beat>(&bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn f_35_a_sender_that_dies_in_mid_message_leaves_no_message() {
    let whole = encode(&mut Encoder::new(), &Frame::Message(message("site-1", &[9; 300])));
    for cut in 0..whole.len() {
        let mut decoder = Decoder::new(FrameLimits::default());
        let mut frames = 0;
        decoder
            .feed(Bytes::copy_from_slice(&whole[..cut]), |_| {
                frames += 1;
                true
            })
            .unwrap();
        assert_eq!((frames, decoder.pending()), (0, cut));
    }
}

fn extras() -> impl Strategy<Value = Option<Box<Extras>>> {
    let content_type = prop::option::of("[ -~]{0,20}".prop_map(Arc::from));
    let trace = prop::option::of(any::<[u8; 25]>().prop_map(TraceContext));
    let headers = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let hop = ("[a-c]{1,5}", "[ -~]{0,40}", any::<u32>(), any::<u32>());
    let hop = hop.prop_map(|(cell, rule, queue_us, wire_us)| HopRecord {
        cell: name(&cell),
        rule,
        queue_us,
        wire_us,
    });
    let path = prop::collection::vec(hop, 0..4);
    let proof = (any::<u64>(), prop::collection::vec(any::<u8>(), 0..80));
    let proof = prop::option::of(
        proof.prop_map(|(unix_ms, signature)| OriginProof { unix_ms, signature: Blob(signature) }),
    );
    (content_type, trace, headers, path, proof).prop_map(
        |(content_type, trace, headers, path, proof)| {
            Extras { content_type, trace, headers, path, proof, fan: Vec::new() }.boxed()
        },
    )
}

fn kinds() -> impl Strategy<Value = Kind> {
    let status = prop::sample::select(Status::ALL.to_vec());
    prop_oneof![
        Just(Kind::Publish),
        Just(Kind::Request),
        any::<u64>().prop_map(|to| Kind::Reply { to }),
        (any::<u64>(), status).prop_map(|(to, status)| Kind::Return {
            to,
            status,
            by: name("relay-a")
        }),
    ]
}

prop_compose! {
    fn envelopes()(
        kind in kinds(), extras in extras(), sequence in 1u64.., hops_left: u8, budget_ms: u32,
        origin in "[a-c](\\.[d-f])?", counter in 1u64.., nonce: u64, exact: bool,
        channel in "[a-z0-9_.-]{1,9}", token in prop::option::of(65usize..300),
        lane in prop::sample::select(Lane::ALL.to_vec()), bits: u8,
        payload in prop::collection::vec(any::<u8>(), 0..6000),
    ) -> Envelope {
        let incarnation = Incarnation { counter, nonce };
        let destination = Address { name: name("server"), incarnation: exact.then_some(incarnation) };
        Envelope {
            header: Header { kind, sequence, common: Arc::new(Common { origin: Address::exact(name(&origin), incarnation), destination: Arc::new(destination), target: ChannelTopicOf(&channel).into(), token: token.and_then(|len| Token::from_bytes(vec![len as u8; len].into())), lane, flags: Flags::from_wire(bits) }), budget_ms, hops_left, extras },
            payload: payload.into(),
        }
    }
}

struct ChannelTopicOf<'a>(&'a str);

impl From<ChannelTopicOf<'_>> for crate::name::ChannelTopic {
    fn from(text: ChannelTopicOf<'_>) -> Self {
        Self::parse(text.0, "t").unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn decoding_gives_back_what_was_encoded_however_the_bytes_are_split(
        sent in prop::collection::vec(envelopes(), 1..6),
        splits in prop::collection::vec(1usize..900, 1..60),
        pauses in prop::collection::vec(any::<bool>(), 1..10),
    ) {
        let mut encoder = Encoder::new();
        let bytes: Vec<u8> = sent.iter().flat_map(|e| encode(&mut encoder, &Frame::Message(e.clone()))).collect();
        let (mut decoder, mut got, mut at) = (Decoder::new(FrameLimits::default()), Vec::new(), 0);
        let mut splits = splits.iter().cycle();
        let mut pauses = pauses.iter().cycle();
        while at < bytes.len() {
            let end = bytes.len().min(at + splits.next().unwrap());
            let mut chunk = Bytes::copy_from_slice(&bytes[at..end]);
            // A reader that stops in the middle goes on later with what was kept.
            for _ in 0..8 {
                let go_on = *pauses.next().unwrap();
                decoder.feed(std::mem::take(&mut chunk), |frame| { got.push(frame); go_on }).unwrap();
            }
            at = end;
        }
        decoder.feed(Bytes::new(), |frame| { got.push(frame); true }).unwrap();
        let want: Vec<Frame> = sent.into_iter().map(Frame::Message).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_hold_more_than_it_was_given(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut decoder = Decoder::new(FrameLimits::default());
        let _ = decoder.feed(bytes.clone().into(), |_| true);
        prop_assert!(decoder.pending() <= bytes.len());
    }

    #[test]
    fn f_31_no_flipped_bit_makes_the_decoder_panic(envelope in envelopes(), bit: usize) {
        let mut bytes = encode(&mut Encoder::new(), &Frame::Message(envelope));
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _ = decode(&bytes);
    }

    #[test]
    fn what_is_decoded_is_encoded_to_the_same_meaning(header in prop::collection::vec(any::<u8>(), 1..80)) {
        if let Ok(frames) = decode(&one_message(&header)) {
            for frame in frames {
                let again = encode(&mut Encoder::new(), &frame);
                prop_assert_eq!(decode(&again).unwrap(), vec![frame]);
            }
        }
    }
}
