//! The loop that drives one sender over one link.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, TryRecvError};
use tradewind_fabric::SharedBlock;
use tradewind_fabric::clock::now_ns;
use tradewind_netio::LinkError;
use tradewind_netio::udp::precise_timers;
use tradewind_proto::sender::{Sender, SenderEvent};
use tradewind_wire::control::close;

use crate::error::UploadError;
use crate::link::{LINGER_NS, SLEEP_MAX_NS, ServerLink, local};
use crate::progress::{Progress, UploadReport, limiter_name, share};
use crate::source::{Found, Tally};

pub(crate) const PROGRESS_INTERVAL_NS: u64 = 200_000_000;

pub(crate) struct Worker {
    pub(crate) link: ServerLink,
    pub(crate) sender: Sender<SharedBlock>,
    pub(crate) ready: Receiver<SharedBlock>,
    pub(crate) reading: Option<JoinHandle<()>>,
    pub(crate) found: Arc<Found>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) cancel: Arc<AtomicBool>,
    pub(crate) payload_max: usize,
    /// Size of a full IP packet.
    pub(crate) packet_bytes: u32,
}

/// How the lane ended.
enum End {
    Done { receipt: u64 },
    Failed(UploadError),
}

impl Worker {
    pub(crate) fn run(mut self, mut progress: impl FnMut(&Progress), idle_timeout: Duration) -> Result<UploadReport, UploadError> {
        // A refusal only makes pacing coarser.
        let _ = precise_timers();
        let started_ns = now_ns();
        let mut next_progress_ns = started_ns;
        let (mut ignored, mut has_told) = (0, false);
        loop {
            let Self { link, sender, .. } = &mut self;
            link.receive(&mut |meta, datagram| ignored += u64::from(sender.handle_datagram(meta.arrived_ns, datagram).is_err()))?;
            let now = now_ns();
            match self.handle_events(idle_timeout) {
                Some(End::Done { receipt }) => {
                    let elapsed_ns = now_ns() - started_ns;
                    self.flush_closing();
                    progress(&self.progress(elapsed_ns));
                    return Ok(self.report(elapsed_ns, receipt, ignored));
                }
                Some(End::Failed(error)) => {
                    progress(&self.progress(now_ns() - started_ns));
                    return Err(error);
                }
                None => {}
            }
            // After the events: a lane that has ended by itself is not cancelled any more, though the server may have said first that it is over.
            if self.cancel.load(Relaxed) {
                self.say_goodbye(close::CANCELLED, "cancelled by the sender");
                progress(&self.progress(now_ns() - started_ns));
                return Err(UploadError::Cancelled);
            }
            if let Err(error) = self.open_blocks(now) {
                self.say_goodbye(close::INTERNAL, "the sender failed");
                return Err(error);
            }
            let full = self.transmit(now).map_err(local)?;
            // The first block at the receiver is told at once.
            let is_first = !has_told && self.sender.statistics().bytes_received > 0;
            if now >= next_progress_ns || is_first {
                has_told |= is_first;
                next_progress_ns = now + PROGRESS_INTERVAL_NS;
                progress(&self.progress(now - started_ns));
            }
            self.sleep(full)?;
        }
    }

    fn handle_events(&mut self, idle_timeout: Duration) -> Option<End> {
        while let Some(event) = self.sender.poll_event() {
            match event {
                SenderEvent::BlockReceived { image, .. } => drop(image),
                SenderEvent::Done { receipt } => return Some(End::Done { receipt }),
                SenderEvent::Closed { code, text } => {
                    let endpoint = self.link.endpoint;
                    let heard = self.sender.statistics().feedback_received > 0;
                    return Some(End::Failed(match code {
                        close::TIMEOUT if !heard => UploadError::NoAnswer { endpoint, seconds: idle_timeout.as_secs() },
                        close::TIMEOUT => UploadError::Lost { endpoint, text },
                        close::PATH => UploadError::PathMtu { endpoint, packet_bytes: self.packet_bytes, text },
                        _ => UploadError::Refused { code, text },
                    }));
                }
            }
        }
        None
    }

