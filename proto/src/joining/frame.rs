//! The two frames of a join door: a length, then a msgpack array.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{
        CodecError, Octets,
        body::{self, Blob},
    },
    name::Segment,
    status::Status,
};

/// Bytes in the largest request that is taken.
pub const REQUEST_MAX_BYTES: usize = 16 << 10;
/// Bytes in the largest reply that is handed out: one that fits into a line of the control socket.
pub const REPLY_MAX_BYTES: usize = 1536 << 10;
/// Bytes in the longest body of an [`Answer`].
pub const ANSWER_MAX_BYTES: usize = REPLY_MAX_BYTES + 64;
/// Bytes in the longest body of a [`Knock`].
const KNOCK_MAX_BYTES: usize = REQUEST_MAX_BYTES + CERTIFICATE_MAX_BYTES + 1024;
const CERTIFICATE_MAX_BYTES: usize = 4 << 10;
const SIGNATURE_MAX_BYTES: usize = 128;

/// What whoever joins says, on the only stream of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knock {
    /// Who is invited, by base name.
    pub name: Segment,
    /// What follows from the secret: [`super::access_of`].
    pub access: Octets<32>,
    /// The certificate that the new key has signed itself, DER.
    pub certificate: Blob,
    /// The request, sealed for whoever invited.
    pub request: Blob,
    /// By the new key, over [`super::knock_signable`].
    pub signature: Blob,
}

/// What the door says. Then the stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request is kept; nobody has decided yet.
    Waiting {
        /// Seconds after which it is worth asking again.
        after_s: u32,
    },
    /// It was approved.
    Granted {
        /// The reply, sealed for whoever joins.
        reply: Vec<u8>,
    },
    /// It was not taken.
    Refused(Refusal),
}

/// Why somebody is not let in. Codes on the wire are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Nobody of this name is invited, or not with this secret: which of the two is not told.
    #[error("there is no such invitation")]
    Unknown = 1,
    /// The time of the invitation is over.
    #[error("the invitation has expired")]
    Expired = 2,
    /// Another key was there first.
    #[error("the invitation was used with another key")]
    Taken = 3,
    /// The same key has made another request before.
    #[error("another request was made with this invitation")]
    Changed = 4,
    /// Who invited has withdrawn it.
    #[error("the invitation was withdrawn")]
    Rejected = 5,
    /// The signature is not by the key of the certificate, for this connection.
    #[error("whoever asks does not have the key")]
    NoProof = 6,
    /// What arrived is no knock.
    #[error("the request is malformed or too large")]
    Malformed = 7,
    /// The door cannot keep the request now.
    #[error("the server cannot take requests now")]
    Busy = 8,
}

impl Refusal {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Expired,
        Self::Taken,
        Self::Changed,
        Self::Rejected,
        Self::NoProof,
        Self::Malformed,
        Self::Busy,
    ];

    /// Whether the same may be taken a little later.
    #[must_use]
    pub fn is_transient(self) -> bool {
        self == Self::Busy
    }
}

/// An [`Answer`] on the wire: 0, or the code of a refusal; seconds; the reply.
#[derive(Serialize, Deserialize)]
struct WireAnswer(u8, Option<u32>, Option<Blob>);

impl Knock {
    /// Bytes in the longest body.
    pub const MAX_BYTES: usize = KNOCK_MAX_BYTES;

    /// The frame, with its length in front.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        framed(&body::encode(self))
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`CodecError`] when it is none, or a part of it is too large.
    pub fn from_body(bytes: &[u8]) -> Result<Self, CodecError> {
        let too_large = || CodecError::new(Status::TooLarge, "a part of the knock is too large");
        if bytes.len() > KNOCK_MAX_BYTES {
            return Err(too_large());
        }
        let knock: Self = body::decode_exact(bytes)?;
        let fits = knock.request.0.len() <= REQUEST_MAX_BYTES
            && knock.certificate.0.len() <= CERTIFICATE_MAX_BYTES
            && knock.signature.0.len() <= SIGNATURE_MAX_BYTES;
        if fits { Ok(knock) } else { Err(too_large()) }
    }
}

impl Answer {
    /// The frame, with its length in front.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        let wire = match self {
            Self::Waiting { after_s } => WireAnswer(0, Some(*after_s), None),
            Self::Granted { reply } => WireAnswer(0, None, Some(Blob(reply.clone()))),
            Self::Refused(refusal) => WireAnswer(*refusal as u8, None, None),
        };
        framed(&body::encode(&wire))
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`CodecError`] when it is none.
    pub fn from_body(bytes: &[u8]) -> Result<Self, CodecError> {
        let malformed = || CodecError::new(Status::BadFrame, "no answer of a join door");
        if bytes.len() > ANSWER_MAX_BYTES {
            return Err(malformed());
        }
        match body::decode_exact(bytes)? {
            WireAnswer(0, Some(after_s), None) => Ok(Self::Waiting { after_s }),
            WireAnswer(0, None, Some(Blob(reply))) => Ok(Self::Granted { reply }),
            WireAnswer(code, None, None) => {
                let known = Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == code);
                known.map(Self::Refused).ok_or_else(malformed)
            }
            WireAnswer(..) => Err(malformed()),
        }
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("bodies are bounded far below that");
    [&len.to_be_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock() -> Knock {
        Knock {
            name: "site-9".parse().unwrap(),
            access: Octets([1; 32]),
            certificate: Blob(vec![2; 300]),
            request: Blob(vec![3; REQUEST_MAX_BYTES]),
            signature: Blob(vec![4; 70]),
        }
    }

    fn body_of(frame: &[u8]) -> &[u8] {
        let (len, body) = frame.split_at(4);
        assert_eq!(u32::from_be_bytes(len.try_into().unwrap()) as usize, body.len());
        body
    }

    #[test]
    fn what_is_said_at_a_door_is_read_as_it_was_meant() {
        let frame = knock().to_frame();
        assert_eq!(Knock::from_body(body_of(&frame)).unwrap(), knock());
        let refused = Refusal::ALL.into_iter().map(Answer::Refused);
        let others =
            [Answer::Waiting { after_s: 3 }, Answer::Granted { reply: vec![7; REPLY_MAX_BYTES] }];
        for answer in others.into_iter().chain(refused) {
            assert_eq!(Answer::from_body(body_of(&answer.to_frame())).unwrap(), answer);
        }
    }

    #[test]
    fn v_22_a_knock_with_a_part_that_is_too_large_is_refused() {
        let larger: [fn(&mut Knock); 3] = [
            |knock| knock.request.0.push(0),
            |knock| knock.certificate.0 = vec![0; CERTIFICATE_MAX_BYTES + 1],
            |knock| knock.signature.0 = vec![0; SIGNATURE_MAX_BYTES + 1],
        ];
        for change in larger {
            let mut knock = knock();
            change(&mut knock);
            assert!(Knock::from_body(body_of(&knock.to_frame())).is_err());
        }
        assert!(Knock::from_body(&vec![0; KNOCK_MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn answers_that_say_two_things_or_nothing_known_are_none() {
        let blob = || Some(Blob(vec![1]));
        for wire in [
            WireAnswer(0, None, None),
            WireAnswer(0, Some(1), blob()),
            WireAnswer(1, Some(1), None),
            WireAnswer(1, None, blob()),
            WireAnswer(9, None, None),
        ] {
            assert!(Answer::from_body(&body::encode(&wire)).is_err());
        }
    }
}
