//! What a world is made of, drawn from a seed or described by `key=value` words.

use tradewind_proto::crypto::{CipherSuite, Provider};
use tradewind_proto::rate::Policy;

use crate::random::Random;

/// One direction of the path.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// Bottleneck rate, Mbit/s of IP packets.
    pub rate_mbps: f64,
    /// Propagation delay, ms.
    pub delay_ms: f64,
    /// Uniform jitter around the delay, ± ms; packets overtake each other.
    pub jitter_ms: f64,
    /// Drop-tail queue, ms at the rate.
    pub queue_ms: f64,
    /// Independent loss, 0 to 1.
    pub loss: f64,
    /// Gilbert-Elliott instead: probability that a burst begins with a packet; it loses everything.
    pub burst_start: f64,
    /// Mean length of a burst, packets.
    pub burst_packets: f64,
    /// Share of packets that come late by [`Way::reorder_ms`].
    pub reorder: f64,
    /// How late, ms.
    pub reorder_ms: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Share of packets that arrive with flipped bits, cut short or extended.
    pub corrupt: f64,
    /// Share of packets that bring a packet of random bytes or an old packet with them.
    pub garbage: f64,
    /// Start of an outage, ms.
    pub outage_ms: f64,
    /// Its length, ms; 0 for none, infinite for a black hole.
    pub outage_length_ms: f64,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            rate_mbps: 100.0,
            delay_ms: 10.0,
            jitter_ms: 0.0,
            queue_ms: 100.0,
            loss: 0.0,
            burst_start: 0.0,
            burst_packets: 5.0,
            reorder: 0.0,
            reorder_ms: 2.0,
            duplicate: 0.0,
            corrupt: 0.0,
            garbage: 0.0,
            outage_ms: 0.0,
            outage_length_ms: 0.0,
        }
    }
}

impl Way {
    /// Share of packets lost at random on average.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        if self.burst_start > 0.0 {
            let end = 1.0 / self.burst_packets.max(1.0);
            self.burst_start / (self.burst_start + end)
        } else {
            self.loss
        }
    }
}

/// What the receiver does with whole blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// Blocks that the sender may have open.
    pub window_blocks: u32,
    /// Buffers that there are; fewer than the window means that packets are dropped for want of one.
    pub pool_blocks: u32,
    /// How fast blocks become durable, Mbit/s.
    pub rate_mbps: f64,
    /// How long each takes besides, ms.
    pub delay_ms: f64,
    /// When the store stands still, ms.
    pub stall_ms: f64,
    /// For how long, ms; 0 for never.
    pub stall_length_ms: f64,
    /// The store fails for good at this block.
    pub fails_at_block: Option<u32>,
}

/// A world.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// Everything random in the world comes from it.
    pub seed: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Files.
    pub files: u32,
    /// Payload bytes of a block.
    pub block_bytes: usize,
    /// Payload bytes of a DATA packet.
    pub chunk_bytes: u16,
    /// Cipher.
    pub suite: CipherSuite,
    /// Who encrypts at the sender.
    pub sender_provider: Provider,
    /// Who decrypts at the receiver.
    pub receiver_provider: Provider,
    /// Rate policy.
    pub policy: Policy,
    /// Target rate, Mbit/s.
    pub target_mbps: f64,
    /// Repeat unreported chunks at the tail.
    pub tail_copies: bool,
    /// Silence after which either end gives up, ms.
    pub idle_timeout_ms: u64,
    /// Timers of both ends fire up to this late, µs.
    pub wake_late_us: u64,
    /// The sender's user cancels at this time, ms.
    pub cancel_ms: Option<u64>,
    /// Sender to receiver.
    pub forward: Way,
    /// Receiver to sender.
    pub reverse: Way,
    /// The receiver's store.
    pub store: Store,
}

/// Why a description is no world.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum WorldError {
    /// Not `key=value`.
    #[error("'{0}' is not key=value")]
    NoValue(String),
    /// Unknown key.
    #[error("unknown key '{0}'; see World::set in tests/sim/src/world.rs for all of them")]
    UnknownKey(String),
    /// Bad value.
    #[error("'{value}' is not a value for {key}")]
    BadValue {
        /// The key.
        key: String,
        /// What stood behind it.
        value: String,
    },
}

