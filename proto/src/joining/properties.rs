//! What holds of a door whatever is done to it, and each of its refusals by itself.

use proptest::prelude::*;

use super::*;
use crate::codec::Octets;

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3600;

fn site() -> Segment {
    "site-9".parse().unwrap()
}

fn knocked<'a>(name: &'a Segment, access: &'a [u8; 32], key: u8, request: u8) -> Knocked<'a> {
    let (certificate_sha256, request_sha256) = ([key; 32], [request; 32]);
    Knocked { name, access, certificate_sha256, request_sha256 }
}

fn door() -> Door {
    let mut door = Door::default();
    let entry = door.invited(&site(), sha256(&[1; 32]), NOW + HOUR, NOW).unwrap();
    door.put(site(), entry);
    door
}

fn waiting() -> Door {
    let mut door = door();
    let Step::Keep(entry) = door.knock(&knocked(&site(), &[1; 32], 5, 6), NOW).unwrap() else {
        panic!("the first one is kept");
    };
    door.put(site(), entry);
    door
}

fn answered() -> Door {
    let mut door = waiting();
    let entry = door.answered(&site(), [6; 32], [9; 32]).unwrap();
    door.put(site(), entry);
    door
}

#[test]
fn v_22_whoever_comes_first_with_the_secret_waits_and_is_given_the_reply() {
    let (name, access) = (site(), [1; 32]);
    let knock = knocked(&name, &access, 5, 6);
    assert_eq!(door().answered(&name, [6; 32], [9; 32]), Err(DoorError::NoRequest));
    assert_eq!(waiting().knock(&knock, NOW), Ok(Step::Wait));
    assert_eq!(answered().knock(&knock, NOW), Ok(Step::Give([9; 32])));
    // For as long as it may be collected, as often as is asked.
    let late = NOW + HOUR + COLLECT_S;
    assert_eq!(answered().knock(&knock, late), Ok(Step::Give([9; 32])));
    assert_eq!(answered().knock(&knock, late + 1), Err(Refusal::Expired));
}

#[test]
fn v_22_atk_150_another_key_or_request_under_the_same_secret_is_refused_at_every_stage() {
    let (name, access) = (site(), [1; 32]);
    for door in [waiting(), answered()] {
        let before = door.clone();
        assert_eq!(door.knock(&knocked(&name, &access, 7, 6), NOW), Err(Refusal::Taken));
        assert_eq!(door.knock(&knocked(&name, &access, 5, 7), NOW), Err(Refusal::Changed));
        assert_eq!(door, before);
    }
    let other = waiting().answered(&name, [7; 32], [9; 32]);
    assert_eq!(other, Err(DoorError::OtherRequest));
}

#[test]
fn v_22_atk_150_an_unknown_name_and_a_wrong_secret_are_told_the_same() {
    let (name, nobody, access) = (site(), "site-8".parse().unwrap(), [1; 32]);
    let expired = NOW + HOUR + COLLECT_S + 1;
    let mut rejected = door();
    let entry = rejected.rejected(&name).unwrap();
    rejected.put(site(), entry);
    for door in [door(), waiting(), answered(), rejected.clone()] {
        for now in [NOW, expired] {
            assert_eq!(door.knock(&knocked(&name, &[2; 32], 5, 6), now), Err(Refusal::Unknown));
            assert_eq!(door.knock(&knocked(&nobody, &access, 5, 6), now), Err(Refusal::Unknown));
        }
    }
    assert_eq!(rejected.knock(&knocked(&name, &access, 5, 6), NOW), Err(Refusal::Rejected));
    assert_eq!(door().knock(&knocked(&name, &access, 5, 6), NOW + HOUR + 1), Err(Refusal::Expired));
    assert_eq!(rejected.answered(&name, [6; 32], [9; 32]), Err(DoorError::Rejected));
}

#[test]
fn v_22_a_door_keeps_no_more_than_it_may_and_forgets_what_is_over() {
    let mut door = Door::default();
    for number in 0..ENTRIES_MAX {
        let name: Segment = format!("site-{number}").parse().unwrap();
        let entry = door.invited(&name, [0; 32], NOW + HOUR, NOW).unwrap();
        door.put(name, entry);
    }
    assert_eq!(door.invited(&"more".parse().unwrap(), [0; 32], NOW + 1, NOW), Err(DoorError::Full));
    door.invited(&"site-1".parse().unwrap(), [0; 32], NOW + 1, NOW).unwrap();
    assert_eq!(
        door.invited(&"site-1".parse().unwrap(), [0; 32], NOW - 1, NOW),
        Err(DoorError::Expired)
    );
    assert_eq!(door.sweep(NOW + HOUR), Vec::<Segment>::new());
    assert_eq!(door.sweep(NOW + HOUR + 1).len(), ENTRIES_MAX);
    assert_eq!(door, Door::default());
}

/// One thing that somebody does.
#[derive(Clone, Debug)]
enum Do {
    Knock { access: u8, key: u8, request: u8 },
    Answer { request: u8, reply: u8 },
    Withdraw,
    Later(u64),
}

fn doing() -> impl Strategy<Value = Do> {
    prop_oneof![
        4 => (1u8..3, 1u8..4, 1u8..4).prop_map(|(access, key, request)| Do::Knock { access, key, request }),
        2 => (1u8..4, 1u8..3).prop_map(|(request, reply)| Do::Answer { request, reply }),
        1 => Just(Do::Withdraw),
        1 => (0u64..HOUR).prop_map(Do::Later),
    ]
}

proptest! {
    #[test]
    fn v_22_a_reply_goes_to_the_first_key_and_request_only_and_to_nobody_without_the_secret(all in prop::collection::vec(doing(), 0..40)) {
        let (mut door, mut now, name) = (door(), NOW, site());
        let mut first: Option<(u8, u8)> = None;
        for one in all {
            match one {
                Do::Later(by) => now += by,
                Do::Withdraw => {
                    let entry = door.rejected(&name).unwrap();
                    door.put(site(), entry);
                }
                Do::Answer { request, reply } => {
                    if let Ok(entry) = door.answered(&name, [request; 32], [reply; 32]) {
                        prop_assert_eq!(first.map(|(_, of)| of), Some(request));
                        door.put(site(), entry);
                    }
                }
                Do::Knock { access, key, request } => {
                    match door.knock(&knocked(&name, &[access; 32], key, request), now) {
                        Ok(step) => {
                            prop_assert_eq!(access, 1);
                            if let Step::Keep(entry) = step {
                                prop_assert_eq!(first, None, "a secret is used once");
                                first = Some((key, request));
                                prop_assert_eq!(entry.claim().unwrap().certificate_sha256, Octets([key; 32]));
                                door.put(site(), entry);
                            }
                            prop_assert_eq!(first, Some((key, request)));
                        }
                        Err(refusal) => {
                            let spent = now > NOW + HOUR;
                            let good = access == 1 && first.is_none_or(|of| of == (key, request));
                            let withdrawn = door.entry(&name).unwrap().stage == Stage::Rejected;
                            prop_assert!(!good || spent || withdrawn, "{refusal}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_reading_a_frame_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = (Knock::from_body(&bytes).is_ok(), Answer::from_body(&bytes).is_ok());
    }
}
