//! What people see: notes, errors, the progress bar, the last line.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tradewind_api::TransferStatus;
use tradewind_client::{Progress, UploadReport};

use crate::events;
use crate::failure::Failure;
use crate::units;

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Whether to colour: a terminal, no `NO_COLOR` (<https://no-color.org>), not `TERM=dumb`.
pub(crate) fn colours_wanted(is_terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `text` in an SGR colour, if wanted.
pub(crate) fn paint(text: &str, sgr: &str, wanted: bool) -> String {
    if wanted { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Names of files and a server's words so that they steer no terminal and stay on their line: control characters, and those that turn the
/// direction of writing, as `\u{1b}`.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().flat_map(|c| if steers(c) { c.escape_unicode().collect() } else { vec![c] }).collect()
}

/// A remark on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "tradewind: {}", printable(text));
}

/// What happened, and what to do, on standard error.
pub(crate) fn print_failure(failure: &Failure) {
    let mut err = std::io::stderr().lock();
    let colour = colours_wanted(std::io::stderr().is_terminal());
    let _ = writeln!(err, "{} {}", paint("error:", "1;31", colour), printable(&failure.to_string()));
    if let Some(hint) = failure.hint() {
        let _ = writeln!(err, "{} {}", paint("hint:", "1;36", colour), printable(hint));
    }
    if let Some(id) = failure.transfer_id() {
        let _ = writeln!(err, "transfer {}", printable(id));
    }
}

/// A line of result on standard output. A reader that has gone is no error.
pub(crate) fn result(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", printable(text));
}

/// A line of result that was made printable already and may carry colours.
pub(crate) fn result_painted(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Shows how a transfer goes.
#[derive(Debug)]
pub(crate) enum Reporter {
    /// JSON events.
    Events,
    /// A bar on a terminal.
    Bar(ProgressBar),
    /// A line now and then.
    Lines {
        /// When the last was printed.
        last: Instant,
    },
    /// Nothing.
    Quiet,
}

impl Reporter {
    /// The right one for these options and this standard error.
    pub(crate) fn new(json: bool, quiet: bool, bytes_total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        if json {
            Self::Events
        } else if quiet {
            Self::Quiet
        } else if terminal {
            let bar = ProgressBar::with_draw_target(Some(bytes_total), ProgressDrawTarget::stderr_with_hz(10));
            let bar_part = if colours_wanted(true) { "{bar:20.cyan/blue}" } else { "{bar:20}" };
            // Two lines, so that each fits 80 columns.
            if let Ok(style) = ProgressStyle::with_template(&format!("{bar_part} {{percent:>3}} %  {{prefix}}\n{{wide_msg}}")) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_message("waiting for the first answer");
            Self::Bar(bar)
        } else {
            Self::Lines { last: Instant::now() }
        }
    }

    /// A moment of the transfer.
    pub(crate) fn progress(&mut self, progress: &Progress) {
        match self {
            Self::Events => events::emit(&events::progress(progress)),
            Self::Bar(bar) => {
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_sent);
                bar.set_prefix(amount(progress));
                bar.set_message(quality(progress));
            }
            Self::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                let share = progress.bytes_sent as f64 / progress.bytes_total as f64;
                // Of a download the whole is not known.
                let share = if progress.bytes_total == 0 { String::new() } else { units::percent(share) + " " };
                note(&format!("{share}{}", line(progress)));
            }
            Self::Lines { .. } | Self::Quiet => {}
        }
    }

    /// A remark while it runs, above the bar if there is one.
    pub(crate) fn note(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| note(text)),
            Self::Lines { .. } => note(text),
            Self::Events | Self::Quiet => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }

    /// The last line for people, ready.
    pub(crate) fn finished(&self, text: &str) {
        if matches!(self, Self::Bar(_) | Self::Lines { .. }) {
            result(text);
        }
    }

    /// The last line for people.
    pub(crate) fn done(&self, report: &UploadReport, server: Option<&TransferStatus>) {
        if matches!(self, Self::Bar(_) | Self::Lines { .. }) {
            result(&summary(report, server));
        }
    }
}

/// `128.0 MiB of 256.0 MiB  283.1 Mbit/s  ETA 4.0 s`
fn amount(progress: &Progress) -> String {
    if progress.bytes_total == 0 {
        return format!("{}  {}", units::bytes(progress.bytes_sent), units::rate(progress.rate_bps as f64));
    }
    let eta = eta(progress).map_or_else(|| "-".to_owned(), units::duration);
    format!(
        "{} of {}  {}  ETA {eta}",
        units::bytes(progress.bytes_sent),
        units::bytes(progress.bytes_total),
        units::rate(progress.rate_bps as f64)
    )
}

/// `loss 5.1 %  RTT 100.4 ms  limit: network`
fn quality(progress: &Progress) -> String {
    format!("loss {}  RTT {:.1} ms  limit: {}", units::percent(progress.loss), progress.rtt_ms, limit_name(progress.limiter))
}

fn line(progress: &Progress) -> String {
    format!("{}  {}", amount(progress), quality(progress))
}

