//! Feedback where much is in flight: 10 Gbit/s over a round trip of a second are 833,000 packets, of which 30 % are lost.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tradewind_proto::crypto::{CipherSuite, Direction, OpenKeys, Provider, SealKeys};
use tradewind_proto::receiver::Receiver;
use tradewind_proto::sender::Sender;
use tradewind_wire::data::TRAIN_NONE;
use tradewind_wire::feedback::{Feedback, FeedbackWriter, Summary};
use tradewind_wire::limits::{
    BLOCK_PAYLOAD_DEFAULT, DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, HEADER_BYTES, IPV4_UDP_BYTES, SEGMENT_PACKETS, SEGMENT_WORDS, TAG_BYTES,
};
use tradewind_wire::{BlockId, Control, DataHeader, Header, Kind, State};

use crate::Workload;
use crate::lane::{CHUNK, LANE, MS, PACKET_BYTES, RATE, receiver_config, seal_keys, secret, sender_config, write_packet};
use crate::random::Random;

const ROUND_TRIP_NS: u64 = 1_000 * MS;
/// Time between two rounds of feedback at such a round trip.
const INTERVAL_NS: u64 = 20 * MS;
const LOSS_PERCENT: u64 = 30;
const SEGMENT: u64 = SEGMENT_PACKETS as u64;
/// The largest feedback payload of a receiver.
const FEEDBACK_BYTES: usize = 1152;
/// Rounds in which a verdict is told.
const REPORTS: usize = 3;
const DATAGRAM_BYTES: usize = 2048;

/// Full packets in this time at 10 Gbit/s.
fn packets_in(ns: u64) -> u64 {
    (u128::from(ns) * u128::from(RATE) / u128::from(PACKET_BYTES) / 1_000_000_000) as u64
}

struct ReceiverRound {
    receiver: Receiver<Vec<u8>>,
    seal: SealKeys,
    open: OpenKeys,
    random: Random,
    next: u64,
    now_ns: u64,
    image: Vec<u8>,
    datagram: Vec<u8>,
    out: Vec<[u8; DATAGRAM_BYTES]>,
    lengths: Vec<usize>,
}

/// The receiver's floor lags by two round trips: with 30 % loss on the way back too, each second round tells some segment for the third time in vain.
const FLOOR_LAG_NS: u64 = 2 * ROUND_TRIP_NS;

pub(crate) fn receiver_round() -> Result<Box<dyn Workload>> {
    let image_bytes = BLOCK_PAYLOAD_DEFAULT;
    let mut round = ReceiverRound {
        receiver: Receiver::new(receiver_config(CHUNK, image_bytes)),
        seal: seal_keys(Direction::Forward),
        open: OpenKeys::new(&secret(), LANE, Direction::Reverse, CipherSuite::Aes128Gcm, Provider::AwsLc),
        random: Random(7),
        next: 0,
        now_ns: 0,
        image: vec![0; image_bytes],
        datagram: vec![0; DATAGRAM_BYTES],
        out: vec![[0; DATAGRAM_BYTES]; 32],
        lengths: Vec::with_capacity(32),
    };
    let state = Control::State(State { round_trip_us: (ROUND_TRIP_NS / 1000) as u32, rate_kbps: (RATE / 125) as u32, ..State::default() });
    let mut plain = [0; 64];
    let bytes = state.write(&mut plain).context("a STATE has no room")?;
    round.deliver(Kind::Control, 0, &[], &plain[..bytes])?;
    while round.now_ns < FLOOR_LAG_NS + ROUND_TRIP_NS / 2 {
        round.prepare()?;
        let packets = round.run();
        round.check(packets)?;
    }
    Ok(Box::new(round))
}

impl ReceiverRound {
    fn deliver(&mut self, kind: Kind, flags: u8, clear: &[u8], plain: &[u8]) -> Result<()> {
        let bytes = write_packet(&mut self.seal, kind, flags, self.next, clear, plain, &mut self.datagram)?;
        self.next += 1;
        let image = &mut self.image;
        let taken = self.receiver.handle_datagram(self.now_ns, &self.datagram[..bytes], false, &mut || Some(std::mem::take(image)));
        taken.map(drop).map_err(|reason| anyhow::anyhow!("a packet was dropped: {reason:?}"))
    }
}

impl Workload for ReceiverRound {
    fn operations(&self) -> u64 {
        1
    }

