//! What asking a holder whether it lives has shown.

use crate::status::Status;

/// Whether the holder of a name lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered.
    Lives,
    /// It is gone, goes away, or did not answer in time.
    Silent,
    /// It could not be asked.
    Unclear,
}

/// Who returned the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnedBy {
    /// The holder.
    Holder,
    /// The cell that asked.
    Asker,
    /// A cell in between.
    Between,
}

impl Sign {
    /// What a return of the question shows.
    #[must_use]
    pub fn of_return(by: ReturnedBy, status: Status) -> Self {
        let leaves = matches!(status, Status::Draining | Status::ShuttingDown);
        let gone = matches!(status, Status::NoRoute | Status::PeerLost | Status::ExpiredInQueue);
        match by {
            ReturnedBy::Holder if leaves || status == Status::PeerRestarted => Self::Silent,
            ReturnedBy::Holder => Self::Lives,
            ReturnedBy::Asker if leaves || gone => Self::Silent,
            ReturnedBy::Between if gone => Self::Silent,
            ReturnedBy::Asker | ReturnedBy::Between => Self::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_35_a_holder_is_silent_only_if_it_is_gone_or_goes() {
        for status in Status::ALL.iter().copied() {
            let by = |by| Sign::of_return(by, status);
            let goes = [Status::Draining, Status::ShuttingDown, Status::PeerRestarted];
            let gone = [Status::NoRoute, Status::PeerLost, Status::ExpiredInQueue];
            let holder = if goes.contains(&status) { Sign::Silent } else { Sign::Lives };
            assert_eq!(by(ReturnedBy::Holder), holder, "{status}");
            let between = if gone.contains(&status) { Sign::Silent } else { Sign::Unclear };
            assert_eq!(by(ReturnedBy::Between), between, "{status}");
            let asker = if goes[..2].contains(&status) { Sign::Silent } else { between };
            assert_eq!(by(ReturnedBy::Asker), asker, "{status}");
        }
    }
}
