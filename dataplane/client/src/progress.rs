//! What an upload tells while it runs and at its end.

use std::time::Duration;

use tradewind_proto::rate::Limiter;
use tradewind_proto::sender::SenderStatistics;

/// A moment of a running upload.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Bytes of all sources found so far, without those that are durable already.
    pub bytes_total: u64,
    /// Bytes that the receiver holds in whole blocks.
    pub bytes_sent: u64,
    /// Bytes that are durable at the destination, to the block.
    pub bytes_durable: u64,
    /// Sending rate, bit/s of IP packets.
    pub rate_bps: u64,
    /// Smoothed round-trip time, milliseconds.
    pub rtt_ms: f64,
    /// Packets sent so far, of all kinds; of a download those that arrived and those that are missing.
    pub packets_sent: u64,
    /// Packets lost over packets sent so far.
    pub loss: f64,
    /// DATA packets sent again over all DATA packets.
    pub retransmitted_share: f64,
    /// What limits the rate: `network`, `storage`, `source`, `target`, `lease`.
    pub limiter: &'static str,
    /// Time since the first packet.
    pub elapsed: Duration,
}

/// A finished upload.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadReport {
    /// Bytes of files that were sent.
    pub bytes: u64,
    /// Of these, bytes in holes, of which only the place was sent.
    pub bytes_holes: u64,
    /// Files that were sent, in whole or what was missing of them.
    pub files: u64,
    /// Files that were durable already, from an earlier transfer.
    pub files_kept: u64,
    /// Bytes that were durable already, also of files of which the rest was sent.
    pub bytes_kept: u64,
    /// Bytes of sources that were read to compare them with what is durable.
    pub bytes_compared: u64,
    /// Files that were left out because they could not be read or changed meanwhile.
    pub files_failed: u64,
    /// From the first packet to the receiver's word that everything is durable.
    pub elapsed: Duration,
    /// Packets sent, of all kinds.
    pub packets_sent: u64,
    /// DATA packets sent.
    pub data_packets_sent: u64,
    /// DATA packets sent again over all DATA packets.
    pub retransmitted_share: f64,
    /// Packets lost over packets sent.
    pub loss: f64,
    /// Smoothed round-trip time at the end, milliseconds.
    pub rtt_ms: f64,
    /// Number of the receiver's receipt.
    pub receipt: u64,
    /// Datagrams that were dropped because they were not of this lane or did not authenticate.
    pub packets_ignored: u64,
    /// All counters of the sender.
    pub statistics: SenderStatistics,
}

pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

pub(crate) fn limiter_name(limiter: Limiter) -> &'static str {
    match limiter {
        Limiter::Network => "network",
        Limiter::Storage => "storage",
        Limiter::Source => "source",
        Limiter::Target => "target",
        Limiter::Lease => "lease",
    }
}
