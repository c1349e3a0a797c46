//! Codes of what can go wrong between a command and the cell on this machine.

macro_rules! local_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)*) => {
        /// Why a cell of this machine could not be asked. Codes are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum LocalCode {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl LocalCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable code.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// One sentence for people.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii_start(),)*
                }
            }
        }
    };
}

local_codes! {
    /// Nobody answers on the control socket: the cell does not run, or runs elsewhere.
    CellNotRunning = "CELL_NOT_RUNNING";
    /// The control socket is there and this user may not use it.
    ControlDenied = "CONTROL_DENIED";
    /// The control socket could not be used.
    ControlIo = "CONTROL_IO";
    /// The request to the control socket is not one that the cell understands.
    ControlBadRequest = "CONTROL_BAD_REQUEST";
    /// The request to the control socket was not sent in time.
    ControlSlow = "CONTROL_SLOW";
    /// Something answers these messages of the cell already.
    ControlTaken = "CONTROL_TAKEN";
    /// No job of this name is known.
    JobUnknown = "JOB_UNKNOWN";
    /// The job, or the files that belong to it, are not what a job can be.
    JobInvalid = "JOB_INVALID";
    /// The job has ended already.
    JobOver = "JOB_OVER";
    /// A job of this name runs already, or too many run.
    JobRunning = "JOB_RUNNING";
    /// The part of the job at this cell waits for nobody to attach: its cell starts its program itself.
    JobNotAttachable = "JOB_NOT_ATTACHABLE";
    /// A process is attached to this part of the job already.
    JobAttached = "JOB_ATTACHED";
    /// A cell does not let jobs run what the job asks for.
    JobNotAllowed = "COMPONENT_NOT_ALLOWED";
    /// This cell has no join door.
    JoinClosed = "JOIN_CLOSED";
    /// The join door does not do what was asked of it.
    JoinRefused = "JOIN_REFUSED";
    /// What answered on the control socket did not answer as a cell does; the work may have been done.
    ControlBadReply = "CONTROL_BAD_REPLY";
}

#[cfg(test)]
mod tests {
    use cellbus_proto::status::Status;

    use super::*;

    #[test]
    fn codes_are_sentences_and_no_status_is_called_the_same() {
        for code in LocalCode::ALL {
            assert!(code.meaning().ends_with('.'));
            assert_eq!(Status::from_code(code.code()), None);
        }
    }
}
