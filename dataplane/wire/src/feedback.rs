//! FEEDBACK: what the receiver tells the sender.
//!
//! ```text
//!  0 flags u8 | 1 trains u8 | 2 segments u8 | 3 zero
//!  4 now_us u32 | 8 hold_us u32 | 12 echo_us u32
//! 16 largest u48 | 22 closed u48
//! 28 blocks_allowed u32 | 32 blocks_completed u32 | 36 blocks_durable u32 | 40 storage_kbps u32
//! 44 received u48 | 50 congestion_experienced u16 | 52 dropped_locally u32 | 56 interval_us u32
//! 60 trains * 32 bytes, then segments: index u32, verdicts u16, ceil(verdicts / 64) * u64 bitmap
//! ```
//!
//! A bitmap's bit i (most significant bit of word i / 64 first) is the verdict on packet `index * 1024 + i`: 1 received,
//! 0 lost. Only the first `verdicts` bits count.

use crate::limits::{FEEDBACK_SEGMENTS_MAX, FEEDBACK_TRAINS_MAX, SEGMENT_PACKETS, SEGMENT_WORDS};
use crate::read::{ParseError, Reader, Writer};

/// Bytes before the first train.
pub const FIXED_BYTES: usize = 60;
/// Bytes of a train.
pub const TRAIN_BYTES: usize = 32;
/// Bytes of a segment with all its verdicts.
pub const SEGMENT_BYTES_MAX: usize = 6 + SEGMENT_WORDS * 8;

/// Flag: the store is the bottleneck; the block window is exhausted by blocks that wait for it.
pub const FLAG_STORAGE_LIMITED: u8 = 0b0000_0001;
/// Flag: the receiver knows how many blocks there are (a FIN arrived).
pub const FLAG_FIN_KNOWN: u8 = 0b0000_0010;

/// The fixed part of a feedback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Flags.
    pub flags: u8,
    /// Receiver's clock, microseconds, wraps.
    pub now_us: u32,
    /// How long ago the packet with the largest number arrived, microseconds.
    pub hold_us: u32,
    /// `sent_us` of the DATA packet with the largest number: round trip = now - echo - hold.
    pub echo_us: u32,
    /// Largest packet number seen, plus one (0: none).
    pub largest: u64,
    /// All packet numbers below this have a verdict.
    pub closed: u64,
    /// Blocks the sender may have opened in all.
    pub blocks_allowed: u32,
    /// Blocks received whole, in all.
    pub blocks_completed: u32,
    /// Blocks stored durably, in all.
    pub blocks_durable: u32,
    /// How fast the store takes blocks, kbit/s; 0 while unknown.
    pub storage_kbps: u32,
    /// Packets received and authenticated, in all.
    pub received: u64,
    /// Packets marked congestion-experienced, in all, wraps.
    pub congestion_experienced: u16,
    /// Packets that the receiver itself had to drop (no buffer), in all, wraps. Not a loss of the network.
    pub dropped_locally: u32,
    /// Interval at which feedback is sent now, microseconds.
    pub interval_us: u32,
}

/// Arrivals of one measuring train; times wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Train {
    /// The train's number, 0 to 254.
    pub train: u8,
    /// Packets of it that arrived (24 bits on the wire, saturates).
    pub received: u32,
    /// Low 32 bits of the first packet number that arrived.
    pub first_packet: u32,
    /// Low 32 bits of the last packet number that arrived.
    pub last_packet: u32,
    /// Sender's clock of the first, microseconds.
    pub first_sent_us: u32,
    /// Sender's clock of the last, microseconds.
    pub last_sent_us: u32,
    /// Receiver's clock of the first, microseconds.
    pub first_arrival_us: u32,
    /// Receiver's clock of the last, microseconds.
    pub last_arrival_us: u32,
    /// Least (arrival - sent), microseconds, wrapping: the clocks' offset is in it.
    pub least_one_way_us: u32,
}

/// Verdicts on the packets of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Packet number / 1024.
    pub index: u32,
    /// How many verdicts the bitmap holds, from the segment's start, 1 to 1024.
    pub verdicts: u16,
    /// 1 received, 0 lost; bit 63 of word 0 is the segment's first packet.
    pub bitmap: [u64; SEGMENT_WORDS],
}

impl Segment {
    /// Bytes that this segment takes on the wire.
    #[must_use]
    pub const fn wire_bytes(verdicts: u16) -> usize {
        6 + (verdicts as usize).div_ceil(64) * 8
    }

    /// The bits of word `word` that hold a verdict.
    #[must_use]
    pub const fn mask(verdicts: u16, word: usize) -> u64 {
        let bits = (verdicts as usize).saturating_sub(word * 64);
        if bits >= 64 { u64::MAX } else { !(u64::MAX >> bits) }
    }
}

/// A parsed feedback that borrows its packet; trains and segments are decoded as they are walked.
#[derive(Clone, Copy, Debug)]
pub struct Feedback<'a> {
    /// The fixed part.
    pub summary: Summary,
    trains: &'a [u8],
    segments: &'a [u8],
}

