//! The command line. Precedence: flag, then environment variable, then configuration file, then default.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use crate::config::{LogFormat, XdpChoice};

/// Control process of Tradewind: REST over TLS, users, transfers; starts and watches tradewind-engine.
///
/// Settings are taken from flags first, then from environment variables, then from the configuration file, then from defaults.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "tradewindd", version)]
pub struct Options {
    /// Configuration file; /etc/tradewind/tradewindd.toml if it exists.
    #[arg(long, env = "TRADEWINDD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address and TCP port of the REST interface (rest.listen; default 0.0.0.0:33000).
    #[arg(long, env = "TRADEWINDD_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Address and UDP port for data (data.listen; default 0.0.0.0:33001).
    #[arg(long, env = "TRADEWINDD_DATA_LISTEN")]
    pub data_listen: Option<SocketAddr>,
    /// Network interface for AF_XDP (data.interface).
    #[arg(long, env = "TRADEWINDD_INTERFACE")]
    pub interface: Option<String>,
    /// Whether to use AF_XDP (data.xdp; default auto).
    #[arg(long, env = "TRADEWINDD_XDP", value_enum)]
    pub xdp: Option<XdpChoice>,
    /// Directory for the server's key and state (state_dir; default /var/lib/tradewind).
    #[arg(long, env = "TRADEWINDD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// The engine's program (engine.binary; default: tradewind-engine beside this program).
    #[arg(long, env = "TRADEWINDD_ENGINE")]
    pub engine: Option<PathBuf>,
    /// Format of the log on standard error (log; default text). TRADEWIND_LOG sets its level, e.g. debug.
    #[arg(long, env = "TRADEWINDD_LOG_FORMAT", value_enum)]
    pub log: Option<LogFormat>,
    /// Print the effective configuration without its secrets and every problem with its place; exit 2 if there is an error.
    #[arg(long)]
    pub check_config: bool,
    /// Print the fingerprint of the server's key and exit; makes the key if there is none.
    #[arg(long, conflicts_with = "check_config")]
    pub fingerprint: bool,
}
