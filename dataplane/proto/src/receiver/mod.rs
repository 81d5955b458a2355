//! The receiving end of a lane.
//!
//! The owner drives it: [`Receiver::handle_datagram`] for what arrives, [`Receiver::poll_transmit`] until it returns 0,
//! [`Receiver::poll_event`] until `None`, and all of that again at [`Receiver::poll_timeout`] at the latest. It tells the
//! receiver how many blocks the sender may open ([`Receiver::set_blocks_allowed`]), how many are durable, and when
//! everything is ([`Receiver::finish`]).

mod assembly;
mod interval;
mod orders;
mod reorder;
mod trains;
mod types;
mod window;

use std::collections::VecDeque;

use tradewind_wire::control::{CONTROL_BYTES_MAX, close};
use tradewind_wire::feedback::{FLAG_FIN_KNOWN, FLAG_STORAGE_LIMITED, FeedbackWriter, Summary};
use tradewind_wire::header::FLAG_LAST_CHUNK;
use tradewind_wire::limits::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, FEEDBACK_TRAINS_MAX, HEADER_BYTES, IPV4_UDP_BYTES, TAG_BYTES};
use tradewind_wire::{BlockId, Control, DataHeader, Header, Kind, PacketNumber};

use crate::crypto::{Direction, OpenKeys, SealKeys};
use crate::sequence::{close_text_max, micros, short_bytes_max, truncated};
use assembly::{Assembly, Place};
use interval::Interval;
pub(crate) use interval::SHORT_ROUND_TRIP_NS;
use orders::Standing;
use reorder::Reorder;
use trains::Trains;
pub use types::{Arrival, BufferSource, DropReason, ReceiverConfig, ReceiverEvent, ReceiverStatistics};
use window::Window;

const MS: u64 = 1_000_000;
/// How soon the arrival of FIN is told.
const FIN_ANSWER_NS: u64 = 10 * MS;
/// Feedback while nothing arrives, so that the sender knows that we live.
const QUIET_INTERVAL_NS: u64 = 500 * MS;
/// The time between two repetitions is doubled so often at most: enough to reach the quiet interval from any round trip.
const QUIET_DOUBLINGS_MAX: u32 = 10;
/// Feedback until the sender is heard for the first time, where this end speaks first.
const CALL_INTERVAL_NS: u64 = 100 * MS;
/// DONE is repeated until the sender closes, ever more slowly and at most this often.
const DONE_COPIES: u8 = 250;
const DONE_INTERVAL_MIN_NS: u64 = 50 * MS;
const DONE_INTERVAL_MAX_NS: u64 = 250 * MS;
const DONE_QUICK_COPIES: u8 = 2;
const DONE_QUICK_NS: u64 = 5 * MS;
/// CLOSE packets sent at the end.
const CLOSE_COPIES: u8 = 3;
/// Feedback packets written back to back in one interval.
const FEEDBACK_BURST_MAX: u8 = 16;
/// Largest feedback payload, also where DATA packets could be larger: 1,184-byte datagrams pass every IPv6 path.
const FEEDBACK_BYTES_MAX: usize = 1152;

