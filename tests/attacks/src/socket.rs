//! Datagrams below QUIC.
