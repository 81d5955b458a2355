//! The sending end of a lane.
//!
//! The owner drives it: [`Sender::handle_datagram`] for what arrives, [`Sender::poll_transmit`] until it returns 0,
//! [`Sender::poll_event`] until `None`, and all of that again at [`Sender::poll_timeout`] at the latest. Blocks are handed
//! in with [`Sender::open_block`] while [`Sender::can_open_block`] says so.

mod blocks;
mod full_size;
mod orders;
mod records;
mod round_trip;
mod tail;
mod types;

use std::borrow::Cow;
use std::collections::VecDeque;

use tradewind_wire::control::CONTROL_BYTES_MAX;
use tradewind_wire::data::TRAIN_NONE;
use tradewind_wire::feedback::{FLAG_FIN_KNOWN, FLAG_STORAGE_LIMITED, Feedback, Summary};
use tradewind_wire::header::FLAG_LAST_CHUNK;
use tradewind_wire::limits::{CHUNK_BYTES_MAX, DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, FEEDBACK_TRAINS_MAX, HEADER_BYTES, TAG_BYTES};
use tradewind_wire::{BlockId, Control, DataHeader, Header, Kind, PacketNumber, control::close};

use crate::crypto::{Direction, OpenKeys, SealKeys};
use crate::rate::{RateController, TrainReport};
use crate::receiver::{Arrival, DropReason};
use crate::replay::Replay;
use crate::sequence::{close_text_max, micros, truncated};
use blocks::{Blocks, Pick};
use full_size::{Fate, FullSize};
use orders::Standing;
use records::{Entry, Records, Verdict};
use round_trip::RoundTrip;
use tail::Tail;
pub use types::{SenderConfig, SenderEvent, SenderStatistics};

const MS: u64 = 1_000_000;
/// Least wait before the sender probes on its own (transport study, section 2.4).
const PROBE_TIMEOUT_MIN_NS: u64 = 100 * MS;
/// Longest wait between two such probes.
const PROBE_TIMEOUT_MAX_NS: u64 = 2_000 * MS;
/// Feedback comes this often while data flows until the receiver says otherwise, and a longer interval than this is not believed.
const FEEDBACK_INTERVAL_NS: u64 = 20 * MS;
const FEEDBACK_INTERVAL_MAX_NS: u64 = 500 * MS;
/// When the rate control is asked again after it had a packet due but admitted none (a pulse that is over).
const ADMIT_AGAIN_NS: u64 = MS;
/// How long at least blocks take turns after the receiver had no buffer (see `Blocks::take_turns`).
const TURNS_MIN_NS: u64 = 1_000 * MS;
/// How often a sender that waits for DONE shows that it is alive.
const KEEP_ALIVE_NS: u64 = 1_000 * MS;
/// CLOSE packets sent at the end: lost ones are not noticed.
const CLOSE_COPIES: u8 = 3;
/// Largest payload of a packet from the receiver that is read: more than it may send.
const PLAIN_BYTES_MAX: usize = 2048;
/// Text of the CLOSE after an idle timeout.
const SILENCE: &str = "nothing was heard from the receiver";

/// Feedback that authenticated but makes no sense is counted and ignored; this many events may wait for their owner.
const EVENTS: usize = 1024;

