//! What a world tells about the protocol's efficiency.

use std::fmt;

use tradewind_proto::receiver::ReceiverStatistics;
use tradewind_proto::sender::SenderStatistics;
use tradewind_wire::DataHeader;

use crate::run::{MS, SAMPLE_NS};
use crate::world::World;

/// Figures of a world that ended.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Hash of every datagram and its time: equal for equal worlds.
    pub trace_hash: u64,
    /// The sender heard DONE.
    pub completed: bool,
    /// When the sender heard DONE, ns.
    pub done_ns: u64,
    /// When the last block was whole at the receiver, ns.
    pub last_block_ns: u64,
    /// When a chunk was sent for the first time for the last time, ns.
    pub last_fresh_ns: u64,
    /// Received payload, cumulative bytes at the end of each 10 ms.
    pub samples: Vec<u64>,
    /// IP bytes sent by the sender.
    pub forward_bytes: u64,
    /// Packets sent by the sender.
    pub forward_packets: u64,
    /// IP bytes sent by the receiver.
    pub reverse_bytes: u64,
    /// Packets that the bottleneck's queue dropped.
    pub dropped_by_queue: u64,
    /// Packets lost at random or in outages.
    pub dropped_at_random: u64,
    /// Packets that the receiver dropped for want of a buffer.
    pub dropped_without_buffer: u64,
    /// Wait at the bottleneck, µs, of each packet.
    pub queue_us: Vec<u32>,
    /// Most block buffers that the receiver held at once.
    pub blocks_held_most: u32,
    /// The sender's counters at the end.
    pub sender: SenderStatistics,
    /// The receiver's counters at the end.
    pub receiver: ReceiverStatistics,
    newest_chunk: Option<(u32, u16)>,
}

impl Report {
    pub(crate) fn on_data(&mut self, now_ns: u64, data: Option<DataHeader>) {
        let Some(data) = data else { return };
        let chunk = (data.block.0, data.chunk);
        if self.newest_chunk.is_none_or(|newest| chunk > newest) {
            self.newest_chunk = Some(chunk);
            self.last_fresh_ns = now_ns;
        }
    }

    /// Payload rate that the path allows, bit/s: rate × (1 − loss) × payload share.
    #[must_use]
    pub fn bound_bps(world: &World) -> f64 {
        let payload = f64::from(world.chunk_bytes);
        world.forward.rate_mbps.min(world.target_mbps) * 1e6 * (1.0 - world.forward.mean_loss()) * payload / (payload + 73.0)
    }

    /// Payload rate of the whole transfer, start to DONE, bit/s.
    #[must_use]
    pub fn goodput_bps(&self, world: &World) -> f64 {
        world.bytes as f64 * 8e9 / self.done_ns.max(1) as f64
    }

    /// When the receiver first got 90 % of the bound over a round trip (at least 100 ms), ns.
    #[must_use]
    pub fn start_up_ns(&self, world: &World) -> Option<u64> {
        let round_trip_ms = world.forward.delay_ms + world.reverse.delay_ms;
        let width = ((round_trip_ms.max(100.0) * MS as f64) as u64).div_ceil(SAMPLE_NS) as usize;
        let want = 0.9 * Self::bound_bps(world) / 8.0 * (width as u64 * SAMPLE_NS) as f64 / 1e9;
        let at = |index: usize| self.samples[..=index].iter().rev().copied().find(|&bytes| bytes > 0).unwrap_or(0);
        (width..self.samples.len()).find(|&end| (at(end) - at(end - width)) as f64 >= want).map(|end| end as u64 * SAMPLE_NS)
    }