/// The receiving end of a lane; `B` is the buffer of a block.
pub struct Receiver<B> {
    config: ReceiverConfig,
    seal: SealKeys,
    open: OpenKeys,
    window: Window,
    assembly: Assembly<B>,
    trains: Trains,
    reorder: Reorder,
    scratch: Vec<u8>,
    events: VecDeque<ReceiverEvent<B>>,
    statistics: ReceiverStatistics,
    next_number: u64,
    blocks_allowed: u32,
    blocks_durable: u32,
    storage_kbps: u32,
    storage_limited: bool,
    fin_blocks: Option<u32>,
    heard_ns: Option<u64>,
    echo: (u64, u32),
    interval: Interval,
    feedback_at_ns: u64,
    /// Rounds of feedback since there was news.
    quiet_rounds: u32,
    feedback_sent_ns: u64,
    round_packets: u8,
    round_bytes: u64,
    news: bool,
    /// Whether there is more of it than what the sender says of itself.
    data_news: bool,
    done: Option<(u64, u8)>,
    done_at_ns: u64,
    closing: Option<(u16, String, u8)>,
    closed: bool,
    /// The owner has been told of the end.
    ended: bool,
    standing: Standing,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Receiver<B> {
    /// A receiver that has heard nothing; it sends nothing until it has, or [`Receiver::call`] is called.
    #[must_use]
    pub fn new(config: ReceiverConfig) -> Self {
        let keys = (&config.secret, config.lane, config.suite, config.provider);
        Self {
            seal: SealKeys::new(keys.0, keys.1, Direction::Reverse, keys.2, keys.3),
            open: OpenKeys::new(keys.0, keys.1, Direction::Forward, keys.2, keys.3),
            window: Window::new(),
            assembly: Assembly::new(usize::from(config.chunk_bytes), config.image_bytes_max),
            trains: Trains::new(),
            reorder: Reorder::new(),
            scratch: vec![0; usize::from(config.chunk_bytes).max(2048)],
            events: VecDeque::with_capacity(64),
            statistics: ReceiverStatistics::default(),
            next_number: 0,
            blocks_allowed: config.blocks_allowed,
            blocks_durable: 0,
            storage_kbps: 0,
            storage_limited: false,
            fin_blocks: None,
            heard_ns: None,
            echo: (0, 0),
            interval: Interval::new(),
            feedback_at_ns: u64::MAX,
            quiet_rounds: 0,
            feedback_sent_ns: 0,
            round_packets: 0,
            round_bytes: 0,
            news: false,
            data_news: false,
            done: None,
            done_at_ns: 0,
            closing: None,
            closed: false,
            ended: false,
            standing: Standing::default(),
            config,
        }
    }

    /// Speaks first: feedback goes out from now on, so that a sender that does not know this end's address hears of it.
    pub fn call(&mut self, now_ns: u64) {
        if self.heard_ns.is_none() {
            self.heard_ns = Some(now_ns);
            self.feedback_at_ns = now_ns;
        }
    }

    /// Takes a datagram of this lane; buffers for new blocks come from `buffers`. Call [`Receiver::poll_event`] and
    /// [`Receiver::poll_transmit`] afterwards.
    ///
    /// # Errors
    /// [`DropReason`] says why it was ignored; count it, nothing else. Its source address must not be trusted then.
    pub fn handle_datagram(
        &mut self,
        now_ns: u64,
        datagram: &[u8],
        congestion_experienced: bool,
        buffers: &mut impl BufferSource<B>,
    ) -> Result<Arrival, DropReason> {
        let header = Header::parse(datagram)?;
        if header.lane != self.config.lane {
            return Err(DropReason::UnknownLane);
        }
        if self.closed {
            return Err(DropReason::Closed);
        }
        let number = header.packet_number.get();
        if !self.window.is_new(number) {
            self.statistics.replayed += 1;
            return Err(DropReason::Replayed);
        }
        match header.kind {
            Kind::Data => self.on_data(now_ns, &header, datagram, buffers)?,
            Kind::Control => self.on_control(now_ns, &header, datagram)?,
            Kind::Probe => {
                let (aad, sealed) = datagram.split_at(HEADER_BYTES);
                self.open.open_into(header.packet_number, aad, sealed, &mut self.scratch)?;
                // It asks for an answer.
                self.data_news = true;
            }
            Kind::Feedback => return Err(DropReason::Malformed),
        }
        self.statistics.packets_received += 1;
        self.statistics.congestion_experienced += u64::from(congestion_experienced);
        let newest = number >= self.window.largest();
        if self.window.mark(number) {
            self.reorder.on_late();
            self.statistics.late += 1;
        }
        self.reorder.on_arrival(now_ns, self.window.largest());
        self.on_authenticated(now_ns);
        Ok(Arrival { newest })
    }

    fn on_authenticated(&mut self, now_ns: u64) {
        if self.heard_ns.is_none() {
            self.feedback_at_ns = now_ns;
        } else if !self.news {
            // After a quiet time the next feedback need not wait for the quiet interval.
            self.feedback_at_ns = self.feedback_at_ns.min(self.feedback_sent_ns + self.interval.ns()).max(now_ns);
        }
        if self.round_packets == 0
            && let Some(pause_ns) = self.interval.pause_ns(self.statistics.packets_received)
        {
            let regular_ns = self.feedback_sent_ns + self.interval.ns();
            self.feedback_at_ns = regular_ns.min(now_ns + pause_ns).max(now_ns);
        }
        self.news = true;
        self.heard_ns = Some(now_ns);
    }

    fn on_data(&mut self, now_ns: u64, header: &Header, datagram: &[u8], buffers: &mut impl BufferSource<B>) -> Result<(), DropReason> {
        let data = DataHeader::parse(datagram)?;
        let bytes = DataHeader::payload_bytes(datagram.len());
        let last = header.flags & FLAG_LAST_CHUNK != 0;
        let block = data.block.0;
        let mut place = self.assembly.place(block, data.chunk, bytes, last, self.blocks_allowed);
        let (aad, sealed) = datagram.split_at(HEADER_BYTES + DATA_HEADER_BYTES);
        if place == Place::NoBuffer {
            // Only an authentic packet may claim a buffer, so the first of each block is checked in scratch first.
            let scratch = self.scratch.get_mut(..bytes).ok_or(DropReason::Malformed)?;
            self.open.open(header.packet_number, aad, sealed, scratch)?;
            let Some(buffer) = buffers.take() else {
                // The network has delivered it: the trains and the round trip count it, only its verdict stays "lost".
                self.on_data_header(now_ns, header.packet_number, &data);
                self.on_authenticated(now_ns);
                self.statistics.dropped_without_buffer += 1;
                return Err(DropReason::NoBuffer);
            };
            if self.assembly.begin(block, buffer).is_err() {
                return Err(DropReason::NoBuffer);
            }
            place = self.assembly.place(block, data.chunk, bytes, last, self.blocks_allowed);
        }
        match place {
            Place::New => {
                let out = self.assembly.destination(block, data.chunk, bytes).ok_or(DropReason::Malformed)?;
                self.open.open(header.packet_number, aad, sealed, out)?;
                self.on_data_header(now_ns, header.packet_number, &data);
                self.statistics.data_bytes += bytes as u64;
                if let Some((buffer, image_bytes)) = self.assembly.mark(block, data.chunk, bytes, last) {
                    self.events.push_back(ReceiverEvent::Block { block: BlockId(block), buffer, image_bytes });
                }
                Ok(())
            }
            Place::Duplicate => {
                let scratch = self.scratch.get_mut(..bytes).ok_or(DropReason::Malformed)?;
                self.open.open(header.packet_number, aad, sealed, scratch)?;
                self.on_data_header(now_ns, header.packet_number, &data);
                self.statistics.duplicate_chunks += 1;
                Ok(())
            }
            Place::NoBuffer | Place::Invalid => Err(DropReason::Malformed),
        }
    }

    fn on_data_header(&mut self, now_ns: u64, number: PacketNumber, data: &DataHeader) {
        self.data_news = true;
        if number.get() + 1 > self.echo.0 {
            self.echo = (number.get() + 1, data.sent_us);
            self.statistics.last_data_ns = now_ns;
        }
        self.trains.on_packet(data.train, number.get(), data.sent_us, micros(now_ns));
        self.window.on_floor(data.floor_segment);
    }

    fn on_control(&mut self, now_ns: u64, header: &Header, datagram: &[u8]) -> Result<(), DropReason> {
        let (aad, sealed) = datagram.split_at(HEADER_BYTES);
        let mut plain = [0; CONTROL_BYTES_MAX];
        let plain = self.open.open_into(header.packet_number, aad, sealed, &mut plain)?;
        match Control::parse(plain)? {
            Control::Fin { blocks } => {
                if self.fin_blocks.is_none() {
                    self.fin_blocks = Some(blocks);
                    self.events.push_back(ReceiverEvent::Fin { blocks });
                }
                self.feedback_at_ns = self.feedback_at_ns.min(now_ns + FIN_ANSWER_NS);
            }
            Control::State(state) => {
                self.standing.on_state(header.packet_number.get(), state);
                self.interval.on_state(u64::from(state.round_trip_us) * 1000, f64::from(state.rate_kbps) * 125.0);
            }
            Control::Close { code, text } => {
                self.closed = true;
                self.end(code, String::from_utf8_lossy(text).into_owned());
            }
            Control::Done { .. } | Control::Orders(_) | Control::Group(_) => return Err(DropReason::Malformed),
        }
        Ok(())
    }

    /// Tells the owner of the end, once.
    fn end(&mut self, code: u16, text: String) {
        if !self.ended {
            self.ended = true;
            self.events.push_back(ReceiverEvent::Closed { code, text });
        }
    }

    /// Blocks that the sender may open in all; it only grows.
    pub fn set_blocks_allowed(&mut self, now_ns: u64, blocks: u32) {
        if blocks > self.blocks_allowed {
            self.blocks_allowed = blocks;
            self.hasten(now_ns);
        }
    }

    /// Blocks that are durable in all, and how fast the store takes data, kbit/s (0: unknown).
    pub fn set_storage(&mut self, now_ns: u64, blocks_durable: u32, storage_kbps: u32, limited: bool) {
        if blocks_durable > self.blocks_durable {
            self.blocks_durable = blocks_durable;
            self.hasten(now_ns);
        }
        self.storage_kbps = storage_kbps;
        self.storage_limited = limited;
    }

    /// Lets the next feedback go as soon as its interval allows.
    fn hasten(&mut self, now_ns: u64) {
        self.quiet_rounds = 0;
        if self.heard_ns.is_some() {
            self.feedback_at_ns = self.feedback_at_ns.min((self.feedback_sent_ns + self.interval.ns()).max(now_ns));
        }
    }

    /// Everything is durable: DONE goes out, again and again, until the sender closes.
    pub fn finish(&mut self, now_ns: u64, receipt: u64) {
        if self.done.is_none() {
            self.done = Some((receipt, DONE_COPIES));
            self.done_at_ns = now_ns;
        }
    }

    /// Ends the lane for a reason that the sender should be told: a few CLOSE packets go out, then it is silent.
    pub fn close(&mut self, code: u16, text: &str) {
        // Once everything is durable the sender must hear DONE, whatever this end wants.
        if self.closing.is_none() && !self.closed && self.done.is_none() {
            let text = truncated(text, close_text_max(self.config.chunk_bytes)).to_owned();
            self.closing = Some((code, text, CLOSE_COPIES));
        }
    }

    /// Whether the lane has ended and nothing is left to be sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Blocks of the lane, once the sender has said so.
    #[must_use]
    pub fn blocks_total(&self) -> Option<u32> {
        self.fin_blocks
    }

    /// Writes the next datagram into `out` (at least 1,200 bytes) and returns its length; 0 when there is nothing to send
    /// now. Call again until it returns 0, then at [`Receiver::poll_timeout`].
    pub fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        let Some(heard_ns) = self.heard_ns else { return 0 };
        if self.closed || out.len() < HEADER_BYTES + FEEDBACK_BYTES_MAX + TAG_BYTES {
            return 0;
        }
        if let Some((code, text, copies)) = self.closing.take() {
            let bytes = self.write_control(&Control::Close { code, text: text.as_bytes() }, out);
            self.closing = (copies > 1).then_some((code, text, copies - 1));
            self.closed = self.closing.is_none();
            return bytes;
        }
        let silent = now_ns >= heard_ns.saturating_add(self.config.idle_timeout_ns);
        if let Some((receipt, copies)) = self.done {
            if silent || copies == 0 {
                // The sender has heard DONE and is gone, or never will hear it: nothing is left to do either way.
                self.closed = true;
                self.end(close::NORMAL, String::new());
                return 0;
            }
            if now_ns < self.done_at_ns {
                return 0;
            }
            let sent = DONE_COPIES - copies;
            let wait = DONE_INTERVAL_MIN_NS * u64::from(1 + sent / 4);
            // The first copies follow quickly: a lost DONE would cost the sender a whole interval at the very end.
            let wait = if sent < DONE_QUICK_COPIES { DONE_QUICK_NS } else { wait.min(DONE_INTERVAL_MAX_NS) };
            self.done_at_ns = now_ns + wait;
            self.done = Some((receipt, copies - 1));
            return self.write_control(&Control::Done { receipt }, out);
        }
        if silent {
            let text = format!("nothing was heard from the sender for {} s", self.config.idle_timeout_ns / 1_000_000_000);
            self.close(close::TIMEOUT, &text);
            self.end(close::TIMEOUT, text);
            return self.poll_transmit(now_ns, out);
        }
        if let Some(orders) = self.standing.take_due(now_ns, self.interval.round_trip_ns()) {
            return self.write_control(&Control::Orders(orders), out);
        }
        if let Some(group) = self.standing.take_group(now_ns) {
            return self.write_control(&Control::Group(group), out);
        }
        if now_ns >= self.feedback_at_ns { self.write_feedback(now_ns, out) } else { 0 }
    }

