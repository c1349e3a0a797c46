use proptest::prelude::*;

use super::*;
use crate::{codec::Octets, testing::at, transfer::Digest};

fn key(id: u8) -> ShareKey {
    ShareKey {
        destination: "server".parse().unwrap(),
        target: "model/weights".parse().unwrap(),
        id: TransferId::from_bytes([id; 16]),
        generation: 1,
    }
}

fn fetch(offset: u64) -> Fetch {
    let id = TransferId::from_bytes([1; 16]);
    Fetch { id, generation: 1, offset, nonce: Octets([1; 16]), have: false, digest: None }
}

fn answer(offset: u64, data: bool) -> Answer {
    let id = TransferId::from_bytes([1; 16]);
    Answer { id, generation: 1, size: Some(100), size_max: 100, offset, data, digest: None }
}

fn of(id: u8, answer: Answer) -> Answer {
    Answer { id: TransferId::from_bytes([id; 16]), ..answer }
}

fn trailer() -> Trailer {
    Trailer { size: 100, digest: Digest::of(b"x"), generation: 1 }
}

fn share(budget: u64) -> Share {
    let settings =
        ShareSettings { budget, window_min: 20, ahead_max: 10, ..ShareSettings::default() };
    Share::new(settings)
}

fn open(share: &mut Share, mut key: ShareKey, reader: u64, fetch: &Fetch) -> Role {
    share.handle_open(&mut key, reader, fetch)
}

fn lead(share: &mut Share, reader: u64, offset: u64) -> Followed {
    assert_eq!(open(share, key(1), reader, &fetch(offset)), Role::Lead);
    share.handle_answer(at(0), &key(1), reader, &answer(offset, true))
}

fn follow(share: &mut Share, reader: u64, offset: u64) -> Followed {
    assert_eq!(open(share, key(1), reader, &fetch(offset)), Role::Follow);
    share.handle_answer(at(0), &key(1), reader, &answer(offset, false))
}

fn spool(share: &mut Share, bytes: u64) -> bool {
    spool_by(share, 1, bytes)
}

fn spool_by(share: &mut Share, leader: u64, bytes: u64) -> bool {
    let taken = share.handle_filling(&key(1), leader, bytes);
    if taken {
        share.handle_spooled(&key(1), leader, bytes);
    }
    taken
}

#[test]
fn the_first_one_asks_for_the_bytes_and_the_others_for_the_answer_alone() {
    let mut share = share(1000);
    assert_eq!(open(&mut share, key(1), 1, &fetch(0)), Role::Lead);
    assert_eq!(open(&mut share, key(1), 2, &fetch(0)), Role::Wait, "nothing is known yet");
    let spooled = Spooled { spool: SpoolId(1), capacity: 100, from: 0 };
    let filled = share.handle_answer(at(0), &key(1), 1, &answer(0, true));
    assert_eq!(filled, Followed::Fill(spooled));
    assert_eq!(follow(&mut share, 2, 0), Followed::Serve(spooled));
    assert_eq!(share.next(&key(1), 1), Next::Wait);
    assert!(spool(&mut share, 60));
    for reader in [1, 2] {
        assert_eq!(share.next(&key(1), reader), Next::Read { from: 0, len: 60 });
    }
    assert!(share.handle_read(&key(1), 2, 60) && spool(&mut share, 40));
    share.handle_trailer(&key(1), 1, trailer());
    assert_eq!(share.next(&key(1), 2), Next::Read { from: 60, len: 40 });
    assert!(share.handle_read(&key(1), 2, 40));
    assert_eq!(share.next(&key(1), 2), Next::Trailer(trailer()));
    assert_eq!(share.next(&key(1), 1), Next::Read { from: 0, len: 100 }, "a slow one reads later");
}

