use super::*;

#[test]
fn the_defaults_hold_together() {
    let transport = QuicTransport::new(QuicSettings::default()).unwrap();
    let settings = transport.settings();
    assert_eq!(settings.max_idle, Duration::from_secs(10));
    assert_eq!(settings.keep_alive, Duration::from_secs(2));
    assert_eq!((settings.max_uni_streams, settings.max_bidi_streams), (4, 19));
    assert_eq!(QuicSettings::conduits_max(settings.max_bidi_streams), 16);
    assert_eq!(settings.stream_window, 1 << 20);
    assert_eq!(settings.connection_window, 43 << 20);
    assert_eq!(settings.send_window, 8 << 20);
    assert_eq!(settings.socket_buffer, 4 << 20);
    assert_eq!((settings.max_incoming, settings.incoming_buffer), (256, 64 << 10));
    assert_eq!(settings.incoming_buffer_total, 8 << 20);
}

#[test]
fn unread_streams_can_never_use_up_the_window_of_control() {
    let refused = [
        QuicSettings { connection_window: 43 * MIB - 1, ..QuicSettings::default() },
        QuicSettings { stream_window: MIB + 1, ..QuicSettings::default() },
        QuicSettings { max_uni_streams: 5, ..QuicSettings::default() },
        QuicSettings { max_bidi_streams: u32::MAX, ..QuicSettings::default() },
        QuicSettings {
            max_bidi_streams: u32::MAX,
            max_uni_streams: u32::MAX,
            stream_window: u32::MAX,
            connection_window: u32::MAX,
            ..QuicSettings::default()
        },
    ];
    for settings in refused {
        let error = QuicTransport::new(settings.clone()).unwrap_err();
        assert!(matches!(error, QuicSettingsError::Windows { .. }), "{settings:?}");
    }
    let fits =
        QuicSettings { max_bidi_streams: 20, connection_window: 45 * MIB, ..Default::default() };
    QuicTransport::new(fits).unwrap();
}

#[test]
fn a_keep_alive_that_comes_too_late_is_refused() {
    for keep_alive in [0, 10, 11] {
        let keep_alive = Duration::from_secs(keep_alive);
        let error = QuicTransport::new(QuicSettings { keep_alive, ..Default::default() });
        assert!(matches!(error, Err(QuicSettingsError::KeepAlive { .. })), "{keep_alive:?}");
    }
}

#[test]
fn values_that_quic_cannot_say_are_refused() {
    let settings = QuicSettings { mtu_upper_bound: Some(1199), ..Default::default() };
    assert!(matches!(QuicTransport::new(settings), Err(QuicSettingsError::Range { .. })));
    let settings = QuicSettings { mtu_upper_bound: Some(65_528), ..Default::default() };
    assert!(matches!(QuicTransport::new(settings), Err(QuicSettingsError::Range { .. })));
    let settings = QuicSettings { max_idle: Duration::MAX, ..Default::default() };
    assert!(matches!(QuicTransport::new(settings), Err(QuicSettingsError::Range { .. })));
}

#[test]
fn the_library_takes_over_what_is_set() {
    let settings = QuicSettings {
        mtu_upper_bound: Some(9000),
        congestion: Congestion::Bbr,
        ..QuicSettings::default()
    };
    let transport = QuicTransport::new(settings).unwrap();
    let dials = format!("{:?}", transport.transport_config(Side::Dials, Reach::Network));
    let accepts = format!("{:?}", transport.transport_config(Side::Accepts, Reach::Network));
    for part in [
        "max_concurrent_bidi_streams: 19",
        "max_concurrent_uni_streams: 4",
        "max_idle_timeout: Some(10000)",
        "stream_receive_window: 1048576",
        "receive_window: 45088768",
        "send_window: 8388608",
        "datagram_receive_buffer_size: None",
        "upper_bound: 9000",
        "enable_segmentation_offload: true",
    ] {
        assert!(dials.contains(part) && accepts.contains(part), "{part} not in {dials}");
    }
    assert!(dials.contains("keep_alive_interval: Some(2s)"), "{dials}");
    assert!(accepts.contains("keep_alive_interval: None"), "{accepts}");
    let endpoint = transport.endpoint_config(&[7; 64], 7);
    assert_eq!(endpoint.get_max_udp_payload_size(), 9000);
}

#[test]
fn a_socket_tells_what_the_kernel_gave() {
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let Ok(bound) = bind(address.parse().unwrap(), 256 * KIB) else { continue };
        assert_ne!(bound.socket.local_addr().unwrap().port(), 0);
        assert!(bound.receive_buffer > 0 && bound.receive_buffer <= 256 << 10);
        assert!(bound.send_buffer > 0 && bound.send_buffer <= 256 << 10);
    }
    let taken = bind("127.0.0.1:0".parse().unwrap(), 4 * MIB).unwrap();
    let error = bind(taken.socket.local_addr().unwrap(), 4 * MIB).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
}

#[test]
fn packets_grow_further_between_processes_of_one_machine_only() {
    for (address, reach) in [
        ("127.0.0.1:1", Reach::Machine),
        ("[::1]:1", Reach::Machine),
        ("[::ffff:127.0.0.2]:1", Reach::Machine),
        ("10.0.0.1:1", Reach::Network),
        ("[2001:db8::1]:1", Reach::Network),
    ] {
        assert_eq!(Reach::of(address.parse().unwrap()), reach, "{address}");
    }
    let said = |settings: QuicSettings, reach| {
        let transport = QuicTransport::new(settings).unwrap();
        format!("{:?}", transport.transport_config(Side::Dials, reach))
    };
    let wide = || QuicSettings { mtu_upper_bound: Some(8952), ..QuicSettings::default() };
    assert!(said(QuicSettings::default(), Reach::Machine).contains("upper_bound: 4096"));
    assert!(said(QuicSettings::default(), Reach::Network).contains("upper_bound: 1452"));
    assert!(said(wide(), Reach::Machine).contains("upper_bound: 8952"));
    assert!(said(wide(), Reach::Network).contains("upper_bound: 8952"));
}
