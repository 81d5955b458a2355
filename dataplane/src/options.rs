//! The engine's command line. `tradewindd` writes it; people only use `--probe`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Whether to use AF_XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XdpChoice {
    /// If the interface and the process's capabilities allow it; in the mode that suits the driver.
    #[default]
    Auto,
    /// In driver (native) mode, or not at all.
    Driver,
    /// In generic mode, or not at all.
    Generic,
    /// Never.
    Off,
}

/// How the engine writes its log, to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Which blocks the engine writes to the staging directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StagingMode {
    /// Those for which there is no room in memory.
    #[default]
    Auto,
    /// All, so that they outlive the engine.
    Always,
}

/// The data process of Tradewind. It is started by tradewindd; run it by hand only with --probe.
#[derive(Clone, Debug, Parser)]
#[command(name = "tradewind-engine", version)]
pub struct Options {
    /// Report what AF_XDP can do on this machine as JSON, and exit.
    #[arg(long)]
    pub probe: bool,
    /// Descriptor of the socket to the control process.
    #[arg(long, required_unless_present = "probe")]
    pub control_fd: Option<i32>,
    /// Address and UDP port on which packets arrive.
    #[arg(long, default_value = "0.0.0.0:33001")]
    pub listen: SocketAddr,
    /// Network interface for AF_XDP.
    #[arg(long)]
    pub interface: Option<String>,
    /// Whether to use AF_XDP.
    #[arg(long, value_enum, default_value_t)]
    pub xdp: XdpChoice,
    /// Pinned worker threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// Memory for blocks on their way to the store, bytes.
    #[arg(long, default_value_t = 1 << 30)]
    pub pool_bytes: u64,
    /// Largest payload of a block, bytes.
    #[arg(long, default_value_t = tradewind_wire::limits::BLOCK_PAYLOAD_DEFAULT)]
    pub block_bytes: usize,
    /// Silence of a sender after which its lane is given up, seconds.
    #[arg(long, default_value_t = 60)]
    pub idle_timeout_s: u64,
    /// Directory for the journal of what is durable. Without it nothing is remembered, and what was interrupted starts over.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// How long an upload that nobody goes on with is kept, seconds, and what was stored is remembered.
    #[arg(long, default_value_t = 7 * 86_400)]
    pub resume_keep_s: u64,
    /// Directory on a local disk where blocks wait while a store is slower than the network; may be given several times, one for each disk.
    /// Without it they wait in memory only.
    #[arg(long)]
    pub staging_dir: Vec<PathBuf>,
    /// Most bytes of blocks in each.
    #[arg(long, default_value_t = 16 << 30)]
    pub staging_bytes: u64,
    /// Which blocks go there.
    #[arg(long, value_enum, default_value_t)]
    pub staging_mode: StagingMode,
    /// Format of the log.
    #[arg(long, value_enum, default_value_t)]
    pub log: LogFormat,
}