impl<'a> Feedback<'a> {
    /// Reads and checks a decrypted FEEDBACK payload as a whole.
    ///
    /// # Errors
    /// [`ParseError::Truncated`], or [`ParseError::Limit`] for counts, verdicts or trains outside their limits.
    pub fn parse(plaintext: &'a [u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(plaintext);
        let flags = reader.u8()?;
        let trains = usize::from(reader.u8()?);
        let segments = usize::from(reader.u8()?);
        reader.u8()?;
        if trains > FEEDBACK_TRAINS_MAX || segments > FEEDBACK_SEGMENTS_MAX {
            return Err(ParseError::Limit);
        }
        let summary = Summary {
            flags,
            now_us: reader.u32()?,
            hold_us: reader.u32()?,
            echo_us: reader.u32()?,
            largest: reader.u48()?,
            closed: reader.u48()?,
            blocks_allowed: reader.u32()?,
            blocks_completed: reader.u32()?,
            blocks_durable: reader.u32()?,
            storage_kbps: reader.u32()?,
            received: reader.u48()?,
            congestion_experienced: reader.u16()?,
            dropped_locally: reader.u32()?,
            interval_us: reader.u32()?,
        };
        let trains = reader.bytes(trains * TRAIN_BYTES)?;
        let bodies = reader.0;
        for _ in 0..segments {
            Self::segment(&mut reader)?;
        }
        let used = bodies.len() - reader.0.len();
        Ok(Self { summary, trains, segments: &bodies[..used] })
    }

    fn segment(reader: &mut Reader<'_>) -> Result<Segment, ParseError> {
        let index = reader.u32()?;
        let verdicts = reader.u16()?;
        if verdicts == 0 || usize::from(verdicts) > SEGMENT_PACKETS {
            return Err(ParseError::Limit);
        }
        let mut bitmap = [0; SEGMENT_WORDS];
        for word in bitmap.iter_mut().take(usize::from(verdicts).div_ceil(64)) {
            *word = reader.u64()?;
        }
        Ok(Segment { index, verdicts, bitmap })
    }

    /// The trains, oldest first.
    pub fn trains(&self) -> impl Iterator<Item = Train> + use<'a> {
        self.trains.chunks_exact(TRAIN_BYTES).map_while(|bytes| read_train(bytes).ok())
    }

    /// The segments.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + use<'a> {
        let mut reader = Reader(self.segments);
        core::iter::from_fn(move || if reader.0.is_empty() { None } else { Self::segment(&mut reader).ok() })
    }
}

fn read_train(bytes: &[u8]) -> Result<Train, ParseError> {
    let mut reader = Reader(bytes);
    let word = reader.u32()?;
    Ok(Train {
        train: (word >> 24) as u8,
        received: word & 0x00ff_ffff,
        first_packet: reader.u32()?,
        last_packet: reader.u32()?,
        first_sent_us: reader.u32()?,
        last_sent_us: reader.u32()?,
        first_arrival_us: reader.u32()?,
        last_arrival_us: reader.u32()?,
        least_one_way_us: reader.u32()?,
    })
}

/// Writes a feedback payload piece by piece into a buffer.
pub struct FeedbackWriter<'a> {
    out: &'a mut [u8],
    at: usize,
    trains: u8,
    segments: u8,
}

impl<'a> FeedbackWriter<'a> {
    /// Starts with the summary; `None` if `out` cannot hold it.
    #[must_use]
    pub fn new(out: &'a mut [u8], summary: &Summary) -> Option<Self> {
        let mut writer = Writer::new(out);
        writer.bytes(&[summary.flags, 0, 0, 0]);
        for value in [summary.now_us, summary.hold_us, summary.echo_us] {
            writer.u32(value);
        }
        writer.u48(summary.largest);
        writer.u48(summary.closed);
        for value in [summary.blocks_allowed, summary.blocks_completed, summary.blocks_durable, summary.storage_kbps] {
            writer.u32(value);
        }
        writer.u48(summary.received);
        writer.u16(summary.congestion_experienced);
        writer.u32(summary.dropped_locally);
        writer.u32(summary.interval_us);
        let at = writer.finish()?;
        Some(Self { out, at, trains: 0, segments: 0 })
    }

    fn append(&mut self, write: impl FnOnce(&mut Writer<'_>)) -> bool {
        let mut writer = Writer::new(&mut self.out[self.at..]);
        write(&mut writer);
        match writer.finish() {
            Some(bytes) => {
                self.at += bytes;
                true
            }
            None => false,
        }
    }

    /// Adds a train; `false` if there is no room, or a segment was already added.
    pub fn train(&mut self, train: &Train) -> bool {
        let room = usize::from(self.trains) < FEEDBACK_TRAINS_MAX && self.segments == 0;
        let added = room
            && self.append(|writer| {
                writer.u32(u32::from(train.train) << 24 | train.received.min(0x00ff_ffff));
                for value in [
                    train.first_packet,
                    train.last_packet,
                    train.first_sent_us,
                    train.last_sent_us,
                    train.first_arrival_us,
                    train.last_arrival_us,
                    train.least_one_way_us,
                ] {
                    writer.u32(value);
                }
            });
        self.trains += u8::from(added);
        added
    }

    /// Adds a segment; `false` if there is no room.
    pub fn segment(&mut self, index: u32, verdicts: u16, bitmap: &[u64; SEGMENT_WORDS]) -> bool {
        let room = usize::from(self.segments) < FEEDBACK_SEGMENTS_MAX;
        let added = room
            && self.append(|writer| {
                writer.u32(index);
                writer.u16(verdicts);
                for word in bitmap.iter().take(usize::from(verdicts).div_ceil(64)) {
                    writer.u64(*word);
                }
            });
        self.segments += u8::from(added);
        added
    }

    /// Ends the payload and returns its length.
    #[must_use]
    pub fn finish(self) -> usize {
        self.out[1] = self.trains;
        self.out[2] = self.segments;
        self.at
    }
}
