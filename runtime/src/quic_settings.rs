//! The settings of the QUIC transport, and what is built from them.
//!
//! The defaults of the library let one peer claim gigabytes and notice a dead peer after half a minute; none of them is
//! left to chance here. Whatever holds data for a peer is bounded, and what the control lane needs is never lent out.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    NoneTokenLog, NoneTokenStore, ServerConfig, TransportConfig, ValidationTokenConfig,
    congestion::{BbrConfig, CubicConfig},
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use quinn_proto::HashedConnectionIdGenerator;

pub use self::socket::{BindError, BoundSocket, bind};

mod socket;
#[cfg(test)]
mod tests;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Largest packet to try between two processes of one machine, in bytes of UDP payload.
pub const NEAR_MTU: u16 = 4096;

/// Bytes of the connection window that no stream but control's may use.
pub const CONTROL_RESERVE: u32 = MIB;

/// How fast a link may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// Backs off when packets are lost: right where loss means a full queue.
    #[default]
    Cubic,
    /// Measures rate and delay instead: right where packets are lost at random.
    Bbr,
}

/// The settings of one endpoint, as a person may change them. [`QuicTransport::new`] checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicSettings {
    /// Silence after which a connection is dead. Default 10 s.
    pub max_idle: Duration,
    /// How often the side that dialled breaks the silence. Default 2 s; less than `max_idle`.
    pub keep_alive: Duration,
    /// One-way streams that a peer may have open. Default 4.
    pub max_uni_streams: u32,
    /// Two-way streams that a peer may have open: one for control, the others for conduits; see
    /// [`Self::conduits_max`]. Default 19.
    pub max_bidi_streams: u32,
    /// Unread bytes held for one stream. Default 1 MiB.
    pub stream_window: u32,
    /// Unread bytes held for one connection. Default 43 MiB: every stream full, those that this end opens
    /// too, and 1 MiB for control.
    pub connection_window: u32,
    /// Unacknowledged bytes held for one connection. Default 8 MiB.
    pub send_window: u32,
    /// Several packets per system call, where the system can. Default on.
    pub segmentation_offload: bool,
    /// Default cubic.
    pub congestion: Congestion,
    /// Largest packet to try, in bytes of UDP payload; at least 1200. Default `None`: that of an Ethernet.
    pub mtu_upper_bound: Option<u16>,
    /// Bytes to ask of the kernel for each direction of the socket. Default 4 MiB.
    pub socket_buffer: u32,
    /// Connection attempts that may wait to be accepted. Default 256.
    pub max_incoming: u32,
    /// Bytes kept of one such attempt. Default 64 KiB.
    pub incoming_buffer: u32,
    /// Bytes kept of all of them. Default 8 MiB.
    pub incoming_buffer_total: u32,
}

impl Default for QuicSettings {
    fn default() -> Self {
        Self {
            max_idle: Duration::from_secs(10),
            keep_alive: Duration::from_secs(2),
            max_uni_streams: 4,
            max_bidi_streams: 19,
            stream_window: MIB,
            connection_window: 43 * MIB,
            send_window: 8 * MIB,
            segmentation_offload: true,
            congestion: Congestion::Cubic,
            mtu_upper_bound: None,
            socket_buffer: 4 * MIB,
            max_incoming: 256,
            incoming_buffer: 64 * KIB,
            incoming_buffer_total: 8 * MIB,
        }
    }
}

impl QuicSettings {
    /// Conduits that one end of a link may have open at once, where the other grants `bidi_streams`. The
    /// transport says that streams are free again only when an eighth of them is.
    #[must_use]
    pub fn conduits_max(bidi_streams: u32) -> usize {
        let usable = bidi_streams.saturating_sub(1 + bidi_streams / 8);
        usize::try_from(usable).unwrap_or(usize::MAX)
    }
}