    /// Wait at the bottleneck below which this share of packets lies, ms.
    #[must_use]
    pub fn queue_ms(&self, share: f64) -> f64 {
        let mut sorted = self.queue_us.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).map_or(0.0, |&us| f64::from(us) / 1000.0)
    }

    /// From the last first transmission to the last block, in round trips beyond the half that it must take.
    #[must_use]
    pub fn tail_round_trips(&self, world: &World) -> f64 {
        let round_trip_ns = (world.forward.delay_ms + world.reverse.delay_ms) * MS as f64;
        let one_way_ns = world.forward.delay_ms * MS as f64;
        (self.last_block_ns.saturating_sub(self.last_fresh_ns) as f64 - one_way_ns) / round_trip_ns.max(1.0)
    }

    /// The figures as text.
    #[must_use]
    pub fn describe(&self, world: &World) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(world, &mut text);
        text
    }

    fn write(&self, world: &World, out: &mut impl fmt::Write) -> fmt::Result {
        let bound = Self::bound_bps(world);
        let goodput = self.goodput_bps(world);
        let ms = |ns: u64| ns as f64 / MS as f64;
        writeln!(out, "completed           {}", self.completed)?;
        writeln!(out, "goodput             {:.2} Mbit/s, {:.3} of the bound {:.2} Mbit/s", goodput / 1e6, goodput / bound, bound / 1e6)?;
        match self.start_up_ns(world) {
            Some(ns) => writeln!(out, "start-up            {:.0} ms to 90 % of the bound", ms(ns))?,
            None => writeln!(out, "start-up            90 % of the bound never reached")?,
        }
        writeln!(out, "queue delay         p50 {:.1} ms, p95 {:.1} ms", self.queue_ms(0.5), self.queue_ms(0.95))?;
        let sent = self.sender.data_packets_sent.max(1) as f64;
        let again = self.sender.data_packets_again;
        writeln!(out, "retransmitted       {:.4} of data packets ({again}), tail copies {}", again as f64 / sent, self.sender.tail_copies)?;
        writeln!(out, "duplicates received {:.4} of data packets", self.receiver.duplicate_chunks as f64 / sent)?;
        let drops = (self.dropped_by_queue, self.dropped_at_random);
        writeln!(out, "lost                queue {} ({:.4}), random {}", drops.0, drops.0 as f64 / sent, drops.1)?;
        writeln!(out, "spurious losses     {}", self.sender.spurious_losses)?;
        let first = ms(self.last_block_ns.saturating_sub(self.last_fresh_ns));
        writeln!(
            out,
            "tail                {:.2} round trips ({first:.0} ms from the last first transmission to the last block)",
            self.tail_round_trips(world)
        )?;
        writeln!(out, "done                {:.0} ms; last block {:.0} ms", ms(self.done_ns), ms(self.last_block_ns))?;
        writeln!(out, "feedback            {:.5} of the forward bytes", self.reverse_bytes as f64 / self.forward_bytes.max(1) as f64)?;
        writeln!(out, "probe timeouts      {}", self.sender.probe_timeouts)?;
        writeln!(out, "blocks held most    {} of {}", self.blocks_held_most, world.store.window_blocks)?;
        writeln!(
            out,
            "end                 rate {:.1} Mbit/s, random loss {:.4}, limiter {:?}",
            self.sender.rate_bytes_per_s as f64 / 125_000.0,
            self.sender.random_loss,
            self.sender.limiter
        )?;
        writeln!(out, "trace               {:016x}", self.trace_hash)
    }

    /// Received payload rate second by second (or finer), as share of the bound.
    #[must_use]
    pub fn timeline(&self, world: &World, step_ms: u64) -> String {
        let bound = Self::bound_bps(world) / 8.0;
        let width = (step_ms * MS / SAMPLE_NS).max(1) as usize;
        let mut before = 0;
        let mut text = String::new();
        for (index, piece) in self.samples.chunks(width).enumerate() {
            let now = piece.iter().rev().copied().find(|&bytes| bytes > 0).unwrap_or(before);
            let rate = (now - before) as f64 / (width as f64 * SAMPLE_NS as f64 / 1e9);
            text.push_str(&format!("{:>8} ms {:.3}\n", index as u64 * width as u64 * SAMPLE_NS / MS, rate / bound));
            before = now;
        }
        text
    }
}
