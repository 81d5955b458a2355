//! Parsing, sealing and opening single packets.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use tradewind_proto::crypto::{CipherSuite, Direction, OpenKeys, Provider, SealKeys};
use tradewind_wire::feedback::{Feedback, FeedbackWriter, Segment, Summary, Train};
use tradewind_wire::limits::{DATA_HEADER_BYTES, HEADER_BYTES, SEGMENT_WORDS, TAG_BYTES};
use tradewind_wire::{BlockId, DataHeader, Header, Kind, PacketNumber};

use crate::Workload;
use crate::lane::{LANE, number, secret};
use crate::random::Random;

/// Packets of a run: together longer than what reading the clock costs.
const PACKETS: usize = 64;
/// Payload of DATA where the path takes 1,500 and 9,000 bytes, IPv4.
const SMALL: usize = 1427;
const LARGE: usize = 8927;
/// The largest feedback payload of a receiver.
const FEEDBACK_BYTES: usize = 1152;

struct ParseData {
    datagrams: Vec<Vec<u8>>,
    expected: u64,
}

fn digest(header: &Header, data: &DataHeader) -> u64 {
    header.packet_number.get() ^ u64::from(data.block.0) << 16 ^ u64::from(data.chunk) ^ u64::from(data.sent_us) << 20
}

pub(crate) fn parse_data() -> Result<Box<dyn Workload>> {
    let mut random = Random(1);
    let mut expected = 0u64;
    let mut datagrams = Vec::new();
    for _ in 0..16 * PACKETS {
        let header = Header { kind: Kind::Data, flags: 0, packet_number: number(random.bits())?, lane: LANE };
        let data = DataHeader {
            sent_us: random.bits() as u32,
            train: random.below(255) as u8,
            floor_segment: random.bits() as u16,
            block: BlockId(random.below(1 << 20) as u32),
            chunk: random.below(735) as u16,
        };
        expected = expected.wrapping_add(digest(&header, &data));
        let mut datagram = vec![0; HEADER_BYTES + DATA_HEADER_BYTES + SMALL + TAG_BYTES];
        datagram[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        datagram[HEADER_BYTES..HEADER_BYTES + DATA_HEADER_BYTES].copy_from_slice(&data.to_bytes());
        datagrams.push(datagram);
    }
    Ok(Box::new(ParseData { datagrams, expected }))
}

impl Workload for ParseData {
    fn operations(&self) -> u64 {
        self.datagrams.len() as u64
    }

    fn run(&mut self) -> u64 {
        let mut sum = 0u64;
        for datagram in &self.datagrams {
            let datagram = black_box(datagram.as_slice());
            if let (Ok(header), Ok(data)) = (Header::parse(datagram), DataHeader::parse(datagram)) {
                sum = sum.wrapping_add(digest(&header, &data));
            }
        }
        sum
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result == self.expected, "the headers read are not those written");
        Ok(())
    }
}

struct ParseFeedback {
    payloads: Vec<Vec<u8>>,
    expected: u64,
}

pub(crate) fn parse_feedback() -> Result<Box<dyn Workload>> {
    let mut random = Random(2);
    let mut expected = 0u64;
    let mut payloads = Vec::new();
    for _ in 0..PACKETS {
        let summary = Summary { closed: random.bits(), ..Summary::default() };
        let mut payload = vec![0; FEEDBACK_BYTES];
        let mut writer = FeedbackWriter::new(&mut payload, &summary).context("a feedback has room for its summary")?;
        expected = expected.wrapping_add(summary.closed);
        for train in 0..3 {
            let received = random.below(1 << 20) as u32;
            ensure!(writer.train(&Train { train, received, ..Train::default() }), "a feedback has room for 3 trains");
            expected = expected.wrapping_add(u64::from(received));
        }
        for index in 0..7 {
            let mut bitmap = [0; SEGMENT_WORDS];
            for word in &mut bitmap {
                *word = random.bits() << 32 | random.bits();
                expected = expected.wrapping_add(*word);
            }
            ensure!(writer.segment(index, 1024, &bitmap), "a feedback has room for 7 segments behind 3 trains");
        }
        let bytes = writer.finish();
        payload.truncate(bytes);
        payloads.push(payload);
    }
    Ok(Box::new(ParseFeedback { payloads, expected }))
}

impl Workload for ParseFeedback {
    fn operations(&self) -> u64 {
        self.payloads.len() as u64
    }

    fn run(&mut self) -> u64 {
        let mut sum = 0u64;
        for payload in &self.payloads {
            let Ok(feedback) = Feedback::parse(black_box(payload.as_slice())) else { continue };
            sum = sum.wrapping_add(feedback.summary.closed);
            sum = feedback.trains().fold(sum, |sum, train| sum.wrapping_add(u64::from(train.received)));
            for Segment { bitmap, .. } in feedback.segments() {
                sum = bitmap.iter().fold(sum, |sum, word| sum.wrapping_add(*word));
            }
        }
        sum
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result == self.expected, "the feedback read is not the one written");
        Ok(())
    }
}

