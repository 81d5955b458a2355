//! CONTROL packets: the end of a lane, and what the sender tells about itself.

use crate::limits::CLOSE_TEXT_MAX;
use crate::orders::{Group, Orders, State};
use crate::read::{ParseError, Reader, Writer};

/// Longest CONTROL plaintext, bytes.
pub const CONTROL_BYTES_MAX: usize = 5 + CLOSE_TEXT_MAX;

/// A CONTROL message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// Sender to receiver: there are `blocks` blocks in all. Repeated until feedback shows that it arrived.
    Fin {
        /// Blocks of the lane.
        blocks: u32,
    },
    /// Receiver to sender: everything is durable. Repeated until a CLOSE answers.
    Done {
        /// Number of the receipt that the receiver's control process keeps.
        receipt: u64,
    },
    /// Either way: this end is gone. `code` 0 is a normal end.
    Close {
        /// Why, from [`close`].
        code: u16,
        /// For people, UTF-8, at most [`CLOSE_TEXT_MAX`] bytes.
        text: &'a [u8],
    },
    /// Sender to receiver: what the receiver needs to pace its feedback, and what its side needs to share out rates.
    State(State),
    /// Receiver to sender: how to send from now on. Repeated until a STATE carries its number.
    Orders(Orders),
    /// Receiver to sender: what the other lanes between these two hosts do. Sent now and then, never acknowledged.
    Group(Group),
}

/// Codes of CLOSE.
pub mod close {
    /// Everything went well.
    pub const NORMAL: u16 = 0;
    /// The user or an operator cancelled.
    pub const CANCELLED: u16 = 1;
    /// The peer broke the protocol.
    pub const PROTOCOL: u16 = 2;
    /// Nothing was heard for too long.
    pub const TIMEOUT: u16 = 3;
    /// A source could not be read, or changed while it was read.
    pub const SOURCE: u16 = 4;
    /// The store failed; the text says how.
    pub const STORAGE: u16 = 5;
    /// The process is shutting down.
    pub const SHUTDOWN: u16 = 6;
    /// Small packets pass, full-size ones do not: the path's MTU is smaller than the lane's.
    pub const PATH: u16 = 8;
    /// Something that should not happen.
    pub const INTERNAL: u16 = 7;
}

const TYPE_FIN: u8 = 1;
const TYPE_DONE: u8 = 2;
const TYPE_CLOSE: u8 = 3;
const TYPE_STATE: u8 = 4;
const TYPE_ORDERS: u8 = 5;
const TYPE_GROUP: u8 = 6;

impl<'a> Control<'a> {
    /// Reads a decrypted CONTROL payload.
    ///
    /// # Errors
    /// [`ParseError`] for unknown types, short input or an over-long text.
    pub fn parse(plaintext: &'a [u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(plaintext);
        match reader.u8()? {
            TYPE_FIN => Ok(Self::Fin { blocks: reader.u32()? }),
            TYPE_DONE => Ok(Self::Done { receipt: reader.u64()? }),
            TYPE_CLOSE => {
                let code = reader.u16()?;
                let length = usize::from(reader.u16()?);
                if length > CLOSE_TEXT_MAX {
                    return Err(ParseError::Limit);
                }
                Ok(Self::Close { code, text: reader.bytes(length)? })
            }
            TYPE_STATE => Ok(Self::State(State {
                round_trip_us: reader.u32()?,
                rate_kbps: reader.u32()?,
                sent_kbps: reader.u32()?,
                wanted_kbps: reader.u32()?,
                orders: reader.u32()?,
                limiter: reader.u8()?,
            })),
            TYPE_ORDERS => Ok(Self::Orders(Orders {
                number: reader.u32()?,
                policy: reader.u8()?,
                target_kbps: reader.u32()?,
                minimum_kbps: reader.u32()?,
                lease_kbps: reader.u32()?,
            })),
            TYPE_GROUP => Ok(Self::Group(Group { number: reader.u32()?, share_kbps: reader.u32()?, lanes: reader.u16()? })),
            _ => Err(ParseError::Kind),
        }
    }

    /// Writes the payload and returns its length, or `None` if `out` is too short or the text too long.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(out);
        match *self {
            Self::Fin { blocks } => {
                writer.u8(TYPE_FIN);
                writer.u32(blocks);
            }
            Self::Done { receipt } => {
                writer.u8(TYPE_DONE);
                writer.u64(receipt);
            }
            Self::Close { code, text } => {
                if text.len() > CLOSE_TEXT_MAX {
                    return None;
                }
                writer.u8(TYPE_CLOSE);
                writer.u16(code);
                writer.u16(text.len() as u16);
                writer.bytes(text);
            }
            Self::State(state) => {
                writer.u8(TYPE_STATE);
                writer.u32(state.round_trip_us);
                writer.u32(state.rate_kbps);
                writer.u32(state.sent_kbps);
                writer.u32(state.wanted_kbps);
                writer.u32(state.orders);
                writer.u8(state.limiter);
            }
            Self::Orders(orders) => {
                writer.u8(TYPE_ORDERS);
                writer.u32(orders.number);
                writer.u8(orders.policy);
                writer.u32(orders.target_kbps);
                writer.u32(orders.minimum_kbps);
                writer.u32(orders.lease_kbps);
            }
            Self::Group(group) => {
                writer.u8(TYPE_GROUP);
                writer.u32(group.number);
                writer.u32(group.share_kbps);
                writer.u16(group.lanes);
            }
        }
        writer.finish()
    }
}
