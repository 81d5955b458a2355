//! One upload, from sources to the receiver's word that everything is durable.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use tradewind_fabric::BlockPool;
use tradewind_proto::block::BlockWriter;
use tradewind_proto::crypto::{LaneSecret, Provider};
use tradewind_proto::rate::{Group, Policy, RateConfig};
use tradewind_proto::sender::{Sender, SenderConfig};
use tradewind_wire::LaneId;
use tradewind_wire::limits::{BLOCK_PAYLOAD_MAX, BLOCK_PAYLOAD_MIN, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, chunk_bytes_for_mtu, packet_bytes};

use crate::durable::Durable;
use crate::error::{SourceError, UploadError};
use crate::lane::{Course, Lane};
use crate::link::ServerLink;
use crate::progress::{Progress, UploadReport};
use crate::source::{Reader, Sources, Tally};
use crate::{Cipher, worker};

/// Most memory that blocks on their way may take, bytes, whatever the receiver would allow.
pub(crate) const POOL_BYTES_MAX: usize = 512 << 20;
/// Blocks read ahead of the network.
const BLOCKS_AHEAD: usize = 4;
/// Blocks that an engine allows a lane in the end where nobody asks for another number and it has the memory: it begins with fewer. What is not used
/// takes no memory here.
pub const CREDIT_BLOCKS_DEFAULT: u32 = 256;
/// Fewest blocks of a lane among many: one is read, one is sent, one waits for its verdict.
const SHARE_BLOCKS_MIN: usize = 3;
/// Fewest blocks with which reading, sending and waiting for verdicts overlap.
const POOL_BLOCKS_MIN: usize = BLOCKS_AHEAD + 4;

/// What the server's control process said of the lane.
#[derive(Clone, Debug)]
pub struct LaneOffer {
    /// The lane.
    pub lane_id: u64,
    /// Its 32-byte secret.
    pub secret: [u8; 32],
    /// Where to send packets; the first is used.
    pub endpoints: Vec<SocketAddr>,
    /// Payload bytes of a block.
    pub block_bytes: u32,
    /// Payload bytes of a DATA packet.
    pub chunk_bytes: u32,
    /// Blocks that may be opened at first.
    pub credit_blocks: u32,
    /// The cipher.
    pub cipher: Cipher,
}

impl LaneOffer {
    /// Where to send packets.
    pub(crate) fn endpoint(&self) -> Result<SocketAddr, UploadError> {
        self.endpoints.first().copied().ok_or_else(|| UploadError::Offer("it names no address".to_owned()))
    }

    /// The size of its chunks, if the offer can be used.
    pub(crate) fn check(&self) -> Result<u16, UploadError> {
        let (block, chunk) = (self.block_bytes as usize, self.chunk_bytes as usize);
        if !(BLOCK_PAYLOAD_MIN..=BLOCK_PAYLOAD_MAX).contains(&block) {
            return Err(UploadError::Offer(format!("blocks of {block} bytes are outside {BLOCK_PAYLOAD_MIN} to {BLOCK_PAYLOAD_MAX}")));
        }
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk) {
            return Err(UploadError::Offer(format!("chunks of {chunk} bytes are outside {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}")));
        }
        if self.credit_blocks == 0 {
            return Err(UploadError::Offer("it allows no blocks".to_owned()));
        }
        u16::try_from(chunk).map_err(|_| UploadError::Offer("chunk size".to_owned()))
    }
}

/// How fast to send.
#[derive(Clone, Copy, Debug)]
pub struct RateOptions {
    /// The policy.
    pub policy: Policy,
    /// Cap, bytes/s of IP packets; `None`: as fast as the path takes. `Policy::Fixed` needs it.
    pub target_bytes_per_s: Option<u64>,
    /// Never slower than this, bytes/s of IP packets.
    pub minimum_bytes_per_s: Option<u64>,
    /// Share of the server's cap to begin with, bytes/s of IP packets; 0: nothing yet. `None`: no cap.
    pub lease_bytes_per_s: Option<u64>,
    /// What the lanes between these two hosts do, if there are others.
    pub group: Option<Group>,
    /// Round-trip time as the set-up over HTTPS saw it, if it did.
    pub initial_round_trip: Option<Duration>,
}

/// An upload that has been agreed with the server.
pub struct Upload {
    /// The lane.
    pub lane: LaneOffer,
    /// What to send.
    pub sources: Sources,
    /// What of it the destination has already.
    pub durable: Durable,
    /// Told of each file that is left out because it cannot be read or changed meanwhile; on the reading thread.
    pub on_problem: Box<dyn FnMut(SourceError) + Send>,
    /// How fast.
    pub rate: RateOptions,
    /// Set it to stop.
    pub cancel: Arc<AtomicBool>,
    /// Silence of the receiver after which the transfer fails.
    pub idle_timeout: Duration,
}