/// The sending end of a lane. `B` is whatever holds a block's image; it comes back in [`SenderEvent::BlockReceived`].
pub struct Sender<B> {
    config: SenderConfig,
    seal: SealKeys,
    open: OpenKeys,
    records: Records,
    blocks: Blocks<B>,
    rate: RateController,
    round_trip: RoundTrip,
    tail: Tail,
    events: VecDeque<SenderEvent<B>>,
    statistics: SenderStatistics,
    blocks_allowed: u32,
    storage_limited: bool,
    finished: bool,
    fin_known: bool,
    done: bool,
    /// The owner has been told of the end.
    ended: bool,
    closing: Option<(u16, Cow<'static, str>, u8)>,
    closed: bool,
    admission: (u32, u8),
    admit_again_ns: u64,
    turns_until_ns: u64,
    probes_due: u8,
    probe_backoff: u32,
    progress_ns: u64,
    heard_ns: u64,
    fin_at_ns: u64,
    state_at_ns: u64,
    replay: Replay,
    newest_feedback: Option<PacketNumber>,
    feedback_interval_ns: u64,
    largest_echoed: u64,
    full_size: FullSize,
    standing: Standing,
}

impl<B: AsRef<[u8]>> Sender<B> {
    /// A sender that has sent nothing yet.
    #[must_use]
    pub fn new(config: SenderConfig, now_ns: u64) -> Self {
        let keys = (&config.secret, config.lane, config.suite, config.provider);
        Self {
            seal: SealKeys::new(keys.0, keys.1, Direction::Forward, keys.2, keys.3),
            open: OpenKeys::new(keys.0, keys.1, Direction::Reverse, keys.2, keys.3),
            records: Records::new(),
            blocks: Blocks::new(usize::from(config.chunk_bytes)),
            rate: RateController::new(config.rate, now_ns),
            round_trip: RoundTrip::new(config.rate.initial_rtt_ns),
            tail: Tail::default(),
            events: VecDeque::with_capacity(EVENTS),
            statistics: SenderStatistics::default(),
            blocks_allowed: config.blocks_allowed,
            storage_limited: false,
            finished: false,
            fin_known: false,
            done: false,
            ended: false,
            closing: None,
            closed: false,
            admission: (0, TRAIN_NONE),
            admit_again_ns: 0,
            turns_until_ns: 0,
            probes_due: 0,
            probe_backoff: 0,
            progress_ns: now_ns,
            heard_ns: now_ns,
            fin_at_ns: 0,
            state_at_ns: now_ns,
            replay: Replay::default(),
            newest_feedback: None,
            feedback_interval_ns: FEEDBACK_INTERVAL_NS,
            largest_echoed: 0,
            full_size: FullSize::default(),
            standing: Standing::new(now_ns),
            config,
        }
    }

    /// Bytes of the largest datagram that this lane sends.
    #[must_use]
    pub fn datagram_bytes_max(&self) -> usize {
        usize::from(self.config.chunk_bytes) + DATA_OVERHEAD_BYTES
    }

    /// Whether the receiver has room for another block.
    #[must_use]
    pub fn can_open_block(&self) -> bool {
        !self.finished && !self.is_closed() && self.blocks.opened() < self.blocks_allowed
    }

    /// Whether a block would be sent soon: there is room, and fewer than two blocks wait to be sent for the first time.
    #[must_use]
    pub fn wants_block(&self) -> bool {
        self.can_open_block() && self.blocks.fresh_blocks() < 2
    }

    /// Takes a block's image. Call [`Sender::poll_transmit`] afterwards.
    ///
    /// # Errors
    /// Gives the image back when the receiver has no room, the lane ended, or the image is empty or too large.
    pub fn open_block(&mut self, now_ns: u64, image: B) -> Result<BlockId, B> {
        if !self.can_open_block() {
            return Err(image);
        }
        if self.records.unresolved() == 0 {
            self.progress_ns = now_ns;
        }
        self.blocks.push(image)
    }

    /// There will be no more blocks.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Ends the lane: a few CLOSE packets go out with the next polls, then it is silent.
    pub fn close(&mut self, code: u16, text: &str) {
        if self.closing.is_none() && !self.closed {
            self.closing = Some((code, truncated(text, self.close_text_max()).to_owned().into(), CLOSE_COPIES));
        }
    }

    /// Longest CLOSE text that a datagram of this lane's size carries.
    fn close_text_max(&self) -> usize {
        close_text_max(self.config.chunk_bytes)
    }