impl World {
    /// A plain world for descriptions to start from: 16 MiB over 100 Mbit/s, 20 ms, no loss.
    #[must_use]
    pub fn plain(seed: u64) -> Self {
        Self {
            seed,
            bytes: 16 << 20,
            files: 1,
            block_bytes: 1 << 20,
            chunk_bytes: 1427,
            suite: CipherSuite::Aes128Gcm,
            sender_provider: Provider::AwsLc,
            receiver_provider: Provider::AwsLc,
            policy: Policy::Fair,
            target_mbps: 40_000.0,
            tail_copies: true,
            idle_timeout_ms: 30_000,
            wake_late_us: 0,
            cancel_ms: None,
            forward: Way::default(),
            reverse: Way::default(),
            store: Store {
                window_blocks: 256,
                pool_blocks: 256,
                rate_mbps: 100_000.0,
                delay_ms: 1.0,
                stall_ms: 0.0,
                stall_length_ms: 0.0,
                fails_at_block: None,
            },
        }
    }

    /// The world of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut r = Random::new(seed, 10);
        let mut world = Self::plain(seed);
        world.bytes = match r.within(0, 19) {
            0 => r.within(0, 2),
            1 => r.magnitude(4e6, 48e6) as u64,
            _ => r.magnitude(1.0, 4e6) as u64,
        };
        world.files = if r.happens(0.5) { 1 } else { r.magnitude(1.0, 200.0) as u32 };
        world.block_bytes = r.pick(&[64 << 10, 100_000, 256 << 10, 1 << 20]);
        world.chunk_bytes = r.pick(&[496, 1200, 1427, 1427, 3327, 8927, 9000]);
        world.suite = r.pick(&[CipherSuite::Aes128Gcm, CipherSuite::Aes256Gcm]);
        let providers = [Provider::AwsLc, Provider::AwsLc, Provider::RustCrypto];
        (world.sender_provider, world.receiver_provider) = (r.pick(&providers), r.pick(&providers));
        world.policy = r.pick(&[Policy::Fair, Policy::Fair, Policy::High, Policy::Low, Policy::Fixed]);
        let rtt_ms = r.magnitude(0.2, 800.0);
        let rate_mbps = r.magnitude(1.0, 5_000.0);
        world.forward = Self::draw_way(&mut r, rate_mbps, rtt_ms / 2.0);
        let slower = r.pick(&[1.0, 1.0, 10.0, 50.0]);
        world.reverse = Self::draw_way(&mut r, (rate_mbps / slower).max(0.5), rtt_ms / 2.0);
        world.target_mbps = match world.policy {
            Policy::Fixed => rate_mbps * r.pick(&[0.3, 0.8, 1.0, 1.5]),
            _ => r.pick(&[40_000.0, 40_000.0, rate_mbps * 0.5, 10.0]),
        };
        world.tail_copies = world.policy != Policy::Low;
        world.idle_timeout_ms = r.pick(&[15_000, 30_000]);
        world.wake_late_us = r.pick(&[0, 0, 50, 1_000]);
        world.draw_store(&mut r);
        world.draw_end(&mut r);
        world
    }

    fn draw_way(r: &mut Random, rate_mbps: f64, delay_ms: f64) -> Way {
        let mut way = Way { rate_mbps, delay_ms, queue_ms: r.magnitude(3.0, 300.0), ..Way::default() };
        if r.happens(0.5) {
            way.jitter_ms = (delay_ms * r.pick(&[0.01, 0.1, 0.5, 1.0])).min(r.magnitude(0.1, 20.0));
        }
        match r.within(0, 5) {
            0 | 1 => {}
            2 => way.loss = r.magnitude(0.001, 0.1),
            3 => way.loss = r.magnitude(0.05, 0.3),
            _ => {
                way.burst_packets = r.magnitude(2.0, 50.0);
                way.burst_start = r.magnitude(0.001, 0.1) / way.burst_packets;
            }
        }
        if r.happens(0.3) {
            way.reorder = r.pick(&[0.001, 0.01, 0.1]);
            way.reorder_ms = r.magnitude(0.1, 60.0);
        }
        way.duplicate = r.pick(&[0.0, 0.0, 0.01, 0.2]);
        way.corrupt = r.pick(&[0.0, 0.0, 0.001, 0.02]);
        way.garbage = r.pick(&[0.0, 0.0, 0.01, 0.1]);
        if r.happens(0.15) {
            way.outage_ms = r.magnitude(1.0, 3_000.0);
            way.outage_length_ms = r.magnitude(10.0, 5_000.0);
        }
        way
    }

    fn draw_store(&mut self, r: &mut Random) {
        let store = &mut self.store;
        store.window_blocks = r.pick(&[2, 4, 16, 64]);
        store.pool_blocks = if r.happens(0.2) { (store.window_blocks / 2).max(1) } else { store.window_blocks };
        store.rate_mbps = if r.happens(0.3) { self.forward.rate_mbps * r.magnitude(0.1, 2.0) } else { 100_000.0 };
        store.delay_ms = r.magnitude(0.1, 300.0);
        if r.happens(0.15) {
            store.stall_ms = r.magnitude(1.0, 2_000.0);
            store.stall_length_ms = r.magnitude(100.0, 40_000.0);
        }
    }

    fn draw_end(&mut self, r: &mut Random) {
        match r.within(0, 24) {
            0 => self.store.fails_at_block = Some(r.within(0, 5) as u32),
            1 => self.cancel_ms = Some(r.magnitude(1.0, 3_000.0) as u64),
            2 => {
                for way in [&mut self.forward, &mut self.reverse] {
                    way.outage_ms = r.magnitude(1.0, 2_000.0);
                    way.outage_length_ms = f64::INFINITY;
                }
            }
            3 => (self.forward.outage_ms, self.forward.outage_length_ms) = (r.magnitude(1.0, 2_000.0), f64::INFINITY),
            4 => (self.reverse.outage_ms, self.reverse.outage_length_ms) = (r.magnitude(1.0, 2_000.0), f64::INFINITY),
            _ => {}
        }
    }

    /// Changes one property. `rtt_ms`, `rate_mbps`, `loss`, `queue_ms` and `jitter_ms` mean both directions; `forward.` and
    /// `reverse.` in front of a path's key mean one; `store.` the store.
    ///
    /// # Errors
    /// [`WorldError`] for unknown keys and values that are none.
    pub fn set(&mut self, word: &str) -> Result<(), WorldError> {
        let (key, value) = word.split_once('=').ok_or_else(|| WorldError::NoValue(word.to_owned()))?;
        let bad = || WorldError::BadValue { key: key.to_owned(), value: value.to_owned() };
        if let Some(inner) = key.strip_prefix("forward.") {
            return set_way(&mut self.forward, inner, number(value).ok_or_else(bad)?);
        }
        if let Some(inner) = key.strip_prefix("reverse.") {
            return set_way(&mut self.reverse, inner, number(value).ok_or_else(bad)?);
        }
        match key {
            "suite" => self.suite = suite(value).ok_or_else(bad)?,
            "sender_provider" => self.sender_provider = provider(value).ok_or_else(bad)?,
            "receiver_provider" => self.receiver_provider = provider(value).ok_or_else(bad)?,
            "policy" => self.policy = policy(value).ok_or_else(bad)?,
            "tail_copies" => self.tail_copies = value.parse().map_err(|_| bad())?,
            _ => self.set_number(key, number(value).ok_or_else(bad)?)?,
        }
        Ok(())
    }

    fn set_number(&mut self, key: &str, value: f64) -> Result<(), WorldError> {
        match key {
            "seed" => self.seed = value as u64,
            "bytes" => self.bytes = value as u64,
            "files" => self.files = value as u32,
            "block_bytes" => self.block_bytes = value as usize,
            "chunk_bytes" => self.chunk_bytes = value as u16,
            "mtu" => self.chunk_bytes = tradewind_wire::limits::chunk_bytes_for_mtu(value as usize, false) as u16,
            "target_mbps" => self.target_mbps = value,
            "idle_timeout_ms" => self.idle_timeout_ms = value as u64,
            "wake_late_us" => self.wake_late_us = value as u64,
            "cancel_ms" => self.cancel_ms = Some(value as u64),
            "rtt_ms" => (self.forward.delay_ms, self.reverse.delay_ms) = (value / 2.0, value / 2.0),
            "store.window_blocks" => self.store.window_blocks = value as u32,
            "store.pool_blocks" => self.store.pool_blocks = value as u32,
            "store.rate_mbps" => self.store.rate_mbps = value,
            "store.delay_ms" => self.store.delay_ms = value,
            "store.stall_ms" => self.store.stall_ms = value,
            "store.stall_length_ms" => self.store.stall_length_ms = value,
            "store.fails_at_block" => self.store.fails_at_block = Some(value as u32),
            _ => {
                set_way(&mut self.forward, key, value)?;
                set_way(&mut self.reverse, key, value)?;
            }
        }
        Ok(())
    }

    /// A plain world changed by words, separated by blanks or lines; `#` starts a comment.
    ///
    /// # Errors
    /// As [`World::set`].
    pub fn parse(text: &str) -> Result<Self, WorldError> {
        let mut world = Self::plain(1);
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("");
            for word in line.split_whitespace() {
                world.set(word)?;
            }
        }
        Ok(world)
    }
}

