//! The first packets of a QUIC connection, made by hand, with any frames in them; and what they are answered.
//!
//! Their keys derive from a connection id that everybody on the path can read (RFC 9001 section 5.2), so nobody
//! needs a certificate or an answer to make them.

use std::sync::Arc;

use cellbus_runtime::tls::{ALPN, SERVER_NAME, provider};
use rustls::{
    Side,
    client::Resumption,
    quic::{ClientConnection, Keys, Version},
};
use rustls_pki_types::ServerName;

use crate::peer::AnyServer;

/// Bytes that a first packet must have at least.
const SMALLEST: usize = 1200;
/// Bytes of a packet number here.
const NUMBER_LEN: usize = 4;

/// One that wants to connect, as far as it is seen in first packets.
pub struct Caller {
    /// The connection id that it gave the other end.
    to: Vec<u8>,
    /// Its own.
    me: [u8; 8],
    token: Vec<u8>,
    number: u32,
    keys: Keys,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is to show that its address is its own: with this connection id, and this token.
    Retry(Vec<u8>, Vec<u8>),
    /// The connection is refused with this error code of the transport.
    Refused(u64),
    /// The handshake goes on.
    Other,
}

impl Default for Caller {
    fn default() -> Self {
        let mut to = [0; 8];
        getrandom::fill(&mut to).expect("the system has random bytes");
        Self::over(to.to_vec(), Vec::new())
    }
}

impl Caller {
    fn over(to: Vec<u8>, token: Vec<u8>) -> Self {
        let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let suite = suite.tls13().expect("a suite of TLS 1.3");
        let algorithm = suite.quic.expect("one for QUIC");
        let keys = Keys::initial(Version::V1, suite, algorithm, &to, Side::Client);
        Self { to, me: *b"attacker", token, number: 0, keys }
    }

    /// The same one, which shows the token of a [`Reply::Retry`].
    #[must_use]
    pub fn again(id: Vec<u8>, token: Vec<u8>) -> Self {
        Self::over(id, token)
    }

    /// The next packet, with these frames.
    ///
    /// # Panics
    /// For more frames than a packet holds.
    #[must_use]
    pub fn packet(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xc0 | u8::try_from(NUMBER_LEN - 1).expect("few")];
        packet.extend(1u32.to_be_bytes());
        for id in [&self.to[..], &self.me] {
            packet.push(u8::try_from(id.len()).expect("at most 20"));
            packet.extend(id);
        }
        packet.extend(varint(self.token.len() as u64));
        packet.extend(&self.token);
        let tag = self.keys.local.packet.tag_len();
        let around = packet.len() + 2 + NUMBER_LEN + tag;
        let mut payload = frames.to_vec();
        payload.resize(payload.len().max(SMALLEST - around), 0);
        let len = u16::try_from(NUMBER_LEN + payload.len() + tag).expect("a packet is small");
        assert!(len < 0x4000, "two bytes say the length");
        packet.extend((0x4000 | len).to_be_bytes());
        let at = packet.len();
        packet.extend(self.number.to_be_bytes());
        let sealed =
            self.keys.local.packet.encrypt_in_place(self.number.into(), &packet, &mut payload);
        packet.extend(payload);
        packet.extend(sealed.expect("it is short").as_ref());
        self.number += 1;
        let (header, rest) = packet.split_at_mut(at + NUMBER_LEN);
        let (first, number) = header.split_first_mut().expect("not empty");
        let sample = &rest[..self.keys.local.header.sample_len()];
        let number = &mut number[at - 1..];
        self.keys.local.header.encrypt_in_place(sample, first, number).expect("a sample");
        packet
    }

    /// What a datagram of the other end says.
    #[must_use]
    pub fn read(&self, datagram: &[u8]) -> Reply {
        match datagram.first().map(|first| first & 0xf0) {
            Some(0xf0) => self.read_retry(datagram),
            Some(0xc0 | 0xd0 | 0xe0) => {
                let code = self.open(datagram).and_then(|frames| close_code(&frames));
                code.map_or(Reply::Other, Reply::Refused)
            }
            _ => Reply::Other,
        }
    }

    fn read_retry(&self, datagram: &[u8]) -> Reply {
        const TAG: usize = 16;
        let id_at = 6 + self.me.len() + 1;
        let id_end = id_at + usize::from(datagram[id_at - 1]);
        let token = &datagram[id_end..datagram.len() - TAG];
        Reply::Retry(datagram[id_at..id_end].to_vec(), token.to_vec())
    }

    /// The frames of the first packet in a datagram.
    fn open(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut at = 5;
        for _ in 0..2 {
            at += 1 + usize::from(*datagram.get(at)?);
        }
        let token = take_varint(datagram, &mut at)?;
        at += usize::try_from(token).ok()?;
        let len = usize::try_from(take_varint(datagram, &mut at)?).ok()?;
        let mut packet = datagram.get(..at + len)?.to_vec();
        let (header, rest) = packet.split_at_mut(at + NUMBER_LEN);
        let (first, number) = header.split_first_mut()?;
        let sample = rest.get(..self.keys.remote.header.sample_len())?;
        let number = &mut number[at - 1..];
        self.keys.remote.header.decrypt_in_place(sample, first, number).ok()?;
        let number_len = usize::from(packet[0] & 3) + 1;
        let (header, payload) = packet.split_at_mut(at + number_len);
        let number = header[at..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let opened = self.keys.remote.packet.decrypt_in_place(number, header, payload);
        opened.ok().map(<[u8]>::to_vec)
    }
}