#[test]
fn who_comes_late_is_served_from_what_is_kept_and_nobody_after_that() {
    let mut share = share(1000);
    lead(&mut share, 1, 0);
    spool(&mut share, 100);
    share.handle_trailer(&key(1), 1, trailer());
    assert!(!share.handle_left(at(5), &key(1), 1), "nothing is still sent");
    assert!(matches!(follow(&mut share, 2, 50), Followed::Serve(Spooled { from: 50, .. })));
    assert_eq!(share.expire(at(9000)), [], "it is read");
    share.handle_left(at(9000), &key(1), 2);
    assert_eq!((share.deadline(), share.used()), (Some(at(12_600)), 100));
    assert_eq!(share.expire(at(12_600)), [SpoolId(1)]);
    assert_eq!((share.used(), share.deadline()), (0, None));
    assert_eq!(open(&mut share, key(1), 3, &fetch(0)), Role::Lead);
}

#[test]
fn nothing_is_shared_with_another_transfer_content_or_end() {
    let mut share = share(1000);
    lead(&mut share, 1, 30);
    let later = Fetch { generation: 2, ..fetch(30) };
    assert_eq!(open(&mut share, key(1), 2, &later), Role::Plain);
    assert_eq!(open(&mut share, key(2), 2, &fetch(30)), Role::Plain, "a hint is no more");
    let have = Fetch { have: true, ..fetch(30) };
    assert_eq!(open(&mut share, key(1), 2, &have), Role::Plain);
    assert_eq!(open(&mut share, key(1), 2, &fetch(29)), Role::Plain, "that is not there");
    assert_eq!(open(&mut share, key(1), 2, &fetch(41)), Role::Plain, "too far ahead");
    assert_eq!(open(&mut share, key(1), 3, &fetch(40)), Role::Follow);
    let other = Answer { generation: 2, ..answer(40, false) };
    assert_eq!(share.handle_answer(at(0), &key(1), 3, &other), Followed::Cut);
    assert_eq!(share.next(&key(1), 3), Next::Cut);
}

/// A transfer of later, whose reference says the digest of what is in the spool of the first.
fn again(digest: Digest) -> (ShareKey, Fetch, Answer) {
    let key = ShareKey { generation: 5, target: "model/again".parse().unwrap(), ..key(2) };
    let (generation, digest) = (5, Some(digest));
    let fetch = Fetch { id: key.id, generation, digest, ..fetch(0) };
    let answer = Answer { generation, digest, ..of(2, answer(0, false)) };
    (key, fetch, answer)
}

fn whole() -> Share {
    let mut share = share(1000);
    lead(&mut share, 1, 0);
    spool(&mut share, 100);
    share.handle_trailer(&key(1), 1, trailer());
    share
}

#[test]
fn the_same_bytes_in_a_later_transfer_come_from_what_is_kept_of_the_first() {
    let mut share = whole();
    share.handle_left(at(0), &key(1), 1);
    let (mut wanted, fetch, answer) = again(trailer().digest);
    assert_eq!(share.handle_open(&mut wanted, 2, &fetch), Role::Follow);
    assert_eq!(wanted, key(1), "that is where it lies");
    let at_zero = Spooled { spool: SpoolId(1), capacity: 100, from: 0 };
    assert_eq!(share.handle_answer(at(0), &wanted, 2, &answer), Followed::Serve(at_zero));
    assert!(share.handle_read(&wanted, 2, 100));
    let theirs = Trailer { generation: 5, ..trailer() };
    assert_eq!(share.next(&wanted, 2), Next::Trailer(theirs), "of the content that it asked for");
    share.handle_left(at(30), &wanted, 2);
    assert_eq!(share.deadline(), Some(at(30) + ShareSettings::default().keep));
}

