//! The `tradewind` command; see [`tradewind_cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tradewind_cli::run(std::env::args_os()))
}