/// The clear part of a DATA packet, as associated data.
const AAD: [u8; HEADER_BYTES + DATA_HEADER_BYTES] = [0x1d; HEADER_BYTES + DATA_HEADER_BYTES];

struct Seal {
    keys: SealKeys,
    open: OpenKeys,
    plain: Vec<u8>,
    out: Vec<u8>,
    next: u64,
}

fn seal(suite: CipherSuite, provider: Provider, bytes: usize) -> Result<Box<dyn Workload>> {
    let mut plain = vec![0; bytes];
    Random(3).fill(&mut plain);
    Ok(Box::new(Seal {
        keys: SealKeys::new(&secret(), LANE, Direction::Forward, suite, provider),
        open: OpenKeys::new(&secret(), LANE, Direction::Forward, suite, provider),
        plain,
        out: vec![0; bytes + TAG_BYTES],
        next: 0,
    }))
}

impl Workload for Seal {
    fn operations(&self) -> u64 {
        PACKETS as u64
    }

    fn prepare(&mut self) -> Result<()> {
        self.out.fill(0);
        Ok(())
    }

    fn run(&mut self) -> u64 {
        let mut sealed = 0;
        for _ in 0..PACKETS {
            let Some(packet_number) = PacketNumber::new(self.next) else { break };
            self.next += 1;
            sealed += u64::from(self.keys.seal(packet_number, &AAD, black_box(&self.plain), black_box(&mut self.out)).is_ok());
        }
        sealed
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result == PACKETS as u64, "{result} of {PACKETS} packets were sealed");
        let mut plain = vec![0; self.plain.len()];
        let opened = self.open.open(number(self.next - 1)?, &AAD, &self.out, &mut plain);
        ensure!(opened.is_ok() && plain == self.plain, "what was sealed cannot be opened");
        Ok(())
    }
}

struct Open {
    keys: OpenKeys,
    sealed: Vec<(PacketNumber, Vec<u8>)>,
    plain: Vec<u8>,
    out: Vec<u8>,
}

fn open(suite: CipherSuite, provider: Provider, bytes: usize) -> Result<Box<dyn Workload>> {
    let mut plain = vec![0; bytes];
    Random(4).fill(&mut plain);
    let mut seal = SealKeys::new(&secret(), LANE, Direction::Forward, suite, provider);
    let mut sealed = Vec::new();
    for value in 0..PACKETS as u64 {
        let mut out = vec![0; bytes + TAG_BYTES];
        let packet_number = number(value)?;
        ensure!(seal.seal(packet_number, &AAD, &plain, &mut out).is_ok(), "a packet cannot be sealed");
        sealed.push((packet_number, out));
    }
    let keys = OpenKeys::new(&secret(), LANE, Direction::Forward, suite, provider);
    Ok(Box::new(Open { keys, sealed, plain, out: vec![0; bytes] }))
}

impl Workload for Open {
    fn operations(&self) -> u64 {
        self.sealed.len() as u64
    }

    fn prepare(&mut self) -> Result<()> {
        self.out.fill(0);
        Ok(())
    }

    fn run(&mut self) -> u64 {
        let mut opened = 0;
        for (packet_number, sealed) in &self.sealed {
            opened += u64::from(self.keys.open(*packet_number, &AAD, black_box(sealed), black_box(&mut self.out)).is_ok());
        }
        opened
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result == self.operations() && self.out == self.plain, "{result} of {PACKETS} packets were opened");
        Ok(())
    }
}

pub(crate) fn seal_128_small() -> Result<Box<dyn Workload>> {
    seal(CipherSuite::Aes128Gcm, Provider::AwsLc, SMALL)
}

pub(crate) fn seal_128_large() -> Result<Box<dyn Workload>> {
    seal(CipherSuite::Aes128Gcm, Provider::AwsLc, LARGE)
}

pub(crate) fn seal_256_small() -> Result<Box<dyn Workload>> {
    seal(CipherSuite::Aes256Gcm, Provider::AwsLc, SMALL)
}

pub(crate) fn seal_rust_small() -> Result<Box<dyn Workload>> {
    seal(CipherSuite::Aes128Gcm, Provider::RustCrypto, SMALL)
}

pub(crate) fn open_128_small() -> Result<Box<dyn Workload>> {
    open(CipherSuite::Aes128Gcm, Provider::AwsLc, SMALL)
}

pub(crate) fn open_128_large() -> Result<Box<dyn Workload>> {
    open(CipherSuite::Aes128Gcm, Provider::AwsLc, LARGE)
}

pub(crate) fn open_256_small() -> Result<Box<dyn Workload>> {
    open(CipherSuite::Aes256Gcm, Provider::AwsLc, SMALL)
}

pub(crate) fn open_rust_small() -> Result<Box<dyn Workload>> {
    open(CipherSuite::Aes128Gcm, Provider::RustCrypto, SMALL)
}
