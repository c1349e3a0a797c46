//! How asking a cell fails, in a form that travels to the person who asked.

use cellbus_channels::RequestError;
use cellbus_proto::status::{Class, Status};
use serde::{Deserialize, Serialize};

use super::LocalCode;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ControlError {
    /// Stable code: that of a [`Status`] or of a [`LocalCode`].
    pub code: String,
    /// The cell that gave the status, where one did.
    pub by: Option<String>,
    /// What happened, for people, with the cell, address or file it is about.
    pub message: String,
    /// What to do next, for people.
    pub hint: Option<String>,
    /// Whether the work can have been done, where that is known.
    pub class: Option<ErrorClass>,
}

/// Whether work can have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorClass {
    /// Certainly not.
    Refused,
    /// Perhaps.
    Unknown,
    /// Yes, and it failed.
    Failed,
}

impl ControlError {
    /// An error with the code and class of `status`.
    #[must_use]
    pub fn status(status: Status, message: impl Into<String>) -> Self {
        Self {
            code: status.code().to_owned(),
            by: None,
            message: message.into(),
            hint: None,
            class: Some(status.class().into()),
        }
    }

    /// An error of this machine.
    #[must_use]
    pub fn local(code: LocalCode, message: impl Into<String>) -> Self {
        let class = match code {
            LocalCode::CellNotRunning
            | LocalCode::ControlDenied
            | LocalCode::ControlBadRequest
            | LocalCode::ControlTaken
            | LocalCode::JobUnknown
            | LocalCode::JobInvalid
            | LocalCode::JobOver
            | LocalCode::JobRunning
            | LocalCode::JobNotAttachable
            | LocalCode::JobAttached
            | LocalCode::JobNotAllowed
            | LocalCode::JoinClosed
            | LocalCode::JoinRefused
            | LocalCode::ControlSlow => Some(ErrorClass::Refused),
            LocalCode::ControlBadReply | LocalCode::ControlIo => Some(ErrorClass::Unknown),
        };
        Self { code: code.code().to_owned(), by: None, message: message.into(), hint: None, class }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cell that gave the status.
    #[must_use]
    pub fn by(mut self, cell: impl Into<String>) -> Self {
        self.by = Some(cell.into());
        self
    }
}

impl From<RequestError> for ControlError {
    fn from(error: RequestError) -> Self {
        let by = error.by().map(ToString::to_string);
        let hint = format!("`cellbus errors explain {}` says what it means", error.status());
        let class = Some(error.class().into());
        Self { by, class, ..Self::status(error.status(), error.to_string()).hint(hint) }
    }
}

impl From<Class> for ErrorClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Refused => Self::Refused,
            Class::Unknown => Self::Unknown,
            Class::Failed => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn g_07_a_return_keeps_its_code_its_class_and_the_cell_that_refused() {
        let by = "relay".parse().unwrap();
        let returned =
            RequestError::Returned { by, status: Status::TopicDenied, detail: Vec::new().into() };
        let error = ControlError::from(returned);
        assert_eq!(error.code, "TOPIC_DENIED");
        assert_eq!(error.by.as_deref(), Some("relay"));
        assert_eq!(error.class, Some(ErrorClass::Refused));
        assert_eq!(error.message, "returned by relay: TOPIC_DENIED");

        let to = "site-1".parse().unwrap();
        let error =
            ControlError::from(RequestError::TimedOut { to, budget: Duration::from_secs(1) });
        assert_eq!((error.code.as_str(), error.by), ("DEADLINE", None));
        assert_eq!(error.class, Some(ErrorClass::Unknown));
    }
}
