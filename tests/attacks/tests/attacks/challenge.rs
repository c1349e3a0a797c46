//! Challenges and proofs: replayed, borrowed, shifted, used twice.

use bytes::{Bytes, BytesMut};
use cellbus_attacks::{
    Closed, Outcome, RawPeer, attack,
    wire::{self, Mp},
};
use cellbus_proto::{
    codec::{
        Encoder, Frame,
        body::{self, Blob, Register, WireChallenge},
    },
    envelope::Lane,
    status::Status,
    token::Token,
    transcript::{Purpose, Transcript},
    well_known::{CHALLENGE, REGISTER},
};

#[test]
fn atk_020_a_proof_is_worth_nothing_on_another_connection() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let (first, ok) = RawPeer::greeted(target, "server", "x").await;
        let proof = first.proof(&ok.challenge);
        let before = target.look().await;
        let mut second = RawPeer::connect(target, "server", "x").await;
        (second.nonce, second.incarnation) = (first.nonce, first.incarnation);
        second.greet().await;
        second.assert_proof_refused(&proof).await;
        target.assert_refused(&before, &[("server", Status::BadSignature, 1)]).await;
        assert_eq!(target.holds("server", "x").await, (false, false));
    });
}

#[test]
fn p_01_a_proof_over_the_right_challenge_is_bound_to_its_tls_session() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let before = target.look().await;
        // All but the exporter is what it should be: what somebody in the middle could at best bring about.
        let (other, _) = RawPeer::greeted(target, "server", "x").await;
        let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
        x.exporter = other.exporter;
        let proof = x.proof(&ok.challenge);
        x.assert_proof_refused(&proof).await;
        target.assert_refused(&before, &[("server", Status::BadSignature, 1)]).await;
    });
}

#[test]
fn atk_022_without_a_pending_challenge_there_is_no_registration() {
    attack(async |target, guard| {
        guard.expect("DUPLICATE_NAME");
        guard.expect("NO_CHALLENGE");
        let mut holder = RawPeer::registered(target, "server", "x").await;
        holder.beat_and_wait().await;
        let before = target.look().await;
        // Another process of the same name is told so; its challenge is used up by that.
        let (mut copy, ok) = RawPeer::greeted(target, "server", "x").await;
        let proof = copy.proof(&ok.challenge);
        let (refused, ()) = tokio::join!(copy.send_proof(&proof), holder.answer_ping());
        assert_eq!(refused.map(drop), Err(Status::DuplicateName));
        copy.assert_proof_refused(&proof).await;
        let refused = [("server", Status::DuplicateName, 1), ("server", Status::NoChallenge, 1)];
        target.assert_refused(&before, &refused).await;
        holder.settle(Lane::Control).await;
        assert_eq!(target.holds("server", "x").await, (true, true));
    });
}

#[test]
fn atk_022_a_nonce_that_the_child_brings_along_is_no_part_of_a_proof() {
    attack(async |target, guard| {
        guard.expect("BAD_FRAME");
        let before = target.look().await;
        let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
        let Register { signature, end_to_end } = x.proof(&ok.challenge);
        let with_nonce =
            Mp::A(vec![Mp::B(signature.0), Mp::B(end_to_end.0), Mp::B(vec![7; 32])]).bytes();
        x.send_exempt(REGISTER, with_nonce).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::BadFrame, 1)]).await;
        assert_eq!(target.holds("server", "x").await, (false, false));
    });
}

#[test]
fn atk_024_nobody_can_replace_the_challenge_of_another() {
    attack(async |target, guard| {
        guard.expect("ORIGIN_MISMATCH");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let (mut victim, ok) = RawPeer::greeted(target, "server", "z").await;
        let before = target.look().await;
        let mut request = x.request("server", "task/fetch");
        request.header.target = CHALLENGE.into();
        request.header.origin = x.address_of("z");
        request.header.lane = Lane::Control;
        request.header.token = None;
        request.payload = Bytes::new();
        x.send(request).await;
        x.settle(Lane::Control).await;
        // Its own challenge replaces nothing but its own.
        x.register_again().await.expect("the papers are good");
        let proof = victim.proof(&ok.challenge);
        victim.send_proof(&proof).await.expect("the victim's challenge is still the one it was");
        target.assert_refused(&before, &[("server", Status::OriginMismatch, 1)]).await;
        target.until_holds("server", "z", (true, true)).await;
        target.until_holds("server", "x", (true, true)).await;
    });
}

