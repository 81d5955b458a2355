//! `tradewindd`: options, configuration, then one of three verbs.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use tradewindd::options::Options;
use tradewindd::{config, identity, run};

fn main() -> ExitCode {
    let options = Options::parse();
    let loaded = config::load(&options);
    if options.check_config {
        print!("{}", loaded.report());
        return if loaded.is_usable() { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    if options.fingerprint {
        return finish(identity::load_or_create(&loaded.config.state_dir).map(|id| println!("{}", id.fingerprint)).map_err(Into::into));
    }
    if !loaded.is_usable() {
        eprint!("{}", loaded.problems_text());
        return ExitCode::from(2);
    }
    run::start_log(loaded.config.log);
    for warning in loaded.warnings() {
        tracing::warn!("{warning}");
    }
    finish(run::serve_until_signal(loaded.config))
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tradewindd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