    /// Whether the lane has ended and nothing is left to be sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes a datagram of this lane. Call [`Sender::poll_transmit`] and [`Sender::poll_event`] afterwards.
    ///
    /// # Errors
    /// [`DropReason`] says why it was ignored; count it, nothing else.
    pub fn handle_datagram(&mut self, now_ns: u64, datagram: &[u8]) -> Result<Arrival, DropReason> {
        let header = Header::parse(datagram)?;
        if header.lane != self.config.lane {
            return Err(DropReason::UnknownLane);
        }
        if !self.replay.is_new(header.packet_number) {
            return Err(DropReason::Replayed);
        }
        let (aad, sealed) = datagram.split_at(HEADER_BYTES);
        let mut plain = [0; PLAIN_BYTES_MAX];
        let plain = self.open.open_into(header.packet_number, aad, sealed, &mut plain)?;
        let arrival = Arrival { newest: self.replay.is_newest(header.packet_number) };
        self.replay.mark(header.packet_number);
        self.heard_ns = now_ns;
        match header.kind {
            Kind::Feedback => {
                let feedback = Feedback::parse(plain)?;
                self.on_feedback(now_ns, header.packet_number, &feedback);
                Ok(arrival)
            }
            Kind::Control => {
                match Control::parse(plain)? {
                    Control::Done { receipt } => self.on_done(receipt),
                    Control::Close { code, text } => self.on_close(code, text),
                    Control::Orders(orders) => self.on_orders(now_ns, &orders),
                    Control::Group(group) => self.on_group(now_ns, &group),
                    Control::Fin { .. } | Control::State(_) => return Err(DropReason::Malformed),
                }
                Ok(arrival)
            }
            Kind::Data | Kind::Probe => Err(DropReason::Malformed),
        }
    }

    fn on_done(&mut self, receipt: u64) {
        if !self.done {
            if self.closed || self.ended {
                // This end has given up and said so: too late.
                return;
            }
            self.done = true;
            self.ended = true;
            self.events.push_back(SenderEvent::Done { receipt });
        }
        // Each DONE is answered: it means that the last CLOSE was lost.
        self.closed = false;
        self.closing = Some((close::NORMAL, Cow::Borrowed(""), CLOSE_COPIES));
    }

    fn on_close(&mut self, code: u16, text: &[u8]) {
        if !self.closed {
            self.closed = true;
            self.closing = None;
            if !self.ended {
                self.ended = true;
                let text = String::from_utf8_lossy(text).into_owned();
                self.events.push_back(SenderEvent::Closed { code, text });
            }
        }
    }

    fn on_feedback(&mut self, now_ns: u64, number: PacketNumber, feedback: &Feedback<'_>) {
        self.statistics.feedback_received += 1;
        let newest = self.newest_feedback.is_none_or(|newest| number > newest);
        if newest {
            self.newest_feedback = Some(number);
            self.on_summary(now_ns, &feedback.summary);
        }
        let (mut delivered, mut lost) = (0u32, 0u32);
        let (mut full, mut any, mut small_delivered) = (Fate::default(), Fate::default(), false);
        let Self { records, blocks, events, statistics, .. } = self;
        for segment in feedback.segments() {
            records.apply(&segment, |verdict, entry| {
                match verdict {
                    Verdict::Received => delivered += 1,
                    Verdict::Lost => lost += 1,
                    Verdict::Late => statistics.spurious_losses += 1,
                }
                let Entry::Chunk { block, chunk } = entry else {
                    small_delivered |= verdict == Verdict::Received;
                    return;
                };
                any.count(verdict == Verdict::Lost);
                if blocks.is_full_size(block, chunk) {
                    full.count(verdict == Verdict::Lost);
                }
                if verdict == Verdict::Lost {
                    blocks.on_lost(block, chunk);
                } else if let Some((block, image)) = blocks.on_received(block, chunk) {
                    statistics.blocks_received += 1;
                    statistics.bytes_received += image.as_ref().len() as u64;
                    events.push_back(SenderEvent::BlockReceived { block, image });
                }
            });
        }
        self.full_size.on_feedback(now_ns, full, any, small_delivered);
        self.statistics.packets_lost += u64::from(lost);
        if delivered + lost > 0 {
            self.progress_ns = now_ns;
            self.probe_backoff = 0;
            self.probes_due = 0;
        }
        if newest {
            let mut reports = [TrainReport::default(); FEEDBACK_TRAINS_MAX];
            let mut count = 0;
            for (report, train) in reports.iter_mut().zip(feedback.trains()) {
                *report = TrainReport {
                    train: train.train,
                    received: train.received,
                    first_packet: u64::from(train.first_packet),
                    last_packet: u64::from(train.last_packet),
                    first_sent_us: train.first_sent_us,
                    last_sent_us: train.last_sent_us,
                    first_arrival_us: train.first_arrival_us,
                    last_arrival_us: train.last_arrival_us,
                    least_one_way_us: train.least_one_way_us,
                };
                count += 1;
            }
            let received = feedback.summary.received;
            self.rate.on_feedback(now_ns, self.round_trip.latest_ns(), &reports[..count], received, lost, delivered);
        }
    }