/// Why settings cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuicSettingsError {
    /// Streams that are not read could use up the whole connection window, and then nothing of control gets through.
    #[error(
        "({streams} streams) x ({stream_window} bytes) + {CONTROL_RESERVE} bytes for control = {needed} bytes, \
         more than the connection window of {connection_window}; lower the former or raise the latter"
    )]
    Windows {
        /// Streams that a peer may have open, and those that this end may open and reads too.
        streams: u64,
        /// Bytes per stream.
        stream_window: u32,
        /// Bytes that the connection window must have.
        needed: u64,
        /// Bytes that it has.
        connection_window: u32,
    },
    /// The connection would be dead before the next sign of life.
    #[error("keep-alive every {keep_alive:?} is too seldom for an idle limit of {max_idle:?}")]
    KeepAlive {
        /// Interval.
        keep_alive: Duration,
        /// Limit.
        max_idle: Duration,
    },
    /// A value is outside what QUIC allows.
    #[error("{setting} of {value} is outside {allowed}")]
    Range {
        /// Which.
        setting: &'static str,
        /// The value.
        value: u128,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The TLS configuration has no cipher suite for QUIC's first packets.
    #[error("TLS configuration is none for QUIC")]
    Tls,
}

/// Which end of a connection is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens it, and keeps it alive.
    Dials,
    /// Lets it in.
    Accepts,
}

/// How often the other end is asked to say what has arrived (draft-ietf-quic-ack-frequency).
///
/// Every second packet, as RFC 9000 section 13.2.2 recommends, is a datagram and a wake-up for each of two packets that ask for none.
/// A burst is sixteen packets or fewer; what is less is said within 5 ms, so that a small congestion window opens.
fn acknowledgements() -> AckFrequencyConfig {
    let mut frequency = AckFrequencyConfig::default();
    frequency.ack_eliciting_threshold(20u32.into()).max_ack_delay(Some(Duration::from_millis(5)));
    frequency
}

/// Where the other end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// On this machine: packets of [`NEAR_MTU`] bytes get there, and half as much work goes into each byte.
    Machine,
    /// Anywhere else.
    Network,
}

impl Reach {
    /// Where `address` is.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        if address.ip().to_canonical().is_loopback() { Self::Machine } else { Self::Network }
    }
}

/// Settings that hold together.
#[derive(Clone, Debug)]
pub struct QuicTransport {
    settings: QuicSettings,
    idle: IdleTimeout,
}