/// The bytes of one register request on a fresh control stream that has said HELLO.
fn register_twice(x: &mut RawPeer, challenge: &WireChallenge) -> Vec<u8> {
    let mut envelope = x.request("server", "task/fetch");
    envelope.header.target = REGISTER.into();
    envelope.header.lane = Lane::Control;
    envelope.payload = body::encode(&x.proof(challenge));
    let (mut bytes, mut encoder) = (BytesMut::new(), Encoder::new());
    for _ in 0..2 {
        let frame = Frame::Message(envelope.clone());
        assert!(encoder.encode(&frame, &mut bytes).is_none(), "proofs are small");
    }
    bytes.to_vec()
}

#[test]
fn atk_025_a_proof_that_comes_twice_is_accepted_at_most_once_and_leaves_no_ghost() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let before = target.look().await;
        for round in 0..100 {
            let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
            let twice = register_twice(&mut x, &ok.challenge);
            if round % 2 == 0 {
                x.write(&twice).await;
            } else {
                let (once, again) = twice.split_at(twice.len() / 2);
                x.write(once).await;
                x.write(again).await;
            }
            assert!(matches!(x.closed().await, Closed::Application(4 | 5, _)));
            let accepted = x
                .unasked()
                .into_iter()
                .filter(|frame| matches!(frame, Frame::Answer(answer) if answer.status == 0))
                .count();
            assert!(accepted <= 1, "round {round}: {accepted} accepted");
            target.until_gone("server", "x").await;
        }
        let now = target.look().await;
        assert!(now.unchanged_since(&before), "{now:?}");
    });
}

#[test]
fn atk_026_what_the_server_signs_for_a_chosen_nonce_is_good_for_nothing_else() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        // The nonce is the beginning of what another purpose signs.
        let wanted = Transcript::new(Purpose::Token).field(b"claims of my choice").finish();
        let (mut first, mut nonce) = (RawPeer::connect(target, "server", "x").await, [0; 32]);
        nonce.copy_from_slice(&wanted[wanted.len() - 32..]);
        first.nonce = nonce;
        let signature = first.register().await.expect("the papers are good").signature;
        let before = target.look().await;

        let forged = Token::from_bytes([&wanted[..], &signature.0[..]].concat().into());
        let mut request = first.request("server", "task/fetch");
        request.header.token = forged;
        guard.expect("BAD_TOKEN");
        assert_eq!(first.ask(request).await, Outcome::returned(Status::BadToken, "server"));

        for end_to_end_too in [false, true] {
            let mut second = RawPeer::connect(target, "server", "z").await;
            second.nonce = nonce;
            let ok = second.greet().await;
            let mut proof = second.proof(&ok.challenge);
            if end_to_end_too {
                proof.end_to_end = signature.clone();
            } else {
                proof.signature = signature.clone();
            }
            second.assert_proof_refused(&proof).await;
        }
        let refused = [("server", Status::BadToken, 1), ("server", Status::BadSignature, 2)];
        target.assert_refused(&before, &refused).await;
        assert_eq!(target.holds("server", "z").await, (false, false));
    });
}

#[test]
fn atk_028_the_servers_own_words_do_not_come_back_as_a_proof() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let before = target.look().await;
        // The server's challenge as the child's own nonce, and a proof with the roles exchanged.
        let (first, ok) = RawPeer::greeted(target, "server", "x").await;
        let mut second = RawPeer::connect(target, "server", "x").await;
        second.nonce = ok.challenge.nonce.0;
        let answer = second.greet().await;
        let swapped = second.signable(Purpose::Register, &answer.challenge, |facts| {
            std::mem::swap(&mut facts.child, &mut facts.parent);
            std::mem::swap(&mut facts.child_kind, &mut facts.parent_kind);
            std::mem::swap(&mut facts.child_nonce, &mut facts.parent_nonce);
            std::mem::swap(&mut facts.child_leaf, &mut facts.parent_leaf);
        });
        let proof = second.proof(&answer.challenge);
        let swapped = Register { signature: Blob(second.papers.sign(&swapped)), ..proof };
        second.assert_proof_refused(&swapped).await;
        drop(first);
        // A signature for the purpose of the server's answer.
        let (mut third, ok) = RawPeer::greeted(target, "server", "x").await;
        let ack = third.signable(Purpose::RegisterAck, &ok.challenge, |_| {});
        let proof = third.proof(&ok.challenge);
        let ack = Register { signature: Blob(third.papers.sign(&ack)), ..proof };
        third.assert_proof_refused(&ack).await;
        target.assert_refused(&before, &[("server", Status::BadSignature, 2)]).await;
        assert_eq!(target.holds("server", "x").await, (false, false));
    });
}

