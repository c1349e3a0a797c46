//! The channels and topics that the system itself uses. They stand here and nowhere else.

use crate::name::{Channel, ChannelTopic, Topic};

/// A channel and topic of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemTopic {
    /// First level.
    pub channel: &'static str,
    /// Second level.
    pub topic: &'static str,
}

const CHANNEL_TASK: &str = "task";
const CHANNEL_CELLNET: &str = "cellnet.channel";
const CHANNEL_CELL: &str = "cell";

/// A child asks its direct parent for a fresh nonce.
pub const CHALLENGE: SystemTopic = SystemTopic { channel: CHANNEL_TASK, topic: "challenge" };
/// A child proves its identity to its direct parent.
pub const REGISTER: SystemTopic = SystemTopic { channel: CHANNEL_TASK, topic: "register" };
/// A direct neighbour says that this connection is going away.
pub const BYE: SystemTopic = SystemTopic { channel: CHANNEL_CELLNET, topic: "bye" };
/// A parent asks the server for a nonce that its child will sign.
pub const CHALLENGE_CHILD: SystemTopic =
    SystemTopic { channel: CHANNEL_CELL, topic: "challenge_child" };
/// A parent brings its child's signed proof to the server.
pub const REGISTER_CHILD: SystemTopic =
    SystemTopic { channel: CHANNEL_CELL, topic: "register_child" };
/// A parent asks the server for a new token for a child whose token is ageing.
pub const RENEW_CHILD: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "renew_child" };
/// A parent tells the server that the connection of a child has ended.
pub const DETACH_CHILD: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "detach_child" };
/// An authenticated cell leaves: its record is removed and its token revoked.
pub const QUIT: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "quit" };
/// Answered by every cell with its own payload.
pub const PING: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "ping" };
/// Answered by every cell with its certificate, for whoever is about to seal a message to it.
pub const CERTIFICATE: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "certificate" };
/// Whoever sent requests waits for their answers no longer: what handles them may stop.
pub const CANCEL: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "cancel" };
/// The server tells a site to start a job.
pub const JOB_START: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "job_start" };
/// The server tells a site to stop a job.
pub const JOB_STOP: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "job_stop" };
/// A site tells the server how a job of it has ended.
pub const JOB_ENDED: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "job_ended" };
/// A cell gives a direct neighbour signed lists that it holds.
pub const LISTS: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "give_lists" };
/// A cell tells a direct neighbour which versions of the signed lists it holds.
pub const LISTS_HELD: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "lists_held" };
/// A direct neighbour goes on with another certificate.
pub const RENEW_LINK: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "renew_link" };
/// A registered cell tells the server that it goes on with another certificate.
pub const RENEW_CERTIFICATE: SystemTopic =
    SystemTopic { channel: CHANNEL_CELL, topic: "renew_certificate" };
/// A registered cell asks the server for another certificate of itself.
pub const ISSUE_CERTIFICATE: SystemTopic =
    SystemTopic { channel: CHANNEL_CELL, topic: "issue_certificate" };
/// The server brings a site a piece of a file of a job.
pub const JOB_FILE: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "job_file" };
/// A site tells the server which jobs it has, and is told which of them to end.
pub const JOB_TABLE: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "job_table" };
/// A site tells the server what a job has printed.
pub const JOB_LOG: SystemTopic = SystemTopic { channel: CHANNEL_CELL, topic: "job_log" };

/// The only topics that need no session token, and only from a direct neighbour.
pub const EXEMPT: [SystemTopic; 3] = [CHALLENGE, REGISTER, BYE];

/// Every topic of the system.
pub const ALL: [SystemTopic; 22] = [
    CHALLENGE,
    REGISTER,
    BYE,
    CHALLENGE_CHILD,
    REGISTER_CHILD,
    RENEW_CHILD,
    DETACH_CHILD,
    QUIT,
    PING,
    CANCEL,
    JOB_START,
    JOB_STOP,
    JOB_ENDED,
    CERTIFICATE,
    LISTS,
    LISTS_HELD,
    RENEW_LINK,
    RENEW_CERTIFICATE,
    ISSUE_CERTIFICATE,
    JOB_FILE,
    JOB_TABLE,
    JOB_LOG,
];

impl SystemTopic {
    /// Whether `target` is this topic, compared as bytes.
    #[must_use]
    pub fn matches(self, target: &ChannelTopic) -> bool {
        target.is(self.channel, self.topic)
    }
}

impl From<SystemTopic> for ChannelTopic {
    fn from(system: SystemTopic) -> Self {
        let channel: Channel = system.channel.parse().expect("a system channel is a channel");
        let topic: Topic = system.topic.parse().expect("a system topic is a topic");
        Self::new(channel, topic)
    }
}

/// The system topic that `target` is, if it is one.
#[must_use]
pub fn lookup(target: &ChannelTopic) -> Option<SystemTopic> {
    target.system()
}

/// The system topic with these names, compared as bytes.
pub(crate) fn find(channel: &Channel, topic: &Topic) -> Option<SystemTopic> {
    let is =
        |system: &SystemTopic| system.channel == channel.as_str() && system.topic == topic.as_str();
    ALL.into_iter().find(is)
}

/// Whether applications may not register on, or send to, this channel except for the system's own topics.
#[must_use]
pub fn is_reserved(channel: &Channel) -> bool {
    matches!(channel.as_str(), CHANNEL_CELLNET | CHANNEL_CELL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_topic_is_a_name_and_stands_once() {
        for (index, system) in ALL.into_iter().enumerate() {
            let target = ChannelTopic::from(system);
            assert_eq!(lookup(&target), Some(system));
            assert!(!ALL[..index].contains(&system));
        }
    }
}
