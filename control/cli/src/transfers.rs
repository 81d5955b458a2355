//! `tradewind status`, `tradewind rate` and `tradewind cancel`.

use std::time::Duration;

use tradewind_api::{Limiter, RatePolicy, RateStatus, TransferState, TransferStatus, exit};

use crate::connect::connect;
use crate::display::{limit_name, result};
use crate::events;
use crate::failure::Failure;
use crate::options::{CancelOptions, RateOptions, StatusOptions};
use crate::units;

/// Shows one transfer, or a table of all.
pub(crate) async fn status(options: &StatusOptions) -> Result<u8, Failure> {
    let client = connect(&options.server, options.json).await?;
    match &options.id {
        Some(id) => show(&client.status(id).await?, options.json),
        None => {
            let list = client.list().await?;
            if options.json {
                events::emit(&list);
            } else if list.transfers.is_empty() {
                result("no transfers");
            } else {
                table(&list.transfers).iter().for_each(|line| result(line));
            }
        }
    }
    Ok(exit::OK)
}

/// Changes policy and rates.
pub(crate) async fn rate(options: &RateOptions) -> Result<u8, Failure> {
    let client = connect(&options.server, options.json).await?;
    show(&client.change_rate(&options.id, &options.change()).await?, options.json);
    Ok(exit::OK)
}

/// Ends a transfer. One that has ended already is shown as it ended.
pub(crate) async fn cancel(options: &CancelOptions) -> Result<u8, Failure> {
    let client = connect(&options.server, options.json).await?;
    show(&client.cancel(&options.id).await?, options.json);
    Ok(exit::OK)
}

fn show(status: &TransferStatus, json: bool) {
    if json {
        events::emit(status);
    } else {
        details(status).iter().for_each(|line| result(line));
    }
}

/// Where from and where to, as far as that is at the server.
fn places(status: &TransferStatus) -> String {
    match &status.source {
        None => status.destination.clone(),
        Some(source) if status.destination.is_empty() => format!("from {source}"),
        Some(source) => format!("{source} to {}", status.destination),
    }
}

fn details(status: &TransferStatus) -> Vec<String> {
    let totals = &status.totals;
    let of = |announced: Option<String>| announced.map_or_else(String::new, |text| format!(" of {text}"));
    let mut lines = vec![
        format!("transfer     {}", status.transfer_id),
        format!("state        {}", state_name(status.state)),
        format!("{}  {}", if status.source.is_some() { "objects    " } else { "destination" }, places(status)),
        format!("elapsed      {}", units::duration(Duration::from_millis(status.elapsed_ms))),
        format!("files        {}{} durable", totals.files_durable, of(status.files_announced.map(|files| files.to_string()))),
        format!("bytes        {}{} durable", units::bytes(totals.bytes_durable), of(status.bytes_announced.map(units::bytes))),
        format!("policy       {}", policy(&status.rate)),
        format!("packets      {} through AF_XDP, {} through the kernel", totals.packets_afxdp, totals.packets_kernel),
    ];
    if totals.blocks_staged > 0 {
        lines.push(format!(
            "staged       {} of {} blocks waited on the server's disk for the store",
            totals.blocks_staged, totals.blocks_complete
        ));
    }
    if let Some(rate) = rate_now(&status.rate) {
        lines.push(format!("rate         {rate}"));
    }
    if let Some(outcome) = &status.outcome {
        lines.push(format!("reason       {}: {} ({})", outcome.code.title(), outcome.detail, outcome.code));
        lines.push(format!("hint         {}", outcome.hint));
    }
    for file in &status.files {
        lines.push(format!("file         {} ({}, CRC-64 {:016x})", file.path, units::bytes(file.size), file.crc64));
    }
    lines
}

/// `fair, at most 300.0 Mbit/s, at least 10.0 Mbit/s`
fn policy(rate: &RateStatus) -> String {
    let name = match rate.policy {
        RatePolicy::Fixed => "fixed",
        RatePolicy::High => "high",
        RatePolicy::Fair => "fair",
        RatePolicy::Low => "low",
    };
    let bound = |words: &str, bps: Option<u64>| bps.map_or_else(String::new, |bps| format!(", {words} {}", units::rate(bps as f64)));
    let pending = if rate.in_force { "" } else { " (being told to the sender)" };
    format!("{name}{}{}{pending}", bound("at most", rate.target_rate_bps), bound("at least", rate.minimum_rate_bps))
}