#[test]
fn atk_029_bytes_cannot_move_from_one_field_of_a_proof_to_the_next() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let before = target.look().await;
        type Shift = fn(&mut cellbus_proto::transcript::RegisterFacts<'_>);
        let shifts: [Shift; 4] = [
            |facts| (facts.project, facts.child) = ("attack", "sx"),
            |facts| (facts.project, facts.child) = ("attacksx", ""),
            |facts| (facts.child, facts.child_kind) = ("xclient", ""),
            |facts| (facts.parent, facts.parent_kind) = ("serverser", "ver"),
        ];
        for shift in shifts {
            let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
            let signable = x.signable(Purpose::Register, &ok.challenge, shift);
            let proof = x.proof(&ok.challenge);
            let shifted = Register { signature: Blob(x.papers.sign(&signable)), ..proof };
            x.assert_proof_refused(&shifted).await;
        }
        target.assert_refused(&before, &[("server", Status::BadSignature, 4)]).await;
    });
}

#[test]
fn a_proof_without_the_other_half_is_no_proof() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let before = target.look().await;
        for garbage in [vec![], vec![0; 64], vec![0x30; 72], vec![0xff; 4096]] {
            for end_to_end_too in [false, true] {
                let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
                let mut proof = x.proof(&ok.challenge);
                let half =
                    if end_to_end_too { &mut proof.end_to_end } else { &mut proof.signature };
                *half = Blob(garbage.clone());
                x.assert_proof_refused(&proof).await;
            }
        }
        target.assert_refused(&before, &[("server", Status::BadSignature, 8)]).await;
    });
}

#[test]
fn atk_050_a_storm_of_good_registrations_ends_in_a_rate_limit() {
    attack(async |target, guard| {
        guard.expect("RATE_LIMIT");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        for _ in 1..30 {
            x.register_again().await.expect("thirty a minute are allowed");
        }
        let names: Vec<_> = target.inspect("server").await.registered;
        assert_eq!(names.iter().filter(|peer| peer.name == "x").count(), 1);
        x.send_exempt(CHALLENGE, Bytes::new()).await;
        assert!(matches!(x.closed().await, Closed::Application(4 | 5, _)));
        target.until_gone("server", "x").await;
        target.assert_refused(&before, &[("server", Status::RateLimit, 1)]).await;
    });
}

#[test]
fn atk_160_a_peer_that_only_wants_challenges_gets_few_and_harms_nobody() {
    attack(async |target, guard| {
        guard.expect("RATE_LIMIT");
        // What had been read of the rest before the connection was closed.
        guard.tolerate("PEER_UNKNOWN");
        let before = target.look().await;
        let (mut x, _) = RawPeer::greeted(target, "server", "x").await;
        let mut envelope = x.request("server", "task/fetch");
        envelope.header.target = CHALLENGE.into();
        envelope.header.lane = Lane::Control;
        envelope.payload = Bytes::new();
        let (mut bytes, mut encoder) = (BytesMut::new(), Encoder::new());
        for sequence in 1..=10_000 {
            envelope.header.sequence = sequence;
            let _ = encoder.encode(&Frame::Message(envelope.clone()), &mut bytes);
        }
        x.write(&bytes).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        let made = x.unasked().iter().filter(|frame| matches!(frame, Frame::Answer(_))).count();
        assert!(made < 30, "{made} challenges");
        target.ping("site-2", "server").await;
        target.until_gone("server", "x").await;
        assert_eq!(target.refused_since(&before, "server", Status::RateLimit).await, 1);
        assert!(target.look().await.unchanged_since(&before));
    });
}

#[test]
fn a_body_of_a_register_request_is_bounded() {
    attack(async |target, guard| {
        guard.expect("TOO_LARGE");
        let before = target.look().await;
        for (topic, len) in [(REGISTER, (64 << 10) + 1), (CHALLENGE, (8 << 10) + 1)] {
            let (mut x, _) = RawPeer::greeted(target, "server", "x").await;
            x.send_exempt(topic, vec![0; len]).await;
            assert_eq!(x.closed().await, Closed::unauthenticated(), "{topic:?}");
        }
        target.assert_refused(&before, &[("server", Status::TooLarge, 2)]).await;
        let (mut x, _) = RawPeer::greeted(target, "server", "x").await;
        x.write(&wire::prefix(wire::MESSAGE, 40, (1 << 20) + 1)).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
    });
}
