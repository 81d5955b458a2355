//! `tradewind-netem`: plays a scenario between two interfaces, verifies one, or makes one.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