    /// Moves blocks from the reader to the sender while the sender has use for them.
    fn open_blocks(&mut self, now: u64) -> Result<(), UploadError> {
        while self.sender.wants_block() {
            match self.ready.try_recv() {
                // An image that fits its slot always fits the lane, so nothing comes back.
                Ok(image) => drop(self.sender.open_block(now, image)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    if let Some(reading) = self.reading.take() {
                        let panicked =
                            |_| UploadError::Local { what: "the reading thread panicked", source: "see the message above".into() };
                        reading.join().map_err(panicked)?;
                        self.sender.finish();
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends what is due; `true` when the link had no room for more.
    fn transmit(&mut self, now: u64) -> Result<bool, LinkError> {
        let Self { link, sender, .. } = self;
        link.transmit(sender.datagram_bytes_max(), |out| sender.poll_transmit(now, out))
    }

    fn sleep(&mut self, full: bool) -> Result<(), UploadError> {
        self.link.sleep(full, self.sender.poll_timeout(now_ns()), SLEEP_MAX_NS)
    }

    /// Tells the receiver that this end gives up.
    fn say_goodbye(&mut self, code: u16, text: &'static str) {
        self.sender.close(code, text);
        self.flush_closing();
    }

    /// Lets the CLOSE packets leave; the lane is over, so a link that fails now changes nothing.
    fn flush_closing(&mut self) {
        let deadline = now_ns() + LINGER_NS;
        while !self.sender.is_closed() && now_ns() < deadline {
            if self.transmit(now_ns()).is_err() {
                break;
            }
        }
    }

    fn progress(&self, elapsed_ns: u64) -> Progress {
        let statistics = self.sender.statistics();
        let durable = u64::from(statistics.blocks_durable) * self.payload_max as u64;
        let (found, tally) = (&self.found, &self.tally);
        // Of what is to be sent in this attempt, as far as it is known.
        let kept = tally.bytes_kept.load(Relaxed) + tally.bytes_failed.load(Relaxed) + tally.bytes_holes.load(Relaxed);
        let bytes_total = found.bytes.load(Relaxed).saturating_sub(kept);
        Progress {
            bytes_total,
            bytes_sent: statistics.bytes_received.min(bytes_total),
            bytes_durable: durable.min(bytes_total),
            rate_bps: statistics.rate_bytes_per_s.saturating_mul(8),
            rtt_ms: statistics.round_trip_ns as f64 / 1e6,
            packets_sent: statistics.packets_sent,
            loss: share(statistics.packets_lost, statistics.packets_sent),
            retransmitted_share: share(statistics.data_packets_again, statistics.data_packets_sent),
            limiter: limiter_name(statistics.limiter),
            elapsed: Duration::from_nanos(elapsed_ns),
        }
    }

    fn report(&self, elapsed_ns: u64, receipt: u64, packets_ignored: u64) -> UploadReport {
        let statistics = self.sender.statistics();
        UploadReport {
            bytes: self.tally.bytes.load(Relaxed),
            bytes_compared: self.tally.bytes_compared.load(Relaxed),
            bytes_holes: self.tally.bytes_holes.load(Relaxed),
            files: self.tally.files.load(Relaxed),
            files_kept: self.tally.files_kept.load(Relaxed),
            bytes_kept: self.tally.bytes_kept.load(Relaxed),
            files_failed: self.tally.files_failed.load(Relaxed),
            elapsed: Duration::from_nanos(elapsed_ns),
            packets_sent: statistics.packets_sent,
            data_packets_sent: statistics.data_packets_sent,
            retransmitted_share: share(statistics.data_packets_again, statistics.data_packets_sent),
            loss: share(statistics.packets_lost, statistics.packets_sent),
            rtt_ms: statistics.round_trip_ns as f64 / 1e6,
            receipt,
            packets_ignored,
            statistics,
        }
    }
}
