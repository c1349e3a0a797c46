//! A conduit that a neighbour has opened: decided on by the filter, and taken where it goes.

use std::sync::Arc;

use actix::Addr;
use bytes::Bytes;
use cellbus_channels::{Broken, ConduitSend};
use cellbus_proto::{
    codec::body,
    envelope::Envelope,
    route::{Hop, LinkId},
};

use super::{answer::write_answer, relay, serve};
use crate::{
    conn::{RecvStream, SendStream},
    filter::{AuthFilter, Course, JudgeConduit},
    own::Own,
};

/// A stream whose head has been read.
pub(crate) struct Arrived {
    /// The cell.
    pub(crate) own: Arc<Own>,
    /// The filter in front of it.
    pub(crate) filter: Addr<AuthFilter>,
    /// The link that it came by.
    pub(crate) link: LinkId,
    /// The stream.
    pub(crate) stream: (SendStream, RecvStream),
    /// What it is for.
    pub(crate) conduit: body::Conduit,
    /// Bytes that came with the head.
    pub(crate) rest: Bytes,
}

/// Has the filter decide on `envelope`, and does what it says, until the conduit has ended.
///
/// # Arguments
/// `permit`: held until it is decided on.
pub(crate) async fn take(arrived: Arrived, envelope: Envelope, permit: impl Send) {
    let judge = JudgeConduit { from: Hop::Link(arrived.link), envelope };
    // Where the filter has ended there is no service; whoever asks finds the stream reset.
    let Ok(course) = arrived.filter.send(judge).await else { return };
    drop(permit);
    match course {
        Course::Here(admitted, tie) => serve::serve(arrived, *admitted, tie).await,
        Course::Onward(onward) => relay::relay(arrived, *onward).await,
        Course::Refused { back: Some(back), status: _ } => {
            let Arrived { own, stream: (mut send, _recv), .. } = arrived;
            if write_answer(&own, &mut send, *back).await.is_ok() {
                ConduitSend::finish(&mut send);
            }
        }
        // No answer goes to where it may be a lie that anything came from there.
        Course::Refused { back: None, status: _ } => {
            let (mut send, _recv) = arrived.stream;
            send.reset_with(Broken::Cancelled);
        }
    }
}