/// A frame that holds a part of the TLS handshake.
#[must_use]
pub fn crypto_frame(offset: u64, data: &[u8]) -> Vec<u8> {
    [&[0x06][..], &varint(offset), &varint(data.len() as u64), data].concat()
}

/// The ClientHello of an honest cell, but for these transport parameters. It fits into one packet.
///
/// # Panics
/// Never.
#[must_use]
pub fn client_hello(parameters: Vec<u8>) -> Vec<u8> {
    // The key share of an honest cell would take two packets.
    let mut provider = (*provider()).clone();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();
    let name = ServerName::try_from(SERVER_NAME).expect("a name");
    let mut client = ClientConnection::new(Arc::new(tls), Version::V1, name, parameters)
        .expect("the configuration is one for QUIC");
    let mut hello = Vec::new();
    assert!(client.write_hs(&mut hello).is_none(), "there are no keys yet");
    hello
}

/// One transport parameter.
#[must_use]
pub fn parameter(id: u64, value: &[u8]) -> Vec<u8> {
    [&varint(id)[..], &varint(value.len() as u64), value].concat()
}

/// A number in the shortest spelling that QUIC has for it; of more than 62 bits, the lower ones.
#[must_use]
pub fn varint(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let (len, mark) = match value {
        0..0x40 => (1, 0x00),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        0x4000_0000.. => (8, 0xc0),
    };
    let mut spelled = bytes[8 - len..].to_vec();
    spelled[0] |= mark;
    spelled
}

fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let first = *bytes.get(*at)?;
    let len = 1 << (first >> 6);
    let spelled = bytes.get(*at..*at + len)?;
    *at += len;
    let rest = spelled[1..].iter();
    Some(rest.fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}

/// The error code of the first frame that closes the connection.
fn close_code(frames: &[u8]) -> Option<u64> {
    let mut at = 0;
    while let Some(kind) = frames.get(at) {
        at += 1;
        match kind {
            // Padding and ping.
            0x00 | 0x01 => {}
            0x02 => {
                let (_largest, _delay) =
                    (take_varint(frames, &mut at)?, take_varint(frames, &mut at)?);
                let ranges = take_varint(frames, &mut at)?;
                for _ in 0..2 * ranges + 1 {
                    take_varint(frames, &mut at)?;
                }
            }
            0x1c => return take_varint(frames, &mut at),
            _ => return None,
        }
    }
    None
}