#[test]
fn a_digest_that_only_the_receiver_names_opens_nothing() {
    let said = trailer().digest;
    let (wanted, fetch, right) = again(said);
    let wrong = [
        Answer { digest: None, ..right.clone() },
        Answer { digest: Some(Digest::of(b"y")), ..right.clone() },
        Answer { size: Some(99), ..right.clone() },
        Answer { size: None, ..right.clone() },
        Answer { generation: 1, ..right.clone() },
        Answer { offset: 1, ..right.clone() },
    ];
    for answer in wrong {
        let (mut share, mut key) = (whole(), wanted.clone());
        assert_eq!(share.handle_open(&mut key, 2, &fetch), Role::Follow);
        let followed = share.handle_answer(at(0), &key, 2, &answer);
        assert_eq!((followed, share.next(&key, 2)), (Followed::Cut, Next::Cut), "{answer:?}");
    }
    // Nor is it found for another holder, by another digest, behind its end, or before all of it is there.
    let elsewhere = ShareKey { destination: "site-1".parse().unwrap(), ..wanted.clone() };
    let far = Fetch { offset: 101, ..fetch.clone() };
    let (_, other, _) = again(Digest::of(b"y"));
    for (key, fetch) in [(&elsewhere, &fetch), (&wanted, &far), (&wanted, &other)] {
        assert_eq!(open(&mut whole(), key.clone(), 2, fetch), Role::Lead, "{key:?} {fetch:?}");
    }
    let mut part = share(1000);
    lead(&mut part, 1, 0);
    spool(&mut part, 99);
    assert_eq!(open(&mut part, wanted, 2, &fetch), Role::Lead);
}

#[test]
fn whoever_leads_fills_the_spool_also_where_another_relay_adds_the_bytes() {
    let mut share = share(1000);
    assert_eq!(open(&mut share, key(1), 1, &fetch(0)), Role::Lead);
    let by_a_relay = share.handle_answer(at(0), &key(1), 1, &answer(0, false));
    assert!(matches!(by_a_relay, Followed::Fill(_)));
    assert!(matches!(follow(&mut share, 2, 0), Followed::Serve(_)));
}

#[test]
fn a_leader_that_is_refused_leaves_its_place_to_the_next() {
    let mut share = share(1000);
    open(&mut share, key(1), 1, &fetch(0));
    assert_eq!(open(&mut share, key(1), 2, &fetch(0)), Role::Wait);
    share.handle_refused(at(0), &key(1), 1);
    assert!(matches!(lead(&mut share, 2, 0), Followed::Fill(_)));
}

#[test]
fn who_has_led_may_leave_while_others_read_and_the_last_one_ends_it() {
    let mut share = share(1000);
    lead(&mut share, 1, 0);
    follow(&mut share, 2, 0);
    assert!(!share.handle_left(at(0), &key(1), 1));
    assert!(spool(&mut share, 50));
    assert!(share.handle_left(at(0), &key(1), 2), "nobody reads what still comes");
    assert!(!spool(&mut share, 1));
    // What is there is gone on with.
    let on = lead(&mut share, 3, 40);
    assert_eq!(on, Followed::Fill(Spooled { spool: SpoolId(1), capacity: 100, from: 40 }));
    assert!(matches!(follow(&mut share, 4, 0), Followed::Serve(_)));
    // What the first one was about to write when it was let go of is not added to what this one brings.
    assert!(!spool(&mut share, 10));
    share.handle_spooled(&key(1), 1, 10);
    share.handle_trailer(&key(1), 1, trailer());
    assert!(spool_by(&mut share, 3, 60));
    share.handle_trailer(&key(1), 3, trailer());
    assert_eq!(share.next(&key(1), 4), Next::Read { from: 0, len: 100 });
}

#[test]
fn a_lost_source_cuts_its_readers_off_behind_what_is_there() {
    let mut share = share(1000);
    lead(&mut share, 1, 0);
    follow(&mut share, 2, 50 - 40);
    spool(&mut share, 50);
    share.handle_read(&key(1), 2, 40);
    share.handle_source_lost(&key(1), 7);
    assert_eq!(share.next(&key(1), 2), Next::Wait, "somebody else's are still coming");
    share.handle_source_lost(&key(1), 1);
    assert_eq!(share.next(&key(1), 1), Next::Read { from: 0, len: 50 });
    share.handle_read(&key(1), 1, 50);
    assert_eq!(share.next(&key(1), 1), Next::Cut);
}