    /// What arrives between two rounds. PROBE stands for DATA: the window does not tell them apart, and nothing is to be copied into blocks here.
    fn prepare(&mut self) -> Result<()> {
        let (from_ns, until_ns) = (self.now_ns, self.receiver.poll_timeout().clamp(self.now_ns + MS, self.now_ns + 10 * INTERVAL_NS));
        let packets = packets_in(until_ns - from_ns);
        for packet in 0..packets {
            self.now_ns = from_ns + (until_ns - from_ns) * packet / packets;
            if self.random.percent(LOSS_PERCENT) {
                self.next += 1;
            } else {
                self.deliver(Kind::Probe, 0, &[], &[0; TINY as usize])?;
            }
        }
        // A copy of a chunk tells the floor.
        let floor = self.next.saturating_sub(packets_in(FLOOR_LAG_NS)) / SEGMENT;
        let sent_us = (self.now_ns / 1000) as u32;
        let data = DataHeader { sent_us, train: TRAIN_NONE, floor_segment: floor as u16, block: BlockId(0), chunk: 0 };
        self.deliver(Kind::Data, 0, &data.to_bytes(), &[0; CHUNK as usize])?;
        self.now_ns = until_ns;
        self.lengths.clear();
        Ok(())
    }

    fn run(&mut self) -> u64 {
        for out in &mut self.out {
            let bytes = self.receiver.poll_transmit(self.now_ns, out);
            if bytes == 0 {
                break;
            }
            self.lengths.push(bytes);
        }
        self.lengths.len() as u64
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result > 0 && result == self.lengths.len() as u64, "no feedback was written");
        let (mut segments, mut verdicts, mut received, mut closed) = (0u64, 0u64, 0u64, 0);
        for (out, bytes) in self.out.iter().zip(&self.lengths) {
            let header = Header::parse(out).map_err(|error| anyhow::anyhow!("not a packet: {error:?}"))?;
            let (aad, sealed) = out[..*bytes].split_at(HEADER_BYTES);
            let mut plain = [0; DATAGRAM_BYTES];
            let plain = self.open.open_into(header.packet_number, aad, sealed, &mut plain);
            let plain = plain.map_err(|error| anyhow::anyhow!("a feedback does not authenticate: {error:?}"))?;
            let feedback = Feedback::parse(plain).map_err(|error| anyhow::anyhow!("not a feedback: {error:?}"))?;
            closed = feedback.summary.closed;
            for segment in feedback.segments() {
                segments += 1;
                verdicts += u64::from(segment.verdicts);
                received += segment.bitmap.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            }
        }
        if self.now_ns < ROUND_TRIP_NS {
            return Ok(());
        }
        let interval = packets_in(INTERVAL_NS);
        ensure!(closed + 2 * interval > self.next, "verdicts end at {closed} of {} packets", self.next);
        ensure!(verdicts > 2 * interval, "{verdicts} verdicts in {segments} segments; {interval} packets are new");
        let share = received as f64 / verdicts as f64;
        ensure!((0.65..0.75).contains(&share), "{share} of the packets were received");
        Ok(())
    }
}

/// A sender with the other end and the path played by hand: every packet is lost or not by a throw of the dice, and every verdict told three times.
struct Path {
    sender: Sender<Arc<[u8]>>,
    seal: SealKeys,
    random: Random,
    image: Arc<[u8]>,
    loss_percent: u64,
    round_trip_ns: u64,
    now_ns: u64,
    feedback_number: u64,
    /// Packets sent by the end of each past interval, those of a round trip ago first.
    sent: VecDeque<(u64, u64)>,
    /// Packets with a verdict after each of the last rounds.
    closed: VecDeque<u64>,
    /// What arrived of the segments from `first` on.
    first: u64,
    arrived: VecDeque<[u64; SEGMENT_WORDS]>,
    datagram: Vec<u8>,
    datagrams: Vec<(usize, [u8; DATAGRAM_BYTES])>,
}

