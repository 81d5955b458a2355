//! `tradewind-engine`: options, log, links, privileges, workers, control.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tradewind_engine::options::{LogFormat, Options};
use tradewind_engine::{control, privileges, probe, topology};

fn main() -> ExitCode {
    let options = Options::parse();
    start_log(options.log);
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let Some(control_fd) = options.control_fd.filter(|_| !options.probe) else {
        println!("{}", probe::report(options.interface.as_deref()));
        return Ok(());
    };
    raise_descriptor_limit();
    let stream = tradewind_ipc::inherited_stream(control_fd).context("the engine is started by tradewindd")?;
    let opened = topology::open(options)?;
    privileges::drop_capabilities().map_err(anyhow::Error::msg).context("the engine does not run with privileges it does not need")?;
    opened.check_steering().map_err(anyhow::Error::msg)?;
    let ready = control::Facts::of(&opened, options)?;
    let (workers, pool) = topology::start(opened)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start tokio")?;
    runtime.block_on(control::serve(stream, workers, pool, ready))?;
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    Ok(())
}

/// A batch of small files holds a descriptor for each; the usual soft limit of 1024 is for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

fn start_log(format: LogFormat) {
    let mut filter = EnvFilter::try_from_env("TRADEWIND_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Below its warnings, that crate writes down the tokens of blocks.
    if filter.max_level_hint().is_none_or(|level| level > LevelFilter::WARN)
        && let Ok(warnings) = "hdfs_native=warn".parse()
    {
        filter = filter.add_directive(warnings);
    }
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