#[test]
fn a_spool_that_cannot_keep_everything_cuts_off_the_slow_and_waits_for_the_fastest() {
    let mut share = share(30);
    assert!(matches!(lead(&mut share, 1, 0), Followed::Fill(Spooled { capacity: 30, .. })));
    follow(&mut share, 2, 0);
    assert_eq!(share.room(&key(1), 1), 30);
    assert!(spool(&mut share, 30));
    assert_eq!(share.room(&key(1), 1), 0, "nobody has read");
    share.handle_read(&key(1), 1, 25);
    assert_eq!(share.room(&key(1), 1), 25);
    assert!(spool(&mut share, 20));
    assert_eq!(share.next(&key(1), 1), Next::Read { from: 25, len: 5 }, "to the turn of the file");
    assert_eq!(share.next(&key(1), 2), Next::Cut);
    assert!(!share.handle_read(&key(1), 2, 5), "it has been written over");
    assert!(!spool(&mut share, 40), "more than there is room for");
}

#[test]
fn without_room_everybody_goes_alone_and_what_nobody_reads_makes_room() {
    let mut share = share(100);
    lead(&mut share, 1, 0);
    let second = ShareKey { generation: 1, ..key(2) };
    let of_second = Fetch { id: second.id, ..fetch(0) };
    assert_eq!(open(&mut share, second.clone(), 2, &of_second), Role::Lead);
    assert_eq!(share.handle_answer(at(0), &second, 2, &of(2, answer(0, true))), Followed::Plain);
    assert_eq!(open(&mut share, second.clone(), 3, &of_second), Role::Plain, "nor do others wait");
    share.handle_left(at(0), &key(1), 1);
    share.expire(at(3600));
    lead(&mut share, 4, 0);
    share.handle_left(at(3601), &key(1), 4);
    assert_eq!(open(&mut share, second.clone(), 5, &of_second), Role::Lead);
    let filled = share.handle_answer(at(3601), &second, 5, &of(2, answer(0, true)));
    assert!(matches!(filled, Followed::Fill(Spooled { capacity: 100, .. })));
    assert_eq!((share.expire(at(3601)).len(), share.used()), (1, 100));
}

proptest! {
    /// Readers and the filler take turns at random over a ring; the file is kept in memory.
    #[test]
    fn w_33_nobody_reads_a_byte_that_was_written_over_or_is_not_there(
        budget in 20u64..150,
        turns in prop::collection::vec((0u64..4, 1u64..40), 0..200),
    ) {
        let mut share = share(budget);
        let Followed::Fill(Spooled { capacity, .. }) = lead(&mut share, 0, 0) else {
            return Ok(());
        };
        for reader in 1..3 {
            follow(&mut share, reader, 0);
        }
        let mut file = vec![0; capacity as usize];
        let (mut filled, mut read) = (0u64, [0u64; 3]);
        for (who, bytes) in turns {
            if who == 3 {
                let bytes = bytes.min(share.room(&key(1), 0)).min(100 - filled);
                if bytes == 0 {
                    continue;
                }
                prop_assert!(share.handle_filling(&key(1), 0, bytes));
                for at in filled..filled + bytes {
                    file[(at % capacity) as usize] = at as u8;
                }
                share.handle_spooled(&key(1), 0, bytes);
                filled += bytes;
                if filled == 100 {
                    share.handle_trailer(&key(1), 0, trailer());
                }
                prop_assert!(share.used() <= budget);
                continue;
            }
            match share.next(&key(1), who) {
                Next::Read { from, len } => {
                    prop_assert_eq!(from, read[who as usize]);
                    let len = len.min(bytes);
                    for at in from..from + len {
                        prop_assert_eq!(file[(at % capacity) as usize], at as u8);
                    }
                    prop_assert!(from / capacity == (from + len - 1) / capacity);
                    prop_assert!(share.handle_read(&key(1), who, len));
                    read[who as usize] += len;
                }
                Next::Trailer(_) => prop_assert_eq!(read[who as usize], 100),
                Next::Wait => prop_assert_eq!(read[who as usize], filled),
                Next::Cut => prop_assert!(read[who as usize] + capacity < filled),
            }
        }
        // The fastest one is never cut off.
        let fastest = (0..3).max_by_key(|reader| read[*reader as usize]).unwrap();
        prop_assert_ne!(share.next(&key(1), fastest), Next::Cut);
    }
}