impl Path {
    fn new(chunk_bytes: u16, round_trip_ns: u64, loss_percent: u64) -> Self {
        let packet_bytes = usize::from(chunk_bytes) + DATA_OVERHEAD_BYTES + IPV4_UDP_BYTES;
        // As many packets a second as full ones at 10 Gbit/s.
        let rate = RATE * packet_bytes as u64 / u64::from(PACKET_BYTES);
        let mut random = Random(8);
        let chunks = BLOCK_PAYLOAD_DEFAULT.div_ceil(usize::from(CHUNK));
        let mut image = vec![0; chunks * usize::from(chunk_bytes)];
        random.fill(&mut image);
        Self {
            sender: Sender::new(sender_config(chunk_bytes, packet_bytes as u32, rate, round_trip_ns), 0),
            seal: seal_keys(Direction::Reverse),
            random,
            image: image.into(),
            loss_percent,
            round_trip_ns,
            now_ns: 0,
            feedback_number: 0,
            sent: VecDeque::new(),
            closed: VecDeque::from([0; REPORTS]),
            first: 0,
            arrived: VecDeque::new(),
            datagram: vec![0; DATAGRAM_BYTES],
            datagrams: Vec::new(),
        }
    }

    fn open_blocks(&mut self) -> Result<()> {
        while self.sender.wants_block() {
            ensure!(self.sender.open_block(self.now_ns, self.image.clone()).is_ok(), "a block was refused");
        }
        Ok(())
    }

    /// Sends for so long, looking at the clock every millisecond.
    fn send(&mut self, ns: u64) -> Result<()> {
        let until_ns = self.now_ns + ns;
        while self.now_ns < until_ns {
            self.now_ns = (self.now_ns + MS).min(until_ns);
            self.open_blocks()?;
            while self.sender.poll_transmit(self.now_ns, &mut self.datagram) > 0 {
                self.open_blocks()?;
            }
        }
        Ok(())
    }

    /// Writes the round of feedback that arrives now: verdicts on what was sent a round trip ago, and those of the two rounds before again.
    fn write_feedback(&mut self) -> Result<()> {
        self.sent.push_back((self.now_ns, self.sender.statistics().packets_sent));
        let mut closed = self.closed.back().copied().unwrap_or(0);
        while let Some(&(sent_ns, packets)) = self.sent.front().filter(|(sent_ns, _)| sent_ns + self.round_trip_ns <= self.now_ns) {
            ensure!(sent_ns <= self.now_ns && packets >= closed, "the sender has lost count");
            closed = packets;
            self.sent.pop_front();
        }
        self.closed.pop_front();
        let told = self.closed.front().copied().unwrap_or(0) / SEGMENT;
        self.closed.push_back(closed);
        while self.first < told && self.arrived.pop_front().is_some() {
            self.first += 1;
        }
        while (self.first + self.arrived.len() as u64) * SEGMENT < closed {
            let mut bits = [0; SEGMENT_WORDS];
            for at in 0..SEGMENT_PACKETS {
                bits[at / 64] |= u64::from(!self.random.percent(self.loss_percent)) << (63 - at % 64);
            }
            self.arrived.push_back(bits);
        }
        let summary = Summary {
            now_us: (self.now_ns / 1000) as u32,
            echo_us: ((self.now_ns - self.round_trip_ns.min(self.now_ns)) / 1000) as u32,
            largest: closed,
            closed,
            blocks_allowed: u32::MAX / 2,
            received: closed * (100 - self.loss_percent) / 100,
            interval_us: (INTERVAL_NS / 1000) as u32,
            ..Summary::default()
        };
        self.datagrams.clear();
        let mut at = 0;
        loop {
            let mut plain = [0; FEEDBACK_BYTES];
            let mut writer = FeedbackWriter::new(&mut plain, &summary).context("a feedback has no room")?;
            while let Some(bits) = self.arrived.get(at) {
                let index = self.first + at as u64;
                let verdicts = closed.saturating_sub(index * SEGMENT).min(SEGMENT);
                if verdicts > 0 && !writer.segment(index as u32, verdicts as u16, bits) {
                    break;
                }
                at += 1;
            }
            let bytes = writer.finish();
            let mut out = [0; DATAGRAM_BYTES];
            let length = write_packet(&mut self.seal, Kind::Feedback, 0, self.feedback_number, &[], &plain[..bytes], &mut out)?;
            self.feedback_number += 1;
            self.datagrams.push((length, out));
            if at >= self.arrived.len() {
                return Ok(());
            }
        }
    }

    /// Has the sender take in what was written. Returns how many packets it took.
    fn take_feedback(&mut self) -> u64 {
        let mut taken = 0;
        for (bytes, datagram) in &self.datagrams {
            taken += u64::from(self.sender.handle_datagram(self.now_ns, &datagram[..*bytes]).is_ok());
        }
        while self.sender.poll_event().is_some() {}
        taken
    }
}

