//! One upload while it runs: what is done for its lane, on whatever thread and link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, TryRecvError};
use tradewind_fabric::SharedBlock;
use tradewind_netio::{LinkError, Meta};
use tradewind_proto::sender::{Sender, SenderEvent};
use tradewind_wire::control::close;

use crate::error::UploadError;
use crate::link::{LINGER_NS, ServerLink};
use crate::progress::{Progress, UploadReport, limiter_name, share};
use crate::source::{Found, Tally};

pub(crate) const PROGRESS_INTERVAL_NS: u64 = 200_000_000;
/// Timers of a lane are late by no more than this, however slow it is: a quarter of the rate controller's shortest phases.
const SLACK_NS_MAX: u64 = 6_000_000;

/// A lane, its blocks, and what is told of it.
pub(crate) struct Lane {
    pub(crate) sender: Sender<SharedBlock>,
    pub(crate) ready: Receiver<SharedBlock>,
    pub(crate) reading: Option<JoinHandle<()>>,
    /// Ends the reading thread.
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) found: Arc<Found>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) cancel: Arc<AtomicBool>,
    pub(crate) idle_timeout: Duration,
    pub(crate) endpoint: SocketAddr,
    pub(crate) payload_max: usize,
    /// Size of a full IP packet.
    pub(crate) packet_bytes: u32,
    pub(crate) course: Course,
}

/// How far a lane has come.
pub(crate) struct Course {
    started_ns: u64,
    next_progress_ns: u64,
    /// That the first block is at the receiver.
    has_told: bool,
    /// Datagrams that were not the server's or said nothing new.
    ignored: u64,
    ending: Option<Ending>,
}

impl Course {
    pub(crate) const fn begin(now_ns: u64) -> Self {
        Self { started_ns: now_ns, next_progress_ns: now_ns, has_told: false, ignored: 0, ending: None }
    }

    fn elapsed_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.started_ns)
    }
}

/// A lane that is over, but for its last packets.
struct Ending {
    /// The receipt of what is durable, or what went wrong.
    result: Result<u64, UploadError>,
    elapsed_ns: u64,
    /// When it is over even if its last packets could not leave.
    until_ns: u64,
}

/// How a lane stands after a step.
pub(crate) enum Step {
    /// `full`: the link had no room for all that is due.
    Goes {
        full: bool,
    },
    Over(Box<Result<UploadReport, UploadError>>),
}

impl Lane {
    /// A datagram came.
    pub(crate) fn receive(&mut self, meta: &Meta, datagram: &[u8]) {
        self.course.ignored += u64::from(self.sender.handle_datagram(meta.arrived_ns, datagram).is_err());
    }

    /// When to take the next step at the latest, if no datagram and no block comes.
    pub(crate) fn poll_timeout(&self, now_ns: u64) -> u64 {
        self.sender.poll_timeout(now_ns).min(self.course.ending.as_ref().map_or(u64::MAX, |ending| ending.until_ns))
    }

    /// The same of a lane in a crowd: as late as does no harm, so that several packets leave in one step.
    pub(crate) fn late_timeout(&self, now_ns: u64) -> u64 {
        let slack_ns = if self.course.ending.is_some() { 0 } else { self.sender.slack_ns().min(SLACK_NS_MAX) };
        self.poll_timeout(now_ns).saturating_add(slack_ns)
    }

    /// Whether there is more to do now than packets that are due: a datagram may have brought news.
    pub(crate) fn has_news(&self) -> bool {
        let has_read = || !self.ready.is_empty() || self.reading.as_ref().is_some_and(JoinHandle::is_finished);
        self.course.ending.is_some() || self.sender.has_event() || (self.sender.wants_block() && has_read())
    }

    /// Whether somebody waits for a step although nothing else calls for one: it has been cancelled, or its progress is to be told.
    pub(crate) fn is_looked_for(&self, now_ns: u64) -> bool {
        self.cancel.load(Relaxed) || now_ns >= self.course.next_progress_ns
    }

