//! What a guard finds, and what it lets pass.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tracing::{debug, error, info, info_span, trace, warn};

use super::*;

const SECRET: &[u8] = b"\x00swordfish \"7\"\xff";

/// What the guard says at the end of `test`; nothing when it is content.
fn verdict(test: impl FnOnce(&LogGuard)) -> String {
    let run = || {
        let guard = LogGuard::start();
        test(&guard);
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(()) => String::new(),
        Err(panic) => panic.downcast_ref::<String>().expect("a formatted message").clone(),
    }
}

#[test]
fn a_warning_that_nobody_announced_fails_the_test() {
    let said = verdict(|_| warn!(peer = "site_a", "link lost"));
    assert!(said.contains("nobody announced: WARN"), "{said}");
    assert!(said.contains("link lost peer=\"site_a\""), "{said}");
    let said = verdict(|guard| {
        guard.expect("link lost");
        error!("disk full");
    });
    assert!(said.contains("nobody announced: ERROR"), "{said}");
    assert!(said.contains("no such event came: link lost"), "{said}");
}

#[test]
fn an_announced_warning_passes_and_so_does_all_below() {
    let said = verdict(|guard| {
        guard.expect("lost");
        warn!("link lost");
        warn!("route lost");
        info!("link up");
        assert_eq!((guard.count("lost"), guard.count("link")), (2, 1));
    });
    assert_eq!(said, "");
}

#[test]
fn what_is_tolerated_need_not_come() {
    let said = verdict(|guard| guard.tolerate("lost"));
    assert_eq!(said, "");
}

#[test]
fn the_text_names_the_fields_of_the_spans_around_it() {
    let said = verdict(|_| {
        let span = info_span!("cell", name = "relay", link = tracing::field::Empty);
        span.record("link", 7);
        span.in_scope(|| warn!("slow"));
    });
    assert!(said.contains("slow in cell{name=\"relay\" link=7}"), "{said}");
}

#[test]
fn a_guard_sees_its_own_thread_only_and_those_that_take_its_dispatch() {
    let said = verdict(|guard| {
        thread::scope(|scope| {
            scope.spawn(|| warn!("elsewhere"));
        });
        assert_eq!(guard.count("elsewhere"), 0);
        guard.expect("joined");
        thread::scope(|scope| {
            scope.spawn(|| dispatcher::with_default(guard.dispatch(), || warn!("joined")));
        });
        assert_eq!(guard.count("joined"), 1);
    });
    assert_eq!(said, "");
}

#[test]
fn an_event_is_seen_although_a_thread_without_guard_came_by_first() {
    fn rare() {
        warn!("rare");
    }
    // The guards of other tests would hide what this is about.
    let test = "guard::tests::an_event_is_seen_although_a_thread_without_guard_came_by_first";
    if crate::alone::run(test).is_some() {
        return;
    }
    let said = verdict(|guard| {
        guard.expect("rare");
        thread::scope(|scope| {
            scope.spawn(rare);
        });
        rare();
        assert_eq!(guard.count("rare"), 1);
    });
    assert_eq!(said, "");
}

#[test]
fn the_last_events_are_kept_and_no_more() {
    let guard = LogGuard::keeping(2, Level::DEBUG);
    for number in 0..4 {
        debug!(number, "counted");
        trace!("not kept");
    }
    let kept = guard.last_events();
    assert_eq!(kept.len(), 2);
    assert!(kept[0].contains("number=2") && kept[1].contains("number=3"), "{kept:?}");
}

#[test]
fn s0_12_a_secret_is_found_at_any_level_in_any_form() {
    let padded = |before: usize| STANDARD.encode([vec![9; before], SECRET.to_vec()].concat());
    let hex: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
    let forms = [
        hex.to_uppercase(),
        hex,
        format!("{SECRET:?}"),
        SECRET.escape_ascii().to_string(),
        padded(0),
        padded(1),
        padded(2),
        padded(3),
    ];
    for form in forms {
        let said = verdict(|guard| {
            guard.secret("the key", SECRET);
            trace!(%form, "sealed");
        });
        assert!(said.starts_with("a secret was logged: the key, in "), "{form}: {said:?}");
        assert!(!said.contains(&form), "the report repeats it: {said}");
    }
}

#[test]
fn s0_12_a_text_is_found_in_a_debugged_field_and_in_the_fields_of_a_span() {
    let token = "GLsS3vDBJ\"kwBRXCa";
    let tests: [fn(&str); 4] = [
        |token| trace!(token, "joined"),
        |token| trace!("joined with {token}"),
        |token| drop(tracing::trace_span!("join", token)),
        |token| {
            tracing::trace_span!("join", token = tracing::field::Empty).record("token", token);
        },
    ];
    for (number, log) in tests.into_iter().enumerate() {
        let said = verdict(|guard| {
            guard.secrets("token", [token]);
            log(token);
        });
        assert!(said.starts_with("a secret was logged: token"), "{number}: {said:?}");
    }
}

#[test]
fn s0_12_a_secret_that_was_logged_before_it_was_named_is_found() {
    let said = verdict(|guard| {
        debug!("issued swordfish-7");
        guard.secret("password", "swordfish-7");
    });
    assert!(said.contains("password, in an earlier event"), "{said}");
}

#[test]
fn other_texts_are_no_secrets() {
    let said = verdict(|guard| {
        guard.secret("the key", SECRET);
        trace!("swordfish");
        trace!("00");
    });
    assert_eq!(said, "");
}

#[test]
fn a_panic_in_a_task_fails_the_test_unless_announced() {
    let run = |announced: bool| {
        verdict(|guard| {
            if announced {
                guard.expect_panic("in the dark");
            }
            crate::seeds::run_paused(1, |_| async {
                let task = tokio::spawn(async { panic!("in the dark") });
                assert!(task.await.is_err());
            });
        })
    };
    assert!(run(false).contains("nobody announced a panic: in the dark ("));
    assert_eq!(run(true), "");
}

#[test]
fn an_announced_panic_must_come() {
    let said = verdict(|guard| guard.expect_panic("handler"));
    assert!(said.contains("no such panic came: handler"), "{said}");
}

#[test]
fn a_test_that_fails_already_is_not_judged_again() {
    let run = || {
        let _guard = LogGuard::start();
        warn!("unannounced");
        panic!("the test itself");
    };
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it panics");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the test itself"));
}