struct SenderRound {
    path: Path,
    /// Packets with a verdict, and lost ones, before the run.
    before: (u64, u64),
}

/// When the first verdicts have come.
const BEGIN_NS: u64 = ROUND_TRIP_NS + 5 * INTERVAL_NS;

/// Payload of a packet whose verdict alone matters: valgrind takes long to seal.
const TINY: u16 = 1;

pub(crate) fn sender_round() -> Result<Box<dyn Workload>> {
    let path = Path::new(TINY, ROUND_TRIP_NS, LOSS_PERCENT);
    let mut round = SenderRound { path, before: (0, 0) };
    while round.path.now_ns < BEGIN_NS {
        round.prepare()?;
        round.path.take_feedback();
    }
    Ok(Box::new(round))
}

impl Workload for SenderRound {
    fn operations(&self) -> u64 {
        1
    }

    fn prepare(&mut self) -> Result<()> {
        self.path.send(INTERVAL_NS)?;
        self.before = (self.path.closed.back().copied().unwrap_or(0), self.path.sender.statistics().packets_lost);
        self.path.write_feedback()
    }

    fn run(&mut self) -> u64 {
        self.path.take_feedback()
    }

    fn check(&mut self, result: u64) -> Result<()> {
        let packets = self.path.datagrams.len() as u64;
        ensure!(result == packets, "{result} of {packets} feedbacks were taken");
        let (closed, lost) = (self.path.closed.back().copied().unwrap_or(0), self.path.sender.statistics().packets_lost);
        let (new, lost) = (closed - self.before.0, lost - self.before.1);
        let share = lost as f64 / new as f64;
        ensure!(new > packets_in(INTERVAL_NS) / 2 && (0.25..0.35).contains(&share), "{lost} of {new} packets were declared lost");
        Ok(())
    }
}

/// Packets of a run of [`send_packets`]: fewer than a block has.
const PACKETS: u64 = 256;

struct Send {
    path: Path,
    open: OpenKeys,
    length: usize,
}

pub(crate) fn send_packets() -> Result<Box<dyn Workload>> {
    let open = OpenKeys::new(&secret(), LANE, Direction::Forward, CipherSuite::Aes128Gcm, Provider::AwsLc);
    let mut send = Send { path: Path::new(CHUNK, 5 * MS, 5), open, length: 0 };
    // Until the round trip is full and blocks come back.
    while send.path.now_ns < 25 * MS {
        send.prepare()?;
        send.run();
    }
    Ok(Box::new(send))
}

impl Workload for Send {
    fn operations(&self) -> u64 {
        PACKETS
    }

    fn prepare(&mut self) -> Result<()> {
        self.path.write_feedback()?;
        ensure!(self.path.take_feedback() == self.path.datagrams.len() as u64, "a feedback was not taken");
        self.length = 0;
        self.path.open_blocks()
    }

    fn run(&mut self) -> u64 {
        let path = &mut self.path;
        let mut packets = 0;
        while packets < PACKETS {
            let bytes = path.sender.poll_transmit(path.now_ns, &mut path.datagram);
            if bytes == 0 {
                let next_ns = path.sender.poll_timeout(path.now_ns);
                if next_ns <= path.now_ns || next_ns == u64::MAX {
                    break;
                }
                path.now_ns = next_ns;
            } else {
                self.length = bytes;
                packets += 1;
            }
        }
        packets
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result == PACKETS, "{result} of {PACKETS} packets were sent");
        let datagram = &self.path.datagram[..self.length];
        let header = Header::parse(datagram).map_err(|error| anyhow::anyhow!("not a packet: {error:?}"))?;
        if header.kind != Kind::Data {
            return Ok(());
        }
        let data = DataHeader::parse(datagram).map_err(|error| anyhow::anyhow!("not DATA: {error:?}"))?;
        let (aad, sealed) = datagram.split_at(HEADER_BYTES + DATA_HEADER_BYTES);
        let mut plain = vec![0; sealed.len() - TAG_BYTES];
        let opened = self.open.open(header.packet_number, aad, sealed, &mut plain);
        let start = usize::from(data.chunk) * usize::from(CHUNK);
        ensure!(opened.is_ok() && self.path.image[start..].starts_with(&plain), "the packet does not hold its chunk");
        Ok(())
    }
}