    fn on_summary(&mut self, now_ns: u64, summary: &Summary) {
        if summary.largest > self.largest_echoed {
            self.largest_echoed = summary.largest;
            let round_trip_us = micros(now_ns).wrapping_sub(summary.echo_us).wrapping_sub(summary.hold_us);
            if round_trip_us < u32::MAX / 2 {
                self.round_trip.sample(u64::from(round_trip_us) * 1000);
                if self.round_trip.is_newly_short() {
                    // The receiver tells of pauses at once when it knows.
                    self.state_at_ns = now_ns;
                }
            }
        }
        self.blocks_allowed = self.blocks_allowed.max(summary.blocks_allowed);
        self.feedback_interval_ns = (u64::from(summary.interval_us) * 1000).clamp(FEEDBACK_INTERVAL_NS, FEEDBACK_INTERVAL_MAX_NS);
        self.storage_limited = summary.flags & FLAG_STORAGE_LIMITED != 0;
        self.fin_known |= self.finished && summary.flags & FLAG_FIN_KNOWN != 0;
        self.statistics.blocks_durable = self.statistics.blocks_durable.max(summary.blocks_durable);
        self.statistics.storage_bytes_per_s = u64::from(summary.storage_kbps) * 125;
        if summary.dropped_locally != self.statistics.dropped_by_receiver {
            self.statistics.dropped_by_receiver = summary.dropped_locally;
            self.full_size.on_dropped_by_receiver();
            self.turns_until_ns = now_ns + (4 * self.round_trip.smoothed_ns()).max(TURNS_MIN_NS);
        }
    }

    /// Writes the next datagram into `out` (at least [`Sender::datagram_bytes_max`] bytes) and returns its length; 0 when
    /// there is nothing to send now. Call again until it returns 0, then at [`Sender::poll_timeout`].
    pub fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        if self.closed || out.len() < self.datagram_bytes_max() {
            return 0;
        }
        self.check_timers(now_ns);
        if let Some(bytes) = self.poll_control(now_ns, out) {
            return bytes;
        }
        if self.done || self.closing.is_some() {
            return 0;
        }
        if self.probes_due > 0 {
            return self.poll_probe(now_ns, out);
        }
        self.poll_data(now_ns, out)
    }

    fn check_timers(&mut self, now_ns: u64) {
        let silent = now_ns >= self.heard_ns.saturating_add(self.config.idle_timeout_ns);
        if silent && self.closing.is_none() {
            // It may be deaf on one ear only, so it is told.
            self.closing = Some((close::TIMEOUT, Cow::Borrowed(SILENCE), CLOSE_COPIES));
            self.ended = true;
            let text = format!("{SILENCE} for {} s", self.config.idle_timeout_ns / 1_000_000_000);
            self.events.push_back(SenderEvent::Closed { code: close::TIMEOUT, text });
        }
        if let Some(lost) = self.full_size.black_hole().filter(|_| self.closing.is_none()) {
            self.closing = Some((close::PATH, Cow::Borrowed("no large packet gets through"), CLOSE_COPIES));
            self.ended = true;
            let bytes = self.config.rate.packet_bytes;
            let text = format!("small packets pass, but the last {lost} large ones (up to {bytes} bytes with their IP header) did not");
            self.events.push_back(SenderEvent::Closed { code: close::PATH, text });
        }
        if now_ns >= self.probe_at_ns() {
            self.probes_due = 2;
            self.probe_backoff = (self.probe_backoff + 1).min(8);
            self.progress_ns = now_ns;
            self.statistics.probe_timeouts += 1;
            self.rate.on_probe_timeout(now_ns);
        }
    }

    /// When the sender probes on its own; never while nothing is in flight.
    fn probe_at_ns(&self) -> u64 {
        if self.records.unresolved() == 0 || self.done {
            return u64::MAX;
        }
        let base = self.round_trip.smoothed_ns() * 3 / 2 + 2 * self.round_trip.variation_ns() + 3 * self.feedback_interval_ns;
        let wait = (base.max(PROBE_TIMEOUT_MIN_NS) << self.probe_backoff.min(8)).min(PROBE_TIMEOUT_MAX_NS.max(base));
        self.progress_ns.saturating_add(wait)
    }

