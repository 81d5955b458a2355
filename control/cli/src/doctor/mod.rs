//! `tradewind doctor`: what this machine, and the way to a server, allow. Every finding that is not well says what to do.

mod engine;
mod host;
mod network;
mod server;

use std::io::IsTerminal;

use serde::Serialize;
use serde_json::json;
use tradewind_api::exit;

use crate::display::{self, paint};
use crate::events;
use crate::failure::Failure;
use crate::options::DoctorOptions;
use crate::units;

/// How well it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// Said, not judged: what cannot be known from here, or need not be.
    Note,
    /// Works, but slower or with a risk.
    Warn,
    /// Does not work.
    Fail,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Note => "NOTE",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }

    /// SGR parameters: green, none, yellow, red.
    const fn sgr(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Note => "0",
            Self::Warn => "33",
            Self::Fail => "1;31",
        }
    }
}

/// One thing that was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was examined.
    check: String,
    /// How well it is.
    level: Level,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// Exit code of the command if this is the first failure.
    #[serde(skip)]
    exit_code: u8,
}

impl Finding {
    fn new(level: Level, check: impl Into<String>, found: impl Into<String>, advice: Option<String>) -> Self {
        Self { check: check.into(), level, found: found.into(), advice, exit_code: exit::INTERNAL }
    }

    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, found, None)
    }

    fn note(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Note, check, found, Some(advice.into()))
    }

    fn warn(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Warn, check, found, Some(advice.into()))
    }

    fn fail(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>, exit_code: u8) -> Self {
        Self { exit_code, ..Self::new(Level::Fail, check, found, Some(advice.into())) }
    }
}

/// Runs the command. The exit code is 0 unless something fails; then it is that of the first failure.
pub(crate) async fn doctor(options: &DoctorOptions) -> Result<u8, Failure> {
    let capabilities = host::effective_capabilities();
    let mut findings = host::examine(capabilities).await;
    findings.extend(network::examine(options.interface.as_deref(), capabilities));
    findings.extend(engine::examine(options.interface.as_deref()).await);
    if let Some(address) = &options.server {
        findings.extend(server::examine(address, &options.identity).await?);
    }
    let exit_code = exit_code(&findings);
    if options.json {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        events::emit(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "findings": findings,
            "ok": count(Level::Ok), "note": count(Level::Note), "warn": count(Level::Warn), "fail": count(Level::Fail),
            "exit_code": exit_code,
        }));
    } else {
        table(&findings, display::colours_wanted(std::io::stdout().is_terminal())).iter().for_each(|line| display::result_painted(line));
    }
    Ok(exit_code)
}

fn exit_code(findings: &[Finding]) -> u8 {
    findings.iter().find(|finding| finding.level == Level::Fail).map_or(exit::OK, |finding| finding.exit_code)
}

fn table(findings: &[Finding], colours: bool) -> Vec<String> {
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for finding in findings {
        let word = paint(&format!("{:4}", finding.level.word()), finding.level.sgr(), colours);
        lines.push(format!("{word}  {:width$}  {}", display::printable(&finding.check), display::printable(&finding.found)));
        if let Some(advice) = &finding.advice {
            lines.push(format!("{:width$}        → {}", "", display::printable(advice)));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count() as u64;
    lines.push(format!(
        "{} OK, {}, {}, {}",
        count(Level::Ok),
        units::count(count(Level::Note), "note", "notes"),
        units::count(count(Level::Warn), "warning", "warnings"),
        units::count(count(Level::Fail), "failure", "failures"),
    ));
    lines
}

/// A short file of /proc or /sys, without the newline at its end.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("kernel", "fine"),
            Finding::warn("clock", "odd \x1b[2J", "set it"),
            Finding::fail("server key", "another", "compare", exit::FINGERPRINT),
            Finding::fail("server", "gone", "start it", exit::UNREACHABLE),
        ]
    }

    #[test]
    fn the_table_aligns_and_lets_nothing_steer_the_terminal() {
        assert_eq!(
            table(&findings()[..2], false),
            ["OK    kernel  fine", "WARN  clock   odd \\u{1b}[2J", "              → set it", "1 OK, 0 notes, 1 warning, 0 failures"]
        );
        assert!(table(&findings(), true)[1].starts_with("\x1b[33mWARN\x1b[0m  clock"));
    }

    #[test]
    fn the_first_failure_gives_the_exit_code() {
        assert_eq!(exit_code(&findings()), exit::FINGERPRINT);
        assert_eq!(exit_code(&findings()[..2]), exit::OK, "warnings are no failure");
    }
}