fn set_way(way: &mut Way, key: &str, value: f64) -> Result<(), WorldError> {
    let place = match key {
        "rate_mbps" => &mut way.rate_mbps,
        "delay_ms" => &mut way.delay_ms,
        "jitter_ms" => &mut way.jitter_ms,
        "queue_ms" => &mut way.queue_ms,
        "loss" => &mut way.loss,
        "burst_start" => &mut way.burst_start,
        "burst_packets" => &mut way.burst_packets,
        "reorder" => &mut way.reorder,
        "reorder_ms" => &mut way.reorder_ms,
        "duplicate" => &mut way.duplicate,
        "corrupt" => &mut way.corrupt,
        "garbage" => &mut way.garbage,
        "outage_ms" => &mut way.outage_ms,
        "outage_length_ms" => &mut way.outage_length_ms,
        _ => return Err(WorldError::UnknownKey(key.to_owned())),
    };
    *place = value;
    Ok(())
}

/// A number, with `%`, `KiB`, `MiB` and `GiB` understood.
fn number(text: &str) -> Option<f64> {
    for (unit, factor) in [("%", 0.01), ("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)] {
        if let Some(value) = text.strip_suffix(unit) {
            return Some(value.parse::<f64>().ok()? * factor);
        }
    }
    text.parse().ok().filter(|value: &f64| *value >= 0.0)
}

fn suite(text: &str) -> Option<CipherSuite> {
    match text {
        "aes128" => Some(CipherSuite::Aes128Gcm),
        "aes256" => Some(CipherSuite::Aes256Gcm),
        _ => None,
    }
}

fn provider(text: &str) -> Option<Provider> {
    match text {
        "aws-lc" => Some(Provider::AwsLc),
        "rustcrypto" => Some(Provider::RustCrypto),
        _ => None,
    }
}

fn policy(text: &str) -> Option<Policy> {
    match text {
        "fixed" => Some(Policy::Fixed),
        "high" => Some(Policy::High),
        "fair" => Some(Policy::Fair),
        "low" => Some(Policy::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_describe_a_world() {
        let world =
            World::parse("rate_mbps=300 rtt_ms=100 # comment\nloss=5% queue_ms=100 bytes=256MiB reverse.loss=0.3 policy=low").unwrap();
        assert_eq!((world.bytes, world.policy), (256 << 20, Policy::Low));
        assert_eq!((world.forward.delay_ms, world.forward.rate_mbps, world.reverse.rate_mbps), (50.0, 300.0, 300.0));
        assert!((world.forward.loss - 0.05).abs() < 1e-12 && (world.reverse.loss - 0.3).abs() < 1e-12);
        assert_eq!(World::parse("speed=3"), Err(WorldError::UnknownKey("speed".into())));
        assert_eq!(World::parse("loss"), Err(WorldError::NoValue("loss".into())));
        assert_eq!(World::parse("loss=much"), Err(WorldError::BadValue { key: "loss".into(), value: "much".into() }));
    }

    #[test]
    fn a_seed_is_a_world() {
        assert_eq!(World::draw(7), World::draw(7));
        assert_ne!(World::draw(7), World::draw(8));
        assert!((0..500).any(|seed| World::draw(seed).bytes == 0), "empty files must occur");
    }
}