/// Time left at the average rate so far; unknown before the first block has arrived.
fn eta(progress: &Progress) -> Option<Duration> {
    let left = progress.bytes_total.saturating_sub(progress.bytes_sent) as f64;
    let seconds = progress.elapsed.as_secs_f64() * left / progress.bytes_sent as f64;
    Duration::try_from_secs_f64(seconds).ok()
}

/// What binds, in a user's words.
pub(crate) fn limit_name(limiter: &str) -> &str {
    match limiter {
        "target" => "target (--rate)",
        "lease" => "server's cap",
        other => other,
    }
}

/// Fewer bytes than this are a handful of packets: a copy of the only one would read as 50 %.
const TELLING_BYTES: u64 = 128 << 10;

fn summary(report: &UploadReport, server: Option<&TransferStatus>) -> String {
    let packets = server.map(|status| (status.totals.packets_afxdp, status.totals.packets_kernel));
    let way = match packets {
        None | Some((0, 0)) => String::new(),
        Some((0, _)) => ", received by kernel UDP".to_owned(),
        Some((afxdp, kernel)) => format!(", {} received by AF_XDP", units::percent(afxdp as f64 / (afxdp + kernel) as f64)),
    };
    let kept = match (report.files_kept, report.bytes_kept) {
        (0, 0) => String::new(),
        (0, bytes) => format!("{} were there already; ", units::bytes(bytes)),
        (files, _) => format!("{} there already; ", units::count(files, "file was", "files were")),
    };
    if (report.files, report.bytes) == (0, 0) {
        return if kept.is_empty() { "no file was there to be sent".to_owned() } else { format!("{kept}no file was left to be sent") };
    }
    let holes = match report.bytes_holes {
        0 => String::new(),
        bytes => format!(", {} of it in holes", units::bytes(bytes)),
    };
    let bytes_sent = report.bytes - report.bytes_holes;
    let losses = if bytes_sent < TELLING_BYTES {
        String::new()
    } else {
        format!("loss {}, sent again {}, ", units::percent(report.loss), units::percent(report.retransmitted_share))
    };
    format!(
        "{kept}sent {} ({}{holes}) in {}: {}; {losses}RTT {:.1} ms{way}",
        units::count(report.files, "file", "files"),
        units::bytes(report.bytes),
        units::duration(report.elapsed),
        units::rate(units::goodput_bps(bytes_sent, report.elapsed)),
        report.rtt_ms,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(bytes_sent: u64) -> Progress {
        Progress {
            bytes_total: 256 << 20,
            bytes_sent,
            bytes_durable: 0,
            rate_bps: 283_100_000,
            rtt_ms: 100.44,
            packets_sent: 100,
            loss: 0.051,
            retransmitted_share: 0.05,
            limiter: "target",
            elapsed: Duration::from_secs(4),
        }
    }

    #[test]
    fn the_line_has_rate_eta_loss_rtt_and_limit() {
        assert_eq!(
            line(&moment(128 << 20)),
            "128.0 MiB of 256.0 MiB  283.1 Mbit/s  ETA 4.0 s  loss 5.1 %  RTT 100.4 ms  limit: target (--rate)"
        );
        assert!(line(&moment(0)).contains("ETA -"), "nothing has arrived, so nothing is known");
    }

    #[test]
    fn shares_of_a_handful_of_packets_are_not_told() {
        let report = crate::events::tests::report();
        assert!(summary(&report, None).contains("; loss 5.0 %, sent again 10.0 %, RTT 100.5 ms"), "{}", summary(&report, None));
        for (bytes, bytes_holes) in [(209, 0), (5 << 20, (5 << 20) - 209)] {
            let small = summary(&UploadReport { bytes, bytes_holes, ..report.clone() }, None);
            assert!(small.ends_with("bit/s; RTT 100.5 ms"), "{small}");
        }
    }

    #[test]
    fn a_transfer_with_nothing_to_send_tells_no_rate() {
        let nothing = UploadReport { files: 0, bytes: 0, bytes_holes: 0, files_kept: 0, bytes_kept: 0, ..crate::events::tests::report() };
        assert_eq!(summary(&nothing, None), "no file was there to be sent");
        let kept = UploadReport { files_kept: 3, bytes_kept: 9, ..nothing };
        assert_eq!(summary(&kept, None), "3 files were there already; no file was left to be sent");
    }

    #[test]
    fn eta_of_an_empty_transfer_is_unknown_rather_than_a_panic() {
        assert_eq!(eta(&Progress { bytes_total: 0, ..moment(0) }), None);
        assert_eq!(eta(&moment(256 << 20)), Some(Duration::ZERO));
    }

    #[test]
    fn colours_only_where_wanted() {
        assert_eq!(paint("OK", "32", false), "OK");
        assert_eq!(paint("OK", "32", true), "\x1b[32mOK\x1b[0m");
        assert!(!colours_wanted(false));
    }

    #[test]
    fn names_steer_no_terminal() {
        assert_eq!(printable("caf\u{e9} 日本"), "caf\u{e9} 日本");
        assert_eq!(printable("a\x1b[2J\nb\u{9b}c\u{202e}d"), "a\\u{1b}[2J\\u{a}b\\u{9b}c\\u{202e}d");
    }
}