    fn write_control(&mut self, control: &Control<'_>, out: &mut [u8]) -> usize {
        let mut plain = [0; CONTROL_BYTES_MAX];
        control.write(&mut plain).map_or(0, |bytes| self.write_packet(Kind::Control, &plain[..bytes], out))
    }

    fn write_packet(&mut self, kind: Kind, plain: &[u8], out: &mut [u8]) -> usize {
        let Some(packet_number) = PacketNumber::new(self.next_number) else { return 0 };
        self.next_number += 1;
        let header = Header { kind, flags: 0, packet_number, lane: self.config.lane }.to_bytes();
        let bytes = HEADER_BYTES + plain.len() + TAG_BYTES;
        out[..HEADER_BYTES].copy_from_slice(&header);
        if self.seal.seal(packet_number, &header, plain, &mut out[HEADER_BYTES..bytes]).is_err() {
            return 0;
        }
        self.statistics.feedback_sent += u64::from(kind == Kind::Feedback);
        self.statistics.bytes_sent += bytes as u64;
        bytes
    }

    fn summary(&self, now_ns: u64) -> Summary {
        let storage = if self.storage_limited { FLAG_STORAGE_LIMITED } else { 0 };
        let fin = if self.fin_blocks.is_some() { FLAG_FIN_KNOWN } else { 0 };
        Summary {
            flags: storage | fin,
            now_us: micros(now_ns),
            hold_us: u32::try_from(now_ns.saturating_sub(self.statistics.last_data_ns) / 1000).unwrap_or(u32::MAX),
            echo_us: self.echo.1,
            largest: self.echo.0,
            closed: self.window.closed(),
            blocks_allowed: self.blocks_allowed,
            blocks_completed: self.assembly.completed(),
            blocks_durable: self.blocks_durable,
            storage_kbps: self.storage_kbps,
            received: self.statistics.packets_received,
            congestion_experienced: self.statistics.congestion_experienced as u16,
            dropped_locally: self.statistics.dropped_without_buffer as u32,
            interval_us: (self.interval.ns() / 1000) as u32,
        }
    }