impl QuicTransport {
    /// Checks the settings against one another.
    ///
    /// # Errors
    /// [`QuicSettingsError`] for the first rule they break.
    pub fn new(settings: QuicSettings) -> Result<Self, QuicSettingsError> {
        let QuicSettings { max_idle, keep_alive, stream_window, connection_window, .. } = settings;
        let streams =
            u64::from(settings.max_uni_streams) + 2 * u64::from(settings.max_bidi_streams);
        let needed =
            streams.saturating_mul(stream_window.into()).saturating_add(CONTROL_RESERVE.into());
        if needed > connection_window.into() {
            return Err(QuicSettingsError::Windows {
                streams,
                stream_window,
                needed,
                connection_window,
            });
        }
        if keep_alive.is_zero() || keep_alive >= max_idle {
            return Err(QuicSettingsError::KeepAlive { keep_alive, max_idle });
        }
        if let Some(value) = settings.mtu_upper_bound.filter(|mtu| !(1200..=65_527).contains(mtu)) {
            return Err(QuicSettingsError::Range {
                setting: "mtu_upper_bound",
                value: value.into(),
                allowed: "1200 to 65527 bytes",
            });
        }
        let idle = IdleTimeout::try_from(max_idle).map_err(|_| QuicSettingsError::Range {
            setting: "max_idle",
            value: max_idle.as_millis(),
            allowed: "2^62 milliseconds",
        })?;
        Ok(Self { settings, idle })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &QuicSettings {
        &self.settings
    }

    /// How connections of one side behave.
    ///
    /// # Units
    /// Worst-case memory per connection: `connection_window` received, `send_window` sent.
    #[must_use]
    pub fn transport_config(&self, side: Side, reach: Reach) -> Arc<TransportConfig> {
        let settings = &self.settings;
        let mut config = TransportConfig::default();
        config
            .max_idle_timeout(Some(self.idle))
            .keep_alive_interval((side == Side::Dials).then_some(settings.keep_alive))
            .max_concurrent_uni_streams(settings.max_uni_streams.into())
            .max_concurrent_bidi_streams(settings.max_bidi_streams.into())
            .stream_receive_window(settings.stream_window.into())
            .receive_window(settings.connection_window.into())
            .send_window(settings.send_window.into())
            .datagram_receive_buffer_size(None)
            .enable_segmentation_offload(settings.segmentation_offload)
            .mtu_discovery_config(Some(self.mtu_discovery(reach)))
            .ack_frequency_config(Some(acknowledgements()));
        match settings.congestion {
            Congestion::Cubic => {
                config.congestion_controller_factory(Arc::new(CubicConfig::default()))
            }
            Congestion::Bbr => config.congestion_controller_factory(Arc::new(BbrConfig::default())),
        };
        Arc::new(config)
    }

    fn mtu_discovery(&self, reach: Reach) -> MtuDiscoveryConfig {
        let mut discovery = MtuDiscoveryConfig::default();
        let near = (reach == Reach::Machine).then_some(NEAR_MTU);
        if let Some(upper_bound) = self.settings.mtu_upper_bound.max(near) {
            discovery.upper_bound(upper_bound);
        }
        discovery
    }

    /// Bytes in the largest packet that an endpoint takes.
    fn take_packets(&self, config: &mut EndpointConfig) {
        let largest = self.settings.mtu_upper_bound.unwrap_or(0).max(NEAR_MTU);
        config
            .max_udp_payload_size(largest)
            .expect("the bound was checked against the range that the library takes");
    }

    /// How an endpoint behaves that only dials.
    #[must_use]
    pub fn dialling_config(&self) -> EndpointConfig {
        let mut config = EndpointConfig::default();
        self.take_packets(&mut config);
        config
    }

    /// How the endpoint as a whole behaves.
    ///
    /// With both keys kept from one run to the next, peers of a killed process learn within a round trip that their
    /// connections are gone. Resets are not rationed: they are smaller than what they answer and answer only
    /// connection ids that this cell gave out, so nobody can use them as an amplifier or start a loop.
    ///
    /// # Arguments
    /// See [`crate::state_dir::StateDir::reset_key`] and [`crate::state_dir::StateDir::connection_id_key`].
    #[must_use]
    pub fn endpoint_config(&self, reset_key: &[u8; 64], connection_id_key: u64) -> EndpointConfig {
        let mut config =
            EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_key)));
        config
            .cid_generator(move || {
                Box::new(HashedConnectionIdGenerator::from_key(connection_id_key))
            })
            .min_reset_interval(Duration::ZERO);
        self.take_packets(&mut config);
        config
    }

    /// How connections are let in.
    ///
    /// # Errors
    /// [`QuicSettingsError::Tls`] for a configuration that is not from [`crate::tls`].
    pub fn server_config(
        &self,
        tls: rustls::ServerConfig,
    ) -> Result<ServerConfig, QuicSettingsError> {
        let crypto = QuicServerConfig::try_from(tls).map_err(|_| QuicSettingsError::Tls)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        // Callers get nothing that makes them known when they come again. Besides, the library warns of such
        // tokens whenever two callers come back in another order than they left in.
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(0).log(Arc::new(NoneTokenLog));
        config
            .validation_token_config(tokens)
            .transport_config(self.transport_config(Side::Accepts, Reach::Network))
            .max_incoming(usize::try_from(self.settings.max_incoming).unwrap_or(usize::MAX))
            .incoming_buffer_size(self.settings.incoming_buffer.into())
            .incoming_buffer_size_total(self.settings.incoming_buffer_total.into());
        Ok(config)
    }

    /// How connections are opened.
    ///
    /// # Errors
    /// [`QuicSettingsError::Tls`] for a configuration that is not from [`crate::tls`].
    pub fn client_config(
        &self,
        tls: rustls::ClientConfig,
    ) -> Result<ClientConfig, QuicSettingsError> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|_| QuicSettingsError::Tls)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config
            .token_store(Arc::new(NoneTokenStore))
            .transport_config(self.transport_config(Side::Dials, Reach::Network));
        Ok(config)
    }
}
