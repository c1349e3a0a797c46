//! `GET /metrics` on a loopback address.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_channels::BoxFuture;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::{CONTENT_TYPE, render};
use crate::control::StatsReply;

/// Callers that are answered at a time; more wait.
const CALLERS_MAX: usize = 8;
/// Time for one call, from its first byte to the last of the answer.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Time until another attempt to accept, when the machine has no room.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where figures come from.
pub trait Figures: Send + Sync + 'static {
    /// Those of every cell of this process that runs.
    fn figures(&self) -> BoxFuture<Vec<StatsReply>>;
}

/// A listener that gives the figures of this process to whoever asks on this machine.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl MetricsListener {
    /// Opens `address`, which must be on loopback.
    ///
    /// # Errors
    /// When it is not, or somebody else has it.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(io::Error::other(format!("{address} is not on loopback")));
        }
        let listener = TcpListener::bind(address).await?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers, until the future is dropped.
    pub async fn serve(self, figures: Arc<dyn Figures>) {
        let callers = Arc::new(Semaphore::new(CALLERS_MAX));
        loop {
            let Ok(place) = Arc::clone(&callers).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let figures = Arc::clone(&figures);
                    tokio::spawn(async move {
                        answer(stream, figures).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the metrics listener cannot accept; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn answer(stream: TcpStream, figures: Arc<dyn Figures>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let figures = Arc::clone(&figures);
        async move {
            Ok::<_, Infallible>(respond(request.method(), request.uri().path(), &*figures).await)
        }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CALL_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a call for figures was broken off"),
        Err(_late) => tracing::debug!("a call for figures took too long"),
    }
}

async fn respond(method: &Method, path: &str, figures: &dyn Figures) -> Response<Full<Bytes>> {
    let (status, content_type, text) = match (method, path) {
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, CONTENT_TYPE, render(figures.figures().await))
        }
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "only /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Nothing;

    impl Figures for Nothing {
        fn figures(&self) -> BoxFuture<Vec<StatsReply>> {
            Box::pin(std::future::ready(Vec::new()))
        }
    }

    async fn call(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn figures_are_given_to_get_and_nothing_else_is() {
        let listener = MetricsListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address();
        let serving = tokio::spawn(listener.serve(Arc::new(Nothing)));
        let given = call(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(given.starts_with("HTTP/1.1 200") && given.contains(CONTENT_TYPE), "{given}");
        assert!(given.ends_with("# EOF\n"), "{given}");
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = call(address, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        }
        serving.abort();
    }

    #[tokio::test]
    async fn no_other_machine_is_listened_to() {
        assert!(MetricsListener::bind("0.0.0.0:0".parse().unwrap()).await.is_err());
    }
}
