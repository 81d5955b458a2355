//! The user's command: sends files, asks about transfers and stored objects, examines the machine.
//!
//! | Command | What it does | Module |
//! |---|---|---|
//! | `tradewind send SRC… DEST` | sends files and directories | `send` |
//! | `tradewind get URL… DEST` | gets objects of a server's stores as files | `get` |
//! | `tradewind copy SRC DEST` | copies objects from store to store | `copy` |
//! | `tradewind status [ID]` | shows transfers as the server sees them | `transfers` |
//! | `tradewind rate ID` | changes policy and rates of a running transfer | `transfers` |
//! | `tradewind cancel ID` | ends a transfer | `transfers` |
//! | `tradewind ls URL`, `stat URL`, `rm URL…` | lists, shows and removes objects of a server's stores | `objects` |
//! | `tradewind seal PATH…`, `unseal PATH…`, `seal-key FILE` | encrypts and decrypts files on this machine | `seal` |
//! | `tradewind verify DEST` | compares stored files with a manifest by reading them again | `verify` |
//! | `tradewind verify-receipt FILE`, `receipt-key` | checks a server's receipt; prints the key for that | `proof` |
//! | `tradewind doctor` | examines this machine and, if asked, a server | `doctor` |
//! | `tradewind completions SHELL` | prints a completion script | here |
//!
//! Exit codes are those of [`tradewind_api::exit`] and stable. Results go to standard output, everything else to standard error.
#![forbid(unsafe_code)]

mod connect;
mod copy;
mod display;
mod doctor;
mod dry_get;
mod dry_run;
mod events;
mod failure;
mod follow;
mod gather;
mod get;
mod interrupt;
mod keep;
mod lane;
mod links;
mod lists;
mod objects;
mod options;
mod proof;
mod rate;
mod retry;
mod seal;
mod select;
mod send;
mod sources;
mod state;
mod transfers;
mod units;
mod verify;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use clap::{CommandFactory, Parser};
use tradewind_api::exit;

use crate::failure::Failure;
use crate::options::{Command, Options};

/// Runs the command with these arguments, the first being the program's name, and returns its exit code.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => {
            // Also the way of --help and --version; with standard output closed there is nobody to tell.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
        }
    };
    start_log();
    match options.command {
        Command::Send(options) => with_runtime(options.json, send::send(&options)),
        Command::Get(options) => with_runtime(options.json, get::get(&options)),
        Command::Copy(options) => with_runtime(options.json, copy::copy(&options)),
        Command::Status(options) => with_runtime(options.json, transfers::status(&options)),
        Command::Rate(options) => with_runtime(options.json, transfers::rate(&options)),
        Command::Cancel(options) => with_runtime(options.json, transfers::cancel(&options)),
        Command::Ls(options) => with_runtime(options.json, objects::ls(&options)),
        Command::Stat(options) => with_runtime(options.json, objects::stat(&options)),
        Command::Rm(options) => with_runtime(false, objects::rm(&options)),
        Command::Seal(options) => with_runtime(false, seal::seal(options)),
        Command::Unseal(options) => with_runtime(false, seal::unseal(options)),
        Command::SealKey(options) => with_runtime(false, async move { seal::seal_key(&options) }),
        Command::Verify(options) => with_runtime(options.json, verify::verify(&options)),
        Command::VerifyReceipt(options) => with_runtime(options.json, async { proof::verify_receipt(&options) }),
        Command::ReceiptKey(options) => with_runtime(options.json, proof::receipt_key(&options)),
        Command::Doctor(options) => with_runtime(options.json, doctor::doctor(&options)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Options::command(), "tradewind", &mut script);
            // A reader that has gone wants no script.
            let _ = std::io::stdout().write_all(&script);
            exit::OK
        }
    }
}

/// Messages of the libraries go to standard error; `TRADEWIND_LOG` chooses which. By default warnings, but not those of storage: what it warns of ends
/// the command with the same words.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TRADEWIND_LOG").unwrap_or_else(|_| "warn,tradewind_storage=error".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(display::colours_wanted(std::io::stderr().is_terminal()))
        .without_time()
        .with_target(false);
    // A second start in one process (tests) keeps the first one's.
    let _ = log.try_init();
}

fn with_runtime(json: bool, command: impl Future<Output = Result<u8, Failure>>) -> u8 {
    let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let result = runtime.block_on(command);
            // A blocking task that still runs (files that are looked for when a signal comes) must not keep the process.
            runtime.shutdown_background();
            result
        }
        Err(source) => Err(Failure::Local { what: "cannot start the network runtime", detail: source.to_string() }),
    };
    result.unwrap_or_else(|failure| {
        if json {
            events::emit(&events::error(&failure));
        }
        display::print_failure(&failure);
        failure.exit_code()
    })
}