impl Upload {
    /// Sends everything and waits until it is durable; blocks the calling thread. `progress` is called about five times a
    /// second.
    ///
    /// # Errors
    /// [`UploadError`]; the receiver has been told then, as far as it could be reached, and stores nothing half.
    pub fn run(self, progress: impl FnMut(&Progress)) -> Result<UploadReport, UploadError> {
        let link = ServerLink::open(self.lane.endpoint()?, usize::from(self.lane.check()?))?;
        let waker = link.waker();
        let lane = self.begin(1, move || waker.wake())?;
        worker::run(link, lane, progress)
    }

    /// One of `lanes` that share the memory for blocks. Starts the reading thread, which calls `on_block` when it has handed a block over and when there are no more.
    pub(crate) fn begin(self, lanes: usize, on_block: impl Fn() + Send + 'static) -> Result<Lane, UploadError> {
        let (endpoint, chunk_bytes) = (self.lane.endpoint()?, self.lane.check()?);
        let payload_max = self.lane.block_bytes as usize;
        let pool = block_pool(payload_max, self.lane.credit_blocks, lanes)?;
        let config = self.sender_config(chunk_bytes, endpoint);
        let (packet_bytes, now_ns) = (config.rate.packet_bytes, tradewind_fabric::clock::now_ns());
        let mut sender = Sender::new(config, now_ns);
        if let Some(lease) = self.rate.lease_bytes_per_s {
            sender.set_lease(lease);
        }
        if let Some(group) = self.rate.group {
            sender.set_group(now_ns, group);
        }
        let (blocks, ready) = crossbeam::channel::bounded(BLOCKS_AHEAD);
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
        let reader = Reader {
            sealing: self.sources.sealing(),
            pool,
            payload_max,
            blocks,
            on_block: Box::new(on_block),
            stop: Arc::clone(&stop),
            durable: self.durable,
            tally: Arc::clone(&tally),
            on_problem: self.on_problem,
        };
        let (found, sources) = (self.sources.found(), self.sources);
        let reading = thread::Builder::new()
            .name("source-reader".to_owned())
            .spawn(move || reader.run(sources))
            .map_err(|source| UploadError::Local { what: "cannot start the reading thread", source: source.into() })?;
        let (cancel, idle_timeout, course) = (self.cancel, self.idle_timeout, Course::begin(now_ns));
        let reading = Some(reading);
        Ok(Lane { sender, ready, reading, stop, found, tally, cancel, idle_timeout, endpoint, payload_max, packet_bytes, course })
    }

    fn sender_config(&self, chunk_bytes: u16, endpoint: SocketAddr) -> SenderConfig {
        let rate = RateConfig {
            policy: self.rate.policy,
            target_bytes_per_s: self.rate.target_bytes_per_s.unwrap_or(u64::MAX),
            minimum_bytes_per_s: self.rate.minimum_bytes_per_s.unwrap_or(0),
            packet_bytes: packet_bytes(usize::from(chunk_bytes), endpoint.is_ipv6()) as u32,
            seed: self.lane.lane_id,
            initial_rtt_ns: self.rate.initial_round_trip.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(0)),
        };
        SenderConfig {
            lane: LaneId(self.lane.lane_id),
            secret: LaneSecret(self.lane.secret),
            suite: self.lane.cipher,
            provider: Provider::AwsLc,
            chunk_bytes,
            blocks_allowed: self.lane.credit_blocks,
            tail_copies: rate.policy != Policy::Low,
            rate,
            idle_timeout_ns: u64::try_from(self.idle_timeout.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// Payload bytes of a DATA packet in IP packets of so many bytes at most, for a lane to this address; `None` if a lane cannot work with so little.
#[must_use]
pub fn chunk_bytes_for_packets(packet_bytes: usize, endpoint: IpAddr) -> Option<u32> {
    let chunk_bytes = chunk_bytes_for_mtu(packet_bytes, endpoint.is_ipv6());
    u32::try_from(chunk_bytes).ok().filter(|_| chunk_bytes >= CHUNK_BYTES_MIN)
}

fn block_pool(payload_max: usize, credit_blocks: u32, lanes: usize) -> Result<BlockPool, UploadError> {
    let slot = BlockWriter::image_bytes_max(payload_max);
    let wanted = CREDIT_BLOCKS_DEFAULT.max(credit_blocks) as usize + BLOCKS_AHEAD;
    let least = if lanes > 1 { SHARE_BLOCKS_MIN } else { POOL_BLOCKS_MIN };
    let slots = wanted.min(POOL_BYTES_MAX / lanes.max(1) / slot).max(least);
    BlockPool::new(slots, slot).map_err(|source| UploadError::Local { what: "cannot set up memory for blocks", source: source.into() })
}