#[test]
fn a_part_of_a_transfer_is_kept_for_a_minute_and_all_of_it_for_an_hour() {
    let mut whole = whole();
    whole.handle_left(at(0), &key(1), 1);
    let mut part = share(1000);
    lead(&mut part, 1, 0);
    spool(&mut part, 60);
    assert!(part.handle_left(at(0), &key(1), 1));
    assert_eq!((whole.deadline(), part.deadline()), (Some(at(3600)), Some(at(60))));
    assert!(part.expire(at(59)).is_empty());
    assert_eq!(part.expire(at(60)), [SpoolId(1)]);
    assert!(whole.expire(at(3599)).is_empty());
    assert_eq!(whole.expire(at(3600)), [SpoolId(1)]);
    assert_eq!((whole.used(), part.used()), (0, 0));
}

#[test]
fn what_is_kept_makes_way_on_a_disk_that_is_full_and_is_read_to_its_end_where_it_is_read() {
    let mut share = whole();
    share.handle_left(at(0), &key(1), 1);
    let mut second = key(2);
    let fetch = Fetch { id: second.id, ..fetch(0) };
    assert_eq!(share.handle_open(&mut second, 2, &fetch), Role::Lead);
    let answer = of(2, answer(0, true));
    assert!(matches!(share.handle_answer(at(0), &second, 2, &answer), Followed::Fill(_)));
    assert!(share.handle_filling(&second, 2, 40));
    share.handle_spooled(&second, 2, 40);
    share.handle_disk_failed(&second);
    assert_eq!(share.expire(at(1)), [SpoolId(1)], "nobody reads it");
    assert!(!share.handle_filling(&second, 2, 1));
    assert_eq!(share.next(&second, 2), Next::Read { from: 0, len: 40 });
    assert!(share.handle_read(&second, 2, 40));
    assert_eq!(share.next(&second, 2), Next::Cut);
    assert_eq!(share.handle_open(&mut second, 3, &Fetch { offset: 40, ..fetch }), Role::Plain);
    assert!(share.expire(at(1)).is_empty(), "it is read");
    share.handle_left(at(1), &second, 2);
    assert_eq!(share.expire(at(1)), [SpoolId(2)]);
    assert_eq!(share.used(), 0);
}

#[test]
fn a_disk_that_fails_for_a_reader_does_not_make_a_reader_of_whoever_is_being_answered() {
    let mut share = share(1000);
    lead(&mut share, 1, 0);
    spool(&mut share, 60);
    assert!(matches!(follow(&mut share, 2, 0), Followed::Serve(_)));
    share.handle_source_lost(&key(1), 1);
    assert_eq!(open(&mut share, key(1), 3, &fetch(60)), Role::Lead);
    share.handle_disk_failed(&key(1));
    assert_eq!(open(&mut share, key(1), 4, &fetch(60)), Role::Wait);
    let answered = share.handle_answer(at(0), &key(1), 3, &answer(60, true));
    assert!(matches!(answered, Followed::Fill(_)), "its bytes are its own to take: {answered:?}");
}
