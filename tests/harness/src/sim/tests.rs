//! Real QUIC and real TLS over the simulated network.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cellbus_proto::identity::Identity;
use cellbus_runtime::{
    quic_settings::{QuicSettings, QuicTransport},
    tls,
};
use quinn::{Connection, Endpoint};
use tokio::time::Instant;

use super::*;
use crate::{guard::LogGuard, seeds::run_paused};

mod datagrams;
mod faults;
mod limits;
mod repeats;

const NOW: u64 = 1_800_000_000;

/// A server that echoes, and one site. Both are certified; keys for resets outlive the processes.
struct World {
    net: SimNet,
    authority: SimAuthority,
    transport: QuicTransport,
    /// Nothing that happens here alarms anybody.
    _guard: LogGuard,
}

impl World {
    fn new(seed: u64) -> Self {
        let authority = SimAuthority::new(&"study".parse().unwrap(), seed, NOW);
        let transport = QuicTransport::new(QuicSettings::default()).unwrap();
        Self { net: SimNet::new(seed), authority, transport, _guard: LogGuard::start() }
    }

    /// Starts the server anew; it answers every two-way stream with what it reads from it, and keeps a list.
    fn serve(&self) -> Served {
        let own = self.authority.credentials(&id("cell://study/server/server?org=hq"));
        let tls = tls::server_config(&own, Arc::default(), clock(), quiet()).unwrap();
        let config = self.transport.endpoint_config(&[7; 64], 7);
        let server = self.transport.server_config(tls).unwrap();
        let endpoint = self.net.endpoint(server_host(), config, Some(server)).unwrap();
        let served = Served::default();
        tokio::spawn(accept(endpoint, served.clone()));
        served
    }

    fn site(&self) -> Endpoint {
        let own = self.authority.credentials(&id("cell://study/client/site-1?org=st-mary"));
        let tls = tls::client_config(&own, &"server".parse().unwrap(), clock(), quiet()).unwrap();
        let config = self.transport.endpoint_config(&[8; 64], 8);
        let mut endpoint = self.net.endpoint(site_host(), config, None).unwrap();
        endpoint.set_default_client_config(self.transport.client_config(tls).unwrap());
        endpoint
    }

    async fn dial(&self, site: &Endpoint) -> Connection {
        site.connect(server_host(), tls::SERVER_NAME).unwrap().await.unwrap()
    }
}

type Served = Arc<Mutex<Vec<Vec<u8>>>>;

async fn accept(endpoint: Endpoint, served: Served) {
    while let Some(incoming) = endpoint.accept().await {
        let served = served.clone();
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let Ok(body) = recv.read_to_end(64 << 20).await else { return };
                    served.lock().unwrap().push(body[..body.len().min(8)].to_vec());
                    send.write_all(&body).await.unwrap_or_default();
                    send.finish().unwrap_or_default();
                    send.stopped().await.unwrap_or_default();
                });
            }
        });
    }
}

async fn ask(connection: &Connection, body: &[u8]) -> Option<Vec<u8>> {
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    send.write_all(body).await.ok()?;
    send.finish().ok()?;
    recv.read_to_end(64 << 20).await.ok()
}

fn id(uri: &str) -> Identity {
    Identity::from_uri(uri).unwrap()
}

fn clock() -> Arc<dyn rustls::time_provider::TimeProvider> {
    tls::clock_from(|| NOW)
}

fn quiet() -> tls::OnRefusal {
    Arc::new(|refused| panic!("{refused}"))
}

fn server_host() -> SocketAddr {
    ([10, 0, 0, 1], 4433).into()
}

fn site_host() -> SocketAddr {
    ([10, 0, 0, 2], 4433).into()
}

/// All that can go wrong at once.
fn rough() -> LinkSettings {
    LinkSettings {
        loss: 0.05,
        duplicate: 0.02,
        corrupt: 0.01,
        reorder: true,
        ..LinkSettings::default()
    }
}
