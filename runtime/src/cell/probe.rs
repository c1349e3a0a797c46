//! Messages that only ask what would become of them.

use bytes::Bytes;
use cellbus_proto::{envelope::Header, status::Status};

use super::Cell;

impl Cell {
    /// Says that the message has arrived, or that nothing here would answer it.
    pub(super) fn answer_probe(&self, request: &Header) {
        if request.target.system().is_none() && !self.handlers.answers(&request.target) {
            return self.answer_failed(request, Status::NoHandler, Bytes::new());
        }
        self.answer(request, Bytes::new(), None);
    }
}
