//! A writer of what is sealed: the one within gets the content of every piece that was opened.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use cellbus_proto::transfer::{NotOpened, Opener};
use tokio::io::AsyncWrite;

pub(super) struct OpeningWriter {
    inner: Pin<Box<dyn AsyncWrite + Send>>,
    opener: Opener,
    /// Content that the writer within has not taken yet.
    opened: Bytes,
    is_ended: bool,
}

impl OpeningWriter {
    pub(super) fn new(inner: Pin<Box<dyn AsyncWrite + Send>>, opener: Opener) -> Self {
        Self { inner, opener, opened: Bytes::new(), is_ended: false }
    }

    fn poll_hand_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.opened.is_empty() {
            match ready!(self.inner.as_mut().poll_write(cx, &self.opened))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.opened.advance(taken),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: NotOpened) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncWrite for OpeningWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut left = bytes;
        loop {
            ready!(self.poll_hand_on(cx))?;
            let content = self.opener.push(&mut left).map_err(broken)?;
            let is_piece = content.is_some();
            self.opened = content.unwrap_or_default().into();
            let taken = bytes.len() - left.len();
            // A piece may be opened because of a byte behind it, which has not been taken by that.
            if taken > 0 || !is_piece {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_hand_on(cx))?;
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_hand_on(cx))?;
        if !self.is_ended {
            self.opened = self.opener.finish().map_err(broken)?.unwrap_or_default().into();
            self.is_ended = true;
            ready!(self.poll_hand_on(cx))?;
        }
        self.inner.as_mut().poll_shutdown(cx)
    }
}