/// `56.1 Mbit/s sent, 60.0 Mbit/s of cap 'uplink'; limit: server's cap`
fn rate_now(rate: &RateStatus) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(sent) = rate.sent_rate_bps {
        parts.push(format!("{} sent", units::rate(sent as f64)));
    }
    if let (Some(lease), Some(cap)) = (rate.lease_rate_bps, &rate.cap) {
        parts.push(format!("share {} of cap '{cap}'", units::rate(lease as f64)));
    }
    if let Some(group) = rate.group {
        parts.push(format!("part {} as one of {} from this address", units::rate(group.share_rate_bps as f64), group.lanes));
    }
    if let Some(limiter) = rate.limiter {
        parts.push(format!("limit: {}", limit_name(limiter.as_str())));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn table(transfers: &[TransferStatus]) -> Vec<String> {
    let width = transfers.iter().map(|transfer| transfer.transfer_id.len()).max().unwrap_or(0).max(8);
    let mut lines = vec![format!(
        "{:width$}  {:9}  {:>12}  {:>12}  {:>12}  {:8}  DESTINATION",
        "TRANSFER", "STATE", "DURABLE", "ELAPSED", "RATE", "LIMIT"
    )];
    for transfer in transfers {
        lines.push(format!(
            "{:width$}  {:9}  {:>12}  {:>12}  {:>12}  {:8}  {}",
            transfer.transfer_id,
            state_name(transfer.state),
            units::bytes(transfer.totals.bytes_durable),
            units::duration(Duration::from_millis(transfer.elapsed_ms)),
            transfer.rate.sent_rate_bps.map_or_else(|| "-".to_owned(), |sent| units::rate(sent as f64)),
            transfer.rate.limiter.map_or("-", Limiter::as_str),
            places(transfer)
        ));
    }
    lines
}

const fn state_name(state: TransferState) -> &'static str {
    match state {
        TransferState::Opening => "opening",
        TransferState::Waiting => "waiting",
        TransferState::Running => "running",
        TransferState::Done => "done",
        TransferState::Failed => "failed",
        TransferState::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::{ErrorCode, Outcome, Totals};

    use super::*;

    fn transfer() -> TransferStatus {
        TransferStatus {
            transfer_id: "0123456789abcdef".to_owned(),
            state: TransferState::Failed,
            destination: "s3://bucket/in/".to_owned(),
            source: None,
            files_failed: 0,
            first_failure: None,
            submitted_unix_ms: 0,
            elapsed_ms: 9_300,
            files_announced: Some(3),
            bytes_announced: None,
            totals: Totals { bytes_durable: 1 << 20, files_durable: 1, ..Totals::default() },
            rate: RateStatus {
                policy: RatePolicy::High,
                target_rate_bps: Some(300_000_000),
                cap: Some("uplink".to_owned()),
                lease_rate_bps: Some(60_000_000),
                limiter: Some(Limiter::Lease),
                sent_rate_bps: Some(59_000_000),
                in_force: true,
                ..RateStatus::default()
            },
            files: Vec::new(),
            outcome: Some(Outcome { code: ErrorCode::DiskFull, detail: "/data".to_owned(), hint: "free space".to_owned() }),
        }
    }

    #[test]
    fn details_say_what_and_why() {
        let text = details(&transfer()).join("\n");
        for part in [
            "high, at most 300.0 Mbit/s\n",
            "59.0 Mbit/s sent, share 60.0 Mbit/s of cap 'uplink', limit: server's cap",
            "failed",
            "1 of 3 durable",
            "1.0 MiB durable",
            "9.3 s",
            "/data (disk_full)",
            "free space",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let lines = table(&[transfer(), transfer()]);
        assert_eq!(lines.len(), 3);
        let column = lines[0].find("DESTINATION").unwrap();
        assert_eq!(lines[1].find("s3://").unwrap(), column);
    }
}
