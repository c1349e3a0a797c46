//! Which command tells a person more about a message that did not arrive.

use std::fmt::Display;

use cellbus_proto::{name::Fqcn, status::Status};

/// Whether this is what rules refuse with, so that a rule that is named beside it is the one that refused.
#[must_use]
pub fn is_ruling(status: Status) -> bool {
    matches!(status, Status::TopicDenied | Status::JobScope | Status::Forbidden | Status::NotSealed)
}

/// What to do next about a message from one cell to another that ended with `status` at `by`.
///
/// `is_traced` says that its way is known already.
#[must_use]
pub fn next_step(
    status: Status,
    by: Option<&Fqcn>,
    (from, to, target): (&Fqcn, &Fqcn, &dyn Display),
    is_traced: bool,
) -> String {
    match (status, by) {
        (status, Some(at)) if is_ruling(status) => {
            format!(
                "`cellbus policy explain --at {at} --from {from} --to {to} {target}` says which rule, \
                 and which are near"
            )
        }
        (Status::NoRoute, Some(at)) if is_traced => {
            format!(
                "`cellbus routes {at}` shows to whom it can send; who is missing is not registered"
            )
        }
        (Status::NoHandler, Some(at)) if is_traced => {
            format!("`cellbus serve {target} --at {at}` would answer it")
        }
        (status, _) if !is_traced && ends_on_its_way(status) => {
            format!(
                "`cellbus trace {from} {to} {target}` shows how far it comes, `cellbus errors explain \
                 {status}` what to do"
            )
        }
        (status, _) => format!("`cellbus errors explain {status}` says what it means"),
    }
}

/// Whether what happened depends on how far the message came.
fn ends_on_its_way(status: Status) -> bool {
    matches!(
        status,
        Status::NoRoute
            | Status::NoHandler
            | Status::TtlExceeded
            | Status::Loop
            | Status::PeerLost
            | Status::PeerRestarted
            | Status::ExpiredInQueue
            | Status::Deadline
            | Status::Overloaded
            | Status::SlowConsumer
            | Status::Draining
            | Status::ShuttingDown
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refused_leads_to_its_rules_and_what_was_lost_to_its_way() {
        let [site, relay, server] =
            ["relay.site-1", "relay", "server"].map(|name| name.parse().unwrap());
        let step = |status, is_traced| {
            next_step(status, Some(&relay), (&site, &server, &"ops/report"), is_traced)
        };
        for (status, is_traced, command) in [
            (
                Status::TopicDenied,
                false,
                "`cellbus policy explain --at relay --from relay.site-1 --to server ops/report`",
            ),
            (Status::TopicDenied, true, "`cellbus policy explain --at relay "),
            (Status::NoRoute, false, "`cellbus trace relay.site-1 server ops/report`"),
            (Status::NoRoute, true, "`cellbus routes relay`"),
            (Status::NoHandler, true, "`cellbus serve ops/report --at relay`"),
            (Status::PeerLost, true, "`cellbus errors explain PEER_LOST`"),
            (Status::HandlerFailed, false, "`cellbus errors explain HANDLER_FAILED`"),
        ] {
            let said = step(status, is_traced);
            assert!(said.starts_with(command), "{status}: {said}");
        }
    }
}
