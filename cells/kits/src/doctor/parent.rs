//! The way to the parent: name, packets, handshake, greeting. Nothing is registered.

use std::time::Duration;

use cellbus_proto::{causes::with_sources, topology::CellSpec};
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
    let hello = match hello {
        Ok(()) => {
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
    // The protocol carries no time; certificates that were issued later than now do.
    let newest = parent_not_before.max(credentials.certificate().dates().not_before);
    let clock = if now_unix + MARGIN < newest {
        let behind = newest - now_unix;
        Finding::fail(Check::Clock, format!("the clock is at least {behind} s behind"))
    } else {
        Finding::ok(Check::Clock, "in agreement with the certificates of both ends")
    };
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
