//! From the limits of a topology to the figures of the runtime.

/// The figures.
pub mod figures {
    use std::time::Duration;

    use cellbus_proto::{
        codec::FrameLimits,
        link::Timers,
        topology::{Congestion as Stated, Limits},
        transfer::ShareSettings,
    };
    use cellbus_runtime::{
        cell::{CellSettings, HandlerLimits},
        endpoint::EndpointSettings,
        link::LinkSettings,
        quic_settings::{Congestion, QuicSettings},
    };

    /// Of the transport.
    #[must_use]
    pub fn quic(limits: &Limits) -> QuicSettings {
        QuicSettings {
            max_idle: limits.idle_timeout,
            keep_alive: limits.keep_alive,
            max_uni_streams: limits.uni_streams_max,
            max_bidi_streams: limits.bidi_streams_max,
            stream_window: limits.stream_receive_window_bytes,
            connection_window: limits.receive_window_bytes,
            send_window: limits.send_window_bytes,
            socket_buffer: u32::try_from(limits.socket_buffer_bytes).unwrap_or(u32::MAX),
            congestion: match limits.congestion {
                Stated::Cubic => Congestion::Cubic,
                Stated::Bbr => Congestion::Bbr,
            },
            ..QuicSettings::default()
        }
    }

    /// Of a cell.
    #[must_use]
    pub fn cell(limits: &Limits) -> CellSettings {
        CellSettings {
            budget: limits.budget_default,
            payload_max: limits.inline_payload_max_bytes,
            handlers: HandlerLimits { running: limits.handlers_max, ..HandlerLimits::default() },
            challenge_life: limits.challenge_ttl,
            returns_per_minute: limits.returns_per_minute_max,
            token_life_s: limits.token_ttl.as_secs(),
            share: ShareSettings {
                budget: limits.transfer_spool_max as u64,
                keep: limits.transfer_spool_keep,
                ..ShareSettings::default()
            },
            ..CellSettings::default()
        }
    }

    /// Of transfers over one link; none where the file says nothing.
    fn rate(limits: &Limits) -> Option<u64> {
        let key = "transfer_rate_max_bytes_per_s";
        let spec = Limits::SPECS.iter().find(|spec| spec.key == key);
        let stated = limits.transfer_rate_max as u64;
        (spec.map(|spec| spec.ceiling) != Some(stated)).then_some(stated)
    }

    /// Of an endpoint and its links.
    #[must_use]
    pub fn endpoint(limits: &Limits) -> EndpointSettings {
        EndpointSettings {
            link: LinkSettings {
                timers: Timers {
                    hello: limits.handshake_deadline,
                    register: Duration::from_secs(30).min(limits.challenge_ttl),
                    beat: limits.beat_interval,
                    silence: limits.beat_deadline,
                },
                limits: FrameLimits {
                    header_max: limits.header_max_bytes,
                    payload_max: limits.inline_payload_max_bytes,
                },
                outbox_max: limits.outbox_max_bytes,
                inbound_max: limits.inbound_max_bytes_per_link,
                conduits_max: QuicSettings::conduits_max(limits.bidi_streams_max),
                conduit_rate: rate(limits),
                renew_after: limits.token_ttl / 2,
                ..LinkSettings::default()
            },
            handshake: limits.handshake_deadline,
            redial_base: limits.reconnect_base,
            redial_cap: limits.reconnect_cap,
            ..EndpointSettings::default()
        }
    }
}