    /// One packet of a round of feedback; the round goes on with the next call while segments are left to report.
    fn write_feedback(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        if self.round_packets == 0 {
            self.window.close(self.reorder.horizon(now_ns, self.interval.round_trip_ns()));
            self.window.start_round();
        }
        let summary = self.summary(now_ns);
        let repeat_ns = self.interval.round_trip_ns() + 2 * self.interval.ns();
        let mut plain = [0; FEEDBACK_BYTES_MAX];
        let limit = short_bytes_max(self.config.chunk_bytes).min(FEEDBACK_BYTES_MAX);
        let Some(mut writer) = FeedbackWriter::new(&mut plain[..limit], &summary) else { return 0 };
        if self.round_packets == 0 {
            self.trains.report(FEEDBACK_TRAINS_MAX, self.interval.train_reports(), |train| writer.train(train));
        }
        let over = self.window.report(now_ns, repeat_ns, |index, verdicts, bits| writer.segment(index, verdicts, bits));
        let bytes = writer.finish();
        self.round_packets += 1;
        self.round_bytes += (IPV4_UDP_BYTES + HEADER_BYTES + bytes + TAG_BYTES) as u64;
        if over || self.round_packets >= FEEDBACK_BURST_MAX {
            let packet_bytes = usize::from(self.config.chunk_bytes) + DATA_OVERHEAD_BYTES + IPV4_UDP_BYTES;
            self.interval.on_round(now_ns, self.round_bytes, self.statistics.packets_received, packet_bytes as u64);
            self.round_packets = 0;
            self.round_bytes = 0;
            self.feedback_sent_ns = now_ns;
            let active = self.news || self.window.has_news() || self.window.closed() < self.window.largest();
            self.news = false;
            // An idle lane always has a segment that is not full and so not confirmed: a thousand of them would repeat theirs twenty times a second, and again
            // after each STATE.
            self.quiet_rounds = match (std::mem::take(&mut self.data_news), active) {
                (true, _) => 0,
                (false, true) => self.quiet_rounds,
                (false, false) => self.quiet_rounds.saturating_add(1),
            };
            let wait = match (active, self.window.has_unconfirmed()) {
                (true, _) => self.interval.ns(),
                (false, true) => (repeat_ns << self.quiet_rounds.saturating_sub(1).min(QUIET_DOUBLINGS_MAX))
                    .max(self.interval.ns())
                    .min(QUIET_INTERVAL_NS),
                // Nothing was ever heard: the call may be lost.
                (false, false) if self.statistics.packets_received == 0 => CALL_INTERVAL_NS,
                (false, false) => QUIET_INTERVAL_NS,
            };
            self.feedback_at_ns = now_ns + wait;
        }
        self.write_packet(Kind::Feedback, &plain[..bytes], out)
    }

    /// When to poll again at the latest, nanoseconds; `u64::MAX` when only a datagram can change anything.
    #[must_use]
    pub fn poll_timeout(&self) -> u64 {
        let Some(heard_ns) = self.heard_ns.filter(|_| !self.closed) else { return u64::MAX };
        if self.closing.is_some() {
            return 0;
        }
        let at = heard_ns.saturating_add(self.config.idle_timeout_ns);
        at.min(if self.done.is_some() { self.done_at_ns } else { self.feedback_at_ns.min(self.standing.due_ns()) })
    }

    /// The next thing that the owner should know, oldest first.
    pub fn poll_event(&mut self) -> Option<ReceiverEvent<B>> {
        self.events.pop_front()
    }

    /// Counters of this moment.
    #[must_use]
    pub fn statistics(&self) -> ReceiverStatistics {
        let mut statistics = self.statistics.clone();
        statistics.blocks_completed = self.assembly.completed();
        statistics.packets_missing = self.window.largest().saturating_sub(statistics.packets_received);
        statistics.round_trip_ns = self.interval.round_trip_ns();
        statistics
    }
}
