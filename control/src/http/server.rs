//! Connections: accept, TLS, HTTP/1.1 or HTTP/2, all with deadlines and bounded in number.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 pings; a connection that does not answer one is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// For requests under way when the server stops accepting.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_BYTES_MAX: u32 = 16 * 1024;
const STREAMS_MAX: u32 = 64;

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at the same time.
    pub connections_max: usize,
}

/// A server that accepts connections until [`stop`](Self::stop).
#[derive(Debug)]
pub struct Running {
    /// Address it listens on, with the port the system chose if none was given.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// Accepts no more, lets requests under way end (5 s), returns.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the REST server ended badly");
        }
    }
}

/// How long an address may stay in use that a killed server had.
const BIND_PATIENCE: Duration = Duration::from_secs(3);
const BIND_RETRY: Duration = Duration::from_millis(100);

/// Serves on a listener of [`bind`].
///
/// # Errors
/// The listener's address cannot be read.
pub fn start(listener: TcpListener, limits: Limits, tls: Arc<rustls::ServerConfig>, router: Router) -> io::Result<Running> {
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(listener, limits, TlsAcceptor::from(tls), router, stopped));
    Ok(Running { address, stop, task })
}

/// Binds. Waits a moment for an address that is in use: what a killed server leaves (a child that has not yet become another program) is gone
/// soon.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => tokio::time::sleep(BIND_RETRY).await,
            result => return result,
        }
    }
}

async fn accept(listener: TcpListener, limits: Limits, tls: TlsAcceptor, router: Router, mut stopped: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = next_connection(&listener, &permits) => accepted,
            _ = stopped.wait_for(|&stop| stop) => break,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                let router = router.clone().layer(Extension(peer));
                tokio::spawn(serve(stream, permit, tls.clone(), router, graceful.watcher()));
            }
            Err(error) => {
                // Out of descriptors: a pause lets others close theirs.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if timeout(CLOSE_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were cut that did not end in time");
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

async fn next_connection(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<(TcpStream, Peer, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, Peer(peer.ip()), permit))
}

async fn serve(
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    tls: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let _permit = permit;
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
    let http2 = &mut builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_header_list_size(HEADER_BYTES_MAX);
    http2.max_concurrent_streams(STREAMS_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "connection ended");
    }
}
