//! The way to the parent: name, packets, handshake, greeting. Nothing is registered.

use std::time::Duration;

use cellbus_proto::{
    causes::with_sources,
    clock_offset::{ClockOffset, ClockVerdict},
    topology::CellSpec,
};
use cellbus_runtime::{
    authority::Credentials,
    carrier::DialTarget,
    preflight::{Errand, HelloRefused, ProbeError, Reached, probe},
};

use crate::check::{Check, Finding};

/// Time for each step.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a packet that passes wherever QUIC does.
const SMALL_PACKET: u16 = 1200;
/// Seconds that a clock may be behind the one of whoever issued a certificate; they are issued with a margin.
const MARGIN: u64 = 240;

pub(super) async fn examine(
    credentials: &Credentials,
    spec: &CellSpec,
    parent: &CellSpec,
    target: DialTarget,
    now_unix: u64,
) -> Vec<Finding> {
    let place = target.to_string();
    let errand = Errand {
        own: spec.fqcn.clone(),
        parent: parent.name.clone(),
        parent_path: parent.fqcn.clone(),
        target,
        patience: PATIENCE,
    };
    match probe(credentials, &errand).await {
        Ok(reached) => reached_parent(&place, reached, credentials, now_unix),
        Err(ProbeError::Resolve(error)) => {
            vec![Finding::fail(Check::Resolve, with_sources(&error))]
        }
        Err(ProbeError::Refused(error)) => {
            let found = format!("{place}: {}", with_sources(&error));
            vec![
                Finding::ok(Check::Resolve, place.clone()),
                Finding::ok(Check::Reach, format!("{place} answers")),
                Finding::fail(Check::Handshake, found),
            ]
        }
        Err(error @ ProbeError::Unanswered(_)) => {
            let found = format!("{place}: {}", with_sources(&error));
            vec![Finding::ok(Check::Resolve, place.clone()), Finding::fail(Check::Reach, found)]
        }
        Err(error) => vec![Finding::fail(Check::Reach, with_sources(&error))],
    }
}

fn reached_parent(
    place: &str,
    reached: Reached,
    credentials: &Credentials,
    now_unix: u64,
) -> Vec<Finding> {
    let Reached { parent, parent_not_before, handshake, mtu, hello } = reached;
    let offset = hello.as_ref().ok().copied().flatten();
    let hello = match hello {
        Ok(_) => {
            Finding::ok(Check::Hello, format!("{} takes this cell for its child", parent.name))
        }
        Err(error @ HelloRefused::Closed(_)) => {
            let finding = Finding::fail(Check::Hello, error.to_string());
            finding.with_fix(
                "Look at the WARN lines of the parent: it may not be registered yet, or its topology may not name this cell.",
            )
        }
        Err(error) => Finding::fail(Check::Hello, error.to_string()),
    };
    let mtu = if mtu > SMALL_PACKET {
        Finding::ok(Check::Mtu, format!("packets of {mtu} bytes pass"))
    } else {
        Finding::warn(Check::Mtu, format!("packets of {mtu} bytes pass, and none larger"))
    };
    let newest = parent_not_before.max(credentials.certificate().dates().not_before);
    let clock = clock(offset, newest, now_unix);
    let ms = handshake.as_millis();
    vec![
        Finding::ok(Check::Resolve, place.to_owned()),
        Finding::ok(Check::Reach, format!("{place} answers")),
        Finding::ok(Check::Handshake, format!("{parent} in {ms} ms")),
        hello,
        mtu,
        clock,
    ]
}

/// What is known about this machine's clock: what the parent's says, and that certificates are issued before they are used.
///
/// # Arguments
/// `newest`: first second of the newest certificate that was seen.
fn clock(offset: Option<ClockOffset>, newest: u64, now_unix: u64) -> Finding {
    if now_unix + MARGIN < newest {
        let behind = newest - now_unix;
        return Finding::fail(Check::Clock, format!("the clock is at least {behind} s behind"));
    }
    let Some(offset) = offset else {
        let found = "in agreement with the certificates of both ends; the parent does not say what time it is";
        return Finding::ok(Check::Clock, found);
    };
    let limit = ClockOffset::LIMIT_MS / 1000;
    let found = format!("the parent's clock is {offset}");
    match offset.verdict() {
        ClockVerdict::Agree => Finding::ok(Check::Clock, found),
        ClockVerdict::Unclear => Finding::warn(
            Check::Clock,
            format!("{found}, too uncertain to say that they differ by at most {limit} s"),
        ),
        ClockVerdict::Apart => Finding::warn(
            Check::Clock,
            format!(
                "{found}; tokens and signed messages count for clocks that differ by at most {limit} s"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    const NOW: u64 = 1_800_000_000;

    fn seen(ahead_ms: i64, uncertainty_ms: u64) -> (Outcome, String) {
        let finding = clock(Some(ClockOffset { ahead_ms, uncertainty_ms }), NOW, NOW);
        assert_eq!(finding.code, "DOC_CLOCK");
        assert_eq!(finding.fix.is_some(), finding.outcome != Outcome::Ok);
        (finding.outcome, finding.found)
    }

    #[test]
    fn k_02_the_offset_to_the_parent_is_said_and_warned_about_where_tokens_would_fail() {
        let (outcome, found) = seen(-1200, 3);
        assert_eq!(outcome, Outcome::Ok);
        assert_eq!(found, "the parent's clock is 1200 ms behind this one (± 3 ms)");
        for ahead_ms in [31_000, -31_000] {
            let (outcome, found) = seen(ahead_ms, 3);
            assert_eq!(outcome, Outcome::Warn, "{found}");
            assert!(found.contains("31000 ms") && found.contains("at most 30 s"), "{found}");
        }
        let (outcome, found) = seen(29_000, 2_000);
        assert!(outcome == Outcome::Warn && found.contains("too uncertain"), "{found}");
    }

    #[test]
    fn k_02_a_clock_that_is_before_a_certificate_fails_whatever_the_parent_says() {
        let offset = Some(ClockOffset { ahead_ms: 0, uncertainty_ms: 1 });
        let finding = clock(offset, NOW + MARGIN + 1, NOW);
        assert_eq!(finding.outcome, Outcome::Fail, "{finding}");
        let silent = clock(None, NOW, NOW);
        assert_eq!(silent.outcome, Outcome::Ok);
        assert!(silent.found.contains("does not say"), "{silent}");
    }
}
