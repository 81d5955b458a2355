//! What must hold at the end of a world.

use tradewind_wire::control::close;

use crate::report::Report;
use crate::run::MS;
use crate::world::{Way, World};

/// A promise that was broken.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The description is no world.
    #[error("the world cannot be built: {0}")]
    World(String),
    /// Neither end was waiting for anything.
    #[error("both ends wait for ever: {state}")]
    Stuck {
        /// Everything known.
        state: String,
    },
    /// The world did not end in time.
    #[error("not over after {ms} ms: {state}")]
    TooLong {
        /// Virtual time.
        ms: u64,
        /// Everything known.
        state: String,
    },
    /// An end asks to be polled at once, for ever, and does nothing.
    #[error("the {end} burns a core at {ms} ms: {state}")]
    Spins {
        /// Which end.
        end: &'static str,
        /// Virtual time.
        ms: u64,
        /// Everything known.
        state: String,
    },
    /// A packet broke a rule.
    #[error("{0}")]
    Packet(&'static str),
    /// A block was delivered twice.
    #[error("block {block} was delivered twice")]
    Twice {
        /// Its number.
        block: usize,
    },
    /// Not every block was delivered although the sender was told that all was done.
    #[error("done, but only {delivered} of {sent} blocks were delivered")]
    Lost {
        /// Blocks that arrived.
        delivered: usize,
        /// Blocks that were cut.
        sent: usize,
    },
    /// Bytes differ.
    #[error("wrong content: {0}")]
    Content(String),
    /// A wrong number of blocks was announced.
    #[error("FIN said {said} blocks, {cut} were cut")]
    Fin {
        /// What FIN said.
        said: u32,
        /// How many there were.
        cut: usize,
    },
    /// The sender refused a block that it had asked for.
    #[error("the sender refused block {block} after it had asked for one")]
    Refused {
        /// Its number.
        block: usize,
    },
    /// The receiver held more than its credit.
    #[error("the receiver held {held} blocks with a window of {window}")]
    Memory {
        /// Most blocks held at once.
        held: u32,
        /// The window.
        window: u32,
    },
    /// It ended otherwise than it must.
    #[error("wrong end: {reason}: {ending:?}")]
    End {
        /// What is wrong.
        reason: &'static str,
        /// How it ended.
        ending: Ending,
    },
    /// It took far longer than the path needs.
    #[error("took {took_ms} ms where {ideal_ms} ms are ideal and {bound_ms} ms the bound")]
    Slow {
        /// What it took.
        took_ms: u64,
        /// What a perfect sender would take.
        ideal_ms: u64,
        /// What was allowed.
        bound_ms: u64,
    },
}

/// How a world ended.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// The sender was told that all is durable; whether the receipt was right.
    pub done: Option<bool>,
    /// Everything was durable at the receiver.
    pub durable: bool,
    /// Codes of the sender's Closed events.
    pub sender_codes: Vec<u16>,
    /// Codes of the receiver's Closed events.
    pub receiver_codes: Vec<u16>,
    /// The sender's user cancelled.
    pub cancelled: bool,
    /// The store failed.
    pub store_failed: bool,
    /// When the sender was closed.
    pub sender_end_ns: Option<u64>,
    /// When the receiver was closed.
    pub receiver_end_ns: Option<u64>,
}

fn is_black_hole(way: &Way) -> bool {
    way.outage_length_ms.is_infinite()
}

/// Milliseconds that a perfect sender would need, outages and a slow store included.
#[must_use]
pub fn ideal_ms(world: &World) -> f64 {
    let payload = f64::from(world.chunk_bytes);
    let packet = payload + 73.0;
    let reach = (1.0 - world.forward.mean_loss()) * (1.0 - world.forward.corrupt);
    let network = world.forward.rate_mbps.min(world.target_mbps) * reach * payload / packet;
    let bits = world.bytes as f64 * 8.0 + f64::from(world.files) * 400.0;
    let store = bits / world.store.rate_mbps / 1000.0;
    let blocks = (world.bytes as f64 / world.block_bytes as f64).ceil().max(1.0);
    let round_trip = world.forward.delay_ms + world.reverse.delay_ms + world.forward.jitter_ms + world.reverse.jitter_ms;
    // A window of few blocks lets the sender do no more than that a round trip and a time in the store.
    let rounds = (blocks / f64::from(world.store.window_blocks.min(world.store.pool_blocks))).ceil();
    let windows = rounds * (round_trip + world.store.delay_ms);
    let outage = |way: &Way| if is_black_hole(way) { 0.0 } else { way.outage_length_ms };
    bits / network / 1000.0 + store + windows + outage(&world.forward) + outage(&world.reverse) + world.store.stall_length_ms
}

/// Generous on purpose: it is there to find stalls, not to grade the rate control.
fn bound_ms(world: &World) -> f64 {
    let round_trip = world.forward.delay_ms + world.reverse.delay_ms + world.forward.jitter_ms + world.reverse.jitter_ms;
    6.0 * ideal_ms(world) + 40.0 * round_trip + 6.0 * world.forward.queue_ms.min(1_000.0) + 5_000.0
}

/// When a world must be over at the latest.
pub(crate) fn deadline_ns(world: &World) -> u64 {
    let silence = 2.0 * world.idle_timeout_ms as f64 + 65_000.0;
    ((bound_ms(world) * 4.0 + silence) * MS as f64) as u64
}

/// Judges a finished world.
pub(crate) fn judge(world: &World, ending: &Ending, report: &Report) -> Result<(), Failure> {
    let held = report.blocks_held_most;
    if held > world.store.window_blocks {
        return Err(Failure::Memory { held, window: world.store.window_blocks });
    }
    let wrong = |reason| Err(Failure::End { reason, ending: ending.clone() });
    if ending.sender_codes.len() + usize::from(ending.done.is_some()) > 1 {
        return wrong("the sender told of its end twice");
    }
    if ending.receiver_codes.len() > 1 {
        return wrong("the receiver told of its end twice");
    }
    if ending.done == Some(false) {
        return wrong("the receipt is another one");
    }
    if ending.done.is_some() && !ending.durable {
        return wrong("done before everything was durable");
    }
    let dead = is_black_hole(&world.forward) || is_black_hole(&world.reverse);
    let may_fail = dead || ending.cancelled || ending.store_failed;
    if ending.done.is_none() && !may_fail {
        return wrong("it failed on a path that works");
    }
    for (codes, end) in [(&ending.sender_codes, "sender"), (&ending.receiver_codes, "receiver")] {
        for &code in codes {
            let known = match code {
                close::NORMAL => end == "receiver" && (ending.durable || ending.done.is_some()),
                close::TIMEOUT => true,
                close::CANCELLED => ending.cancelled,
                close::STORAGE => ending.store_failed,
                _ => false,
            };
            if !known {
                return wrong("an error that nothing in this world explains");
            }
        }
    }
    if ending.done.is_none() && ending.sender_codes.is_empty() && !ending.cancelled {
        return wrong("the sender ended without a word");
    }
    let bound = bound_ms(world);
    let took = report.done_ns as f64 / MS as f64;
    if ending.done.is_some() && !dead && took > bound {
        return Err(Failure::Slow { took_ms: took as u64, ideal_ms: ideal_ms(world) as u64, bound_ms: bound as u64 });
    }
    Ok(())
}
