//! From a checked configuration to a running server, and back.

use std::io::IsTerminal as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::supervisor::Supervisor;
use crate::{http, identity};

/// Writes the log to standard error; `TRADEWIND_LOG` sets levels (default `info`).
pub fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("TRADEWIND_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).with_ansi(colour);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Serves until SIGTERM or SIGINT, then lets running transfers end (`limits.shutdown_timeout_s`).
///
/// # Errors
/// What keeps it from starting, with the place.
pub fn serve_until_signal(config: Config) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start tokio")?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let identity = identity::load_or_create(&config.state_dir)?;
    let fingerprint = identity.fingerprint;
    let tls = identity.tls_config().context("key and certificate do not belong together; remove the tls directory in state_dir")?;
    // Made here, so that a key that cannot be used keeps the server from starting rather than from signing.
    identity::receipt_key(&config.state_dir)?;
    // Before the engine runs: its connections to stores have local ports that the system chooses, and could take this one.
    let listener = http::bind(config.rest.listen).await.with_context(|| cannot_listen(config.rest.listen))?;
    let (supervisor, supervising) = Supervisor::start(&config);
    let limits = http::Limits { connections_max: config.rest.connections_max };
    let router = http::router(&config, supervisor.clone());
    let server = http::start(listener, limits, tls, router).context("cannot read the address that is listened on")?;
    println!("tradewindd {} listens on {}\nfingerprint {fingerprint}", env!("CARGO_PKG_VERSION"), server.address);

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: finishing running transfers"),
        _ = interrupt.recv() => tracing::info!("SIGINT: finishing running transfers; once more to end at once"),
    }
    // Status requests stay possible while transfers finish; new transfers are refused.
    supervisor.drain().await;
    tokio::select! {
        ended = supervising => ended.context("the supervisor ended badly")?,
        _ = interrupt.recv() => tracing::warn!("ended at once"),
    }
    server.stop().await;
    Ok(())
}

fn cannot_listen(address: SocketAddr) -> String {
    let port = address.port();
    format!(
        "cannot listen on {address}; is another tradewindd running? (--listen) If a connection has the port (`ss -tanp sport = {port}`), keep it \
         free: sysctl -w net.ipv4.ip_local_reserved_ports={port}"
    )
}