    fn poll_control(&mut self, now_ns: u64, out: &mut [u8]) -> Option<usize> {
        if let Some((code, text, copies)) = self.closing.take() {
            let bytes = self.write_control(now_ns, &Control::Close { code, text: text.as_bytes() }, out);
            self.closing = (copies > 1).then_some((code, text, copies - 1));
            self.closed = self.closing.is_none();
            return bytes;
        }
        if self.done {
            return None;
        }
        if self.finished && !self.fin_known && !self.blocks.has_fresh() && now_ns >= self.fin_at_ns {
            self.fin_at_ns = now_ns + (self.round_trip.smoothed_ns() / 2).max(20 * MS);
            return self.write_control(now_ns, &Control::Fin { blocks: self.blocks.opened() }, out);
        }
        if now_ns >= self.state_at_ns {
            self.state_at_ns = self.next_state_ns(now_ns);
            let state = self.state(now_ns);
            return self.write_control(now_ns, &Control::State(state), out);
        }
        None
    }

    fn write_control(&mut self, now_ns: u64, control: &Control<'_>, out: &mut [u8]) -> Option<usize> {
        let mut plain = [0; CONTROL_BYTES_MAX];
        let bytes = control.write(&mut plain)?;
        self.write_short(now_ns, Kind::Control, &plain[..bytes], out)
    }

    fn write_short(&mut self, now_ns: u64, kind: Kind, plain: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.records.unresolved() == 0 {
            self.progress_ns = now_ns;
        }
        let packet_number = self.records.push(Entry::Other)?;
        let header = Header { kind, flags: 0, packet_number, lane: self.config.lane }.to_bytes();
        let bytes = HEADER_BYTES + plain.len() + TAG_BYTES;
        out[..HEADER_BYTES].copy_from_slice(&header);
        self.seal.seal(packet_number, &header, plain, &mut out[HEADER_BYTES..bytes]).ok()?;
        self.statistics.packets_sent += 1;
        self.statistics.bytes_sent += bytes as u64;
        self.rate.on_control_sent(now_ns, bytes as u32 + self.ip_bytes());
        Some(bytes)
    }

    /// After a silence: repeats the newest unreceived chunk, or sends a bare PROBE when there is none or no data may be sent.
    fn poll_probe(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        if self.probes_due == 2 {
            self.blocks.rewind_tail();
        }
        self.probes_due -= 1;
        let still = self.rate.next_send_ns() == u64::MAX;
        match if still { None } else { self.blocks.next_tail(u8::MAX) } {
            Some(pick) => self.write_chunk(now_ns, pick, TRAIN_NONE, out),
            None => self.write_short(now_ns, Kind::Probe, &[0; 32], out).unwrap_or(0),
        }
    }

    fn poll_data(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        if self.records.is_full() {
            return 0;
        }
        let ready = self.blocks.has_lost() || self.blocks.has_fresh();
        if !ready && !self.tail_due(now_ns) {
            if self.admission.0 > 0 || now_ns >= self.rate.next_send_ns() {
                self.admission.0 = 0;
                self.rate.on_app_limited(now_ns);
                self.note_starved(now_ns);
            }
            return 0;
        }
        if self.admission.0 == 0 {
            let admission = self.rate.admit(now_ns);
            self.admission = (admission.packets, admission.train);
            if self.admission.0 == 0 {
                if self.rate.next_send_ns() <= now_ns {
                    self.admit_again_ns = now_ns + ADMIT_AGAIN_NS;
                }
                return 0;
            }
        }
        let train = self.admission.1;
        let copies = self.tail.copies();
        self.blocks.take_turns(now_ns < self.turns_until_ns);
        let (pick, train) = if let Some(pick) = self.blocks.next_ready() {
            (pick, train)
        } else if let Some(pick) = self.blocks.next_tail(copies) {
            self.statistics.tail_copies += 1;
            (pick, TRAIN_NONE)
        } else {
            self.tail.end_pass();
            return 0;
        };
        self.admission.0 -= 1;
        self.write_chunk(now_ns, pick, train, out)
    }

