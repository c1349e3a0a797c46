//! Conduits of a raw peer: streams both ways, with anything on them.

use bytes::{Bytes, BytesMut};
use cellbus_proto::{
    codec::{Decoder, Encoder, Frame, FrameLimits, body},
    envelope::{Envelope, Lane},
};
use tokio::time::timeout;

use super::{PATIENCE, RawPeer};

/// A stream both ways beside the control stream.
pub struct RawConduit {
    /// What is written.
    pub send: quinn::SendStream,
    /// What is read.
    pub recv: quinn::RecvStream,
}

/// A conduit that shares nothing.
pub const PLAIN: body::Conduit = body::Conduit { share: None, priority: 0, data: true };

/// The bytes of a stream that begins with these frames.
#[must_use]
pub fn stream_of(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut bytes = BytesMut::new();
    for frame in frames {
        let tail = encoder.encode(frame, &mut bytes);
        bytes.extend_from_slice(&tail.unwrap_or_default());
    }
    bytes.to_vec()
}

impl RawPeer {
    /// A request that begins a conduit of an honest cell.
    #[must_use]
    pub fn conduit_request(&mut self, to: &str, target: &str) -> Envelope {
        let mut envelope = self.request(to, target);
        envelope.header.lane = Lane::Bulk;
        envelope
    }

    /// Opens a further stream both ways and writes `bytes` to it. `None` where none is granted in time.
    ///
    /// # Panics
    /// When the connection is lost.
    pub async fn open_conduit(&self, bytes: &[u8]) -> Option<RawConduit> {
        let opened = timeout(PATIENCE, self.connection.open_bi()).await.ok()?;
        let (mut send, recv) = opened.expect("the connection lives");
        // The other end may have closed already, which is what the test looks at then.
        let _ = send.write_all(bytes).await;
        Some(RawConduit { send, recv })
    }

    /// Opens an honest conduit with this request.
    ///
    /// # Panics
    /// When no stream is granted.
    pub async fn conduit(&self, request: Envelope) -> RawConduit {
        let bytes = stream_of(&[Frame::Conduit(PLAIN), Frame::Message(request)]);
        self.open_conduit(&bytes).await.expect("a stream is granted")
    }

    /// A conduit that the other end opens, and its request.
    ///
    /// # Panics
    /// When none comes.
    pub async fn conduit_in(&self) -> (RawConduit, Envelope) {
        let accepted = timeout(PATIENCE, self.connection.accept_bi()).await.expect("one comes");
        let (send, recv) = accepted.expect("the connection lives");
        let mut conduit = RawConduit { send, recv };
        let request = conduit.answer().await.expect("it has a head");
        (conduit, request)
    }
}

impl RawConduit {
    /// The first message that comes, or nothing where the stream ends or is reset before.
    pub async fn answer(&mut self) -> Option<Envelope> {
        let mut decoder = Decoder::new(FrameLimits::default());
        let mut found = None;
        while found.is_none() {
            let read = timeout(PATIENCE, self.recv.read_chunk(1 << 16, true)).await.ok()?;
            let chunk: Bytes = read.ok()??.bytes;
            let fed = decoder.feed(chunk, |frame| {
                if let Frame::Message(envelope) = frame {
                    found = Some(envelope);
                }
                found.is_none()
            });
            fed.ok()?;
        }
        found
    }

    /// Waits until the other end has ended or reset its half, and gives the code of a reset.
    ///
    /// # Panics
    /// When it does not.
    pub async fn reset_code(&mut self) -> Option<u64> {
        let end = async {
            loop {
                match self.recv.read_chunk(1 << 16, true).await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(quinn::ReadError::Reset(code)) => return Some(code.into_inner()),
                    Err(other) => panic!("{other}"),
                }
            }
        };
        timeout(PATIENCE, end).await.expect("it ends")
    }
}