    /// Does all that is to be done now. Packets are queued; the caller flushes the link.
    ///
    /// # Errors
    /// When the link is broken.
    pub(crate) fn step(&mut self, now_ns: u64, link: &mut ServerLink, progress: &mut dyn FnMut(&Progress)) -> Result<Step, LinkError> {
        if self.course.ending.is_none() {
            self.go_on(now_ns);
        }
        let sender = &mut self.sender;
        let full = link.queue(sender.datagram_bytes_max(), |out| sender.poll_transmit(now_ns, out))?;
        if let Some(ending) = self.course.ending.take_if(|ending| self.sender.is_closed() || now_ns >= ending.until_ns) {
            progress(&self.progress(ending.elapsed_ns));
            return Ok(Step::Over(Box::new(ending.result.map(|receipt| self.report(ending.elapsed_ns, receipt)))));
        }
        // The first block at the receiver is told at once.
        let is_first = !self.course.has_told && self.sender.statistics().bytes_received > 0;
        if self.course.ending.is_none() && (now_ns >= self.course.next_progress_ns || is_first) {
            self.course.has_told |= is_first;
            self.course.next_progress_ns = now_ns + PROGRESS_INTERVAL_NS;
            progress(&self.progress(self.course.elapsed_ns(now_ns)));
        }
        Ok(Step::Goes { full })
    }

    /// What has been heard, and blocks.
    fn go_on(&mut self, now_ns: u64) {
        while let Some(event) = self.sender.poll_event() {
            match event {
                SenderEvent::BlockReceived { image, .. } => drop(image),
                SenderEvent::Done { receipt } => return self.end(Ok(receipt), now_ns, LINGER_NS),
                // The receiver is gone, and nobody waits for anything.
                SenderEvent::Closed { code, text } => return self.end(Err(self.closed(code, text)), now_ns, 0),
            }
        }
        // After the events: a lane that has ended by itself is not cancelled any more, though the server may have said first that it is over.
        if self.cancel.load(Relaxed) {
            self.sender.close(close::CANCELLED, "cancelled by the sender");
            self.end(Err(UploadError::Cancelled), now_ns, LINGER_NS);
        } else if let Err(error) = self.open_blocks(now_ns) {
            self.sender.close(close::INTERNAL, "the sender failed");
            self.end(Err(error), now_ns, LINGER_NS);
        }
    }

    fn end(&mut self, result: Result<u64, UploadError>, now_ns: u64, linger_ns: u64) {
        self.course.ending = Some(Ending { result, elapsed_ns: self.course.elapsed_ns(now_ns), until_ns: now_ns + linger_ns });
    }

    fn closed(&self, code: u16, text: String) -> UploadError {
        let endpoint = self.endpoint;
        let heard = self.sender.statistics().feedback_received > 0;
        match code {
            close::TIMEOUT if !heard => UploadError::NoAnswer { endpoint, seconds: self.idle_timeout.as_secs() },
            close::TIMEOUT => UploadError::Lost { endpoint, text },
            close::PATH => UploadError::PathMtu { endpoint, packet_bytes: self.packet_bytes, text },
            _ => UploadError::Refused { code, text },
        }
    }

    /// Moves blocks from the reader to the sender while the sender has use for them.
    fn open_blocks(&mut self, now_ns: u64) -> Result<(), UploadError> {
        while self.sender.wants_block() {
            match self.ready.try_recv() {
                // An image that fits its slot always fits the lane, so nothing comes back.
                Ok(image) => drop(self.sender.open_block(now_ns, image)),
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

    fn report(&self, elapsed_ns: u64, receipt: u64) -> UploadReport {
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
            packets_ignored: self.course.ignored,
            statistics,
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // A reading thread that waits to hand a block over hears of the end by the channel.
        self.stop.store(true, Relaxed);
    }
}