    /// Whether a pass of tail copies is under way or starts now.
    fn tail_due(&mut self, now_ns: u64) -> bool {
        let blocked = self.finished || self.blocks.opened() >= self.blocks_allowed;
        if !blocked || self.blocks.unreceived() == 0 || !self.config.tail_copies {
            return false;
        }
        let started = self.tail.start_pass(now_ns, self.rate.random_loss(), self.blocks.unreceived(), self.round_trip.smoothed_ns());
        if started {
            self.blocks.rewind_tail();
        }
        self.tail.in_pass()
    }

    fn write_chunk(&mut self, now_ns: u64, pick: Pick, train: u8, out: &mut [u8]) -> usize {
        let was_idle = self.records.unresolved() == 0;
        let Some(packet_number) = self.records.push(Entry::Chunk { block: pick.block, chunk: pick.chunk }) else { return 0 };
        let flags = if pick.last { FLAG_LAST_CHUNK } else { 0 };
        let header = Header { kind: Kind::Data, flags, packet_number, lane: self.config.lane };
        let data = DataHeader {
            sent_us: micros(now_ns),
            train,
            floor_segment: self.records.floor_segment() as u16,
            block: pick.block,
            chunk: pick.chunk,
        };
        let clear = HEADER_BYTES + DATA_HEADER_BYTES;
        let mut aad = [0; HEADER_BYTES + DATA_HEADER_BYTES];
        aad[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        aad[HEADER_BYTES..].copy_from_slice(&data.to_bytes());
        out[..clear].copy_from_slice(&aad);
        let payload = self.blocks.bytes(pick);
        let bytes = clear + payload.len() + TAG_BYTES;
        if self.seal.seal(packet_number, &aad, payload, &mut out[clear..bytes]).is_err() {
            return 0;
        }
        if was_idle {
            self.progress_ns = now_ns;
        }
        self.statistics.packets_sent += 1;
        self.statistics.data_packets_sent += 1;
        self.statistics.data_packets_again += u64::from(pick.again);
        self.statistics.bytes_sent += bytes as u64;
        self.rate.on_sent(now_ns, packet_number.get(), bytes as u32 + self.ip_bytes(), train);
        bytes
    }

    fn send_at_ns(&self) -> u64 {
        self.rate.next_send_ns().max(self.admit_again_ns)
    }

    /// When to poll again at the latest, nanoseconds; `u64::MAX` when only a datagram can change anything.
    #[must_use]
    pub fn poll_timeout(&self, now_ns: u64) -> u64 {
        if self.closed {
            return u64::MAX;
        }
        if self.closing.is_some() || self.probes_due > 0 {
            return now_ns;
        }
        let mut at = self.probe_at_ns().min(self.heard_ns.saturating_add(self.config.idle_timeout_ns)).min(self.state_at_ns);
        if self.done {
            return at;
        }
        let flowing = !self.records.is_full() && (self.blocks.has_lost() || self.blocks.has_fresh());
        if flowing {
            at = at.min(if self.admission.0 > 0 { now_ns } else { self.send_at_ns() });
        } else if self.config.tail_copies && self.blocks.unreceived() > 0 && (self.finished || self.blocks.opened() >= self.blocks_allowed)
        {
            let pass = if self.tail.in_pass() { now_ns } else { self.tail.next_pass_ns() };
            at = at.min(pass.max(self.send_at_ns()));
        }
        if self.finished && !self.fin_known && !self.blocks.has_fresh() {
            at = at.min(self.fin_at_ns);
        }
        at
    }

    /// The next thing that the owner should know, oldest first.
    pub fn poll_event(&mut self) -> Option<SenderEvent<B>> {
        self.events.pop_front()
    }

    /// Counters and estimates of this moment.
    #[must_use]
    pub fn statistics(&self) -> SenderStatistics {
        let mut statistics = self.statistics.clone();
        statistics.round_trip_ns = self.round_trip.smoothed_ns();
        statistics.round_trip_least_ns = self.round_trip.least_ns();
        statistics.rate_bytes_per_s = self.rate.rate_bytes_per_s();
        statistics.random_loss = self.rate.random_loss();
        statistics.blocks_opened = self.blocks.opened();
        statistics.limiter = self.limiter();
        statistics
    }
}

const _: () = assert!(CHUNK_BYTES_MAX <= u16::MAX as usize);
