//! The messages. Change [`PROTOCOL_VERSION`] with any change of meaning here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Browse, Browsed, Destination, ErrorCode, LaneSecret, Select, Verified, Verify};

/// Version of this set of messages. Both processes come from one release, so the rule is plain: equal or refused.
pub const PROTOCOL_VERSION: u32 = 6;

/// Orders in one message: they fit a frame ([`crate::FRAME_BYTES_MAX`]) with room to spare.
pub const LANE_ORDERS_MAX: usize = 512;

/// Which process speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `tradewindd`.
    Control,
    /// `tradewind-engine`.
    Engine,
}

/// First frame in each direction. Unknown fields are ignored here, and only here, so that any two versions can name each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol: u32,
    /// Which process this is.
    pub role: Role,
    /// Name and release, for messages to people: `tradewind-engine 0.1.0`.
    pub software: String,
}

/// Control process → engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToEngine {
    /// Announce a lane. Answered by [`FromEngine::LaneOpened`] or [`FromEngine::LaneRefused`] with the same lane id.
    OpenLane(Box<OpenLane>),
    /// End a lane and abandon what it has not finished. Answered by [`FromEngine::LaneFailed`] with the same code, unless the
    /// lane ended by itself meanwhile.
    CloseLane(LaneClosed),
    /// How senders should send from now on, at most [`LANE_ORDERS_MAX`] at once. For each lane those with the largest number hold;
    /// one that has ended ignores them. A sender's obedience shows in [`FromEngine::LaneReport`].
    LaneOrders(Vec<LaneOrders>),
    /// What lanes between the same two hosts do, at most [`LANE_ORDERS_MAX`] at once. For each lane the largest number holds.
    LaneGroups(Vec<LaneGroup>),
    /// How the engine's own sender of a lane begins; sent before its client can speak.
    LaneRate(Box<LaneRate>),
    /// What the client of a lane on which the engine sends has already.
    Have {
        /// Which lane.
        lane_id: u64,
        /// A file with a list as in [`DurableList`]; the engine removes it when it has read it.
        path: PathBuf,
    },
    /// List, look at or remove objects. Answered by [`FromEngine::Browsed`].
    Browse(Box<Browse>),
    /// Read objects and compare them with a manifest. Answered by [`FromEngine::Verified`] until that says that it has ended.
    Verify(Box<Verify>),
    /// Nobody wants that answer any more; none comes after this but what is on its way.
    StopVerify {
        /// [`Verify::request_id`].
        request_id: u64,
    },
    /// Take no new lanes, finish those that run, then exit with status 0.
    Drain,
    /// Answer with [`FromEngine::Stats`].
    StatsRequest,
}

/// Engine → control process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromEngine {
    /// Sent once after the hello, when sockets, XDP program and workers are up.
    Ready(Ready),
    /// The lane exists; packets may come.
    LaneOpened(LaneAccepted),
    /// The lane was not opened: the destination or a limit forbids it.
    LaneRefused(LaneClosed),
    /// How far a lane is; about twice a second while something changes.
    Progress(Progress),
    /// What a lane's sender says of itself: at once when it has obeyed orders or its limiter changed, else twice a second, ten
    /// times a second under orders, and two to ten times of one that shares its path with others.
    LaneReport(LaneReport),
    /// One file is durable at its destination.
    FileDone(FileDone),
    /// The lane ended well: every file is durable. Its last message.
    LaneDone(LaneReceipt),
    /// The lane ended without. Its last message.
    LaneFailed(LaneClosed),
    /// Answer to [`ToEngine::Browse`].
    Browsed(Box<Browsed>),
    /// Answer to [`ToEngine::Verify`].
    Verified(Box<Verified>),
    /// Answer to [`ToEngine::StatsRequest`].
    Stats(Stats),
}

/// AEAD of a lane's packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-128-GCM, the default.
    #[default]
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
    /// AES-256-GCM, by policy.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
        })
    }
}

/// Behaviour beside other traffic (transport.md, "Rate control").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatePolicy {
    /// Sends at the target rate whatever happens.
    Fixed,
    /// Adaptive, with twice the weight of `fair`.
    High,
    /// Adaptive, shares evenly.
    #[default]
    Fair,
    /// Adaptive, yields to everything else.
    Low,
}

/// What keeps a transfer from going faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limiter {
    /// The path.
    Network,
    /// The receiver's storage.
    Storage,
    /// The target rate.
    Target,
    /// The transfer's share of the server's cap.
    Lease,
    /// Its sender has not enough to send.
    Source,
}

impl Limiter {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Target => "target",
            Self::Lease => "lease",
            Self::Source => "source",
        }
    }
}

/// How a lane's sender should send. Each order says everything. Rates in kbit/s of IP packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneOrders {
    /// Which lane.
    pub lane_id: u64,
    /// Grows with each order, from 1; 0 is what was agreed at set-up.
    pub number: u32,
    /// Behaviour beside other traffic.
    pub policy: RatePolicy,
    /// Upper bound; `None`: none.
    pub target_kbps: Option<u32>,
    /// Lower bound of the network controller; 0: none.
    pub minimum_kbps: u32,
    /// Share of an aggregate cap; `None`: none; 0: no data for now.
    pub lease_kbps: Option<u32>,
}

/// What the lanes between a lane's two hosts do that the network limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneGroup {
    /// Which lane.
    pub lane_id: u64,
    /// Grows with each change, from 1.
    pub number: u32,
    /// Its part, by weight, of what all of them send together, kbit/s of IP packets.
    pub share_kbps: u32,
    /// How many they are, this one included; 1: no others.
    pub lanes: u16,
}

/// What a lane's sender says of itself. Rates in kbit/s of IP packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneReport {
    /// Which lane.
    pub lane_id: u64,
    /// Number of the newest orders that it has obeyed.
    pub orders: u32,
    /// What limits it, if it says.
    pub limiter: Option<Limiter>,
    /// Rate allowed now.
    pub rate_kbps: u32,
    /// Sent in the last tenth of a second or so.
    pub sent_kbps: u32,
    /// What it would send without a lease; `None`: as much as it can get.
    pub wanted_kbps: Option<u32>,
    /// Smoothed round-trip time, microseconds; 0 while unknown.
    pub round_trip_us: u32,
    /// Address that its packets come from.
    pub peer: IpAddr,
    /// How long ago the last of them came, milliseconds.
    pub silent_ms: u32,
}

/// A lane to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenLane {
    /// Transfer this lane belongs to; for logs.
    pub transfer_id: String,
    /// The user whose transfer it is.
    pub owner: String,
    /// 64 random bits, chosen by the control process.
    pub lane_id: u64,
    /// Root of the lane's packet keys.
    pub secret: LaneSecret,
    /// AEAD of its packets.
    pub cipher: Cipher,
    /// Size limit of a block's payload, bytes: 64 KiB to 4 MiB.
    pub block_bytes: u32,
    /// Payload bytes of a DATA packet at most; the engine takes less if its interface's MTU does. 0: no limit but that.
    pub chunk_bytes: u32,
    /// Blocks the sender may have open at the same time; 0 lets the engine choose.
    pub credit_blocks: u32,
    /// What it is for.
    pub job: Job,
    /// Of a lane that takes files: another server's engine, which has the same lane and sends on it once it is spoken to.
    pub call: Option<SocketAddr>,
}

/// What a lane is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Job {
    /// Take files from the client.
    Receive(Receive),
    /// Send objects to the client: a folder, or one object, or the folder of that name.
    Send {
        /// Which.
        source: Destination,
        /// And which of these.
        select: Select,
        /// The client says what it has already, with [`ToEngine::Have`], before it speaks on the lane.
        resume: bool,
    },
    /// Copy objects from store to store; nothing is sent over the lane.
    Copy {
        /// Which objects.
        source: Destination,
        /// And which of these.
        select: Select,
        /// Where they go.
        into: Receive,
    },
}

/// Where files go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receive {
    /// Store and names.
    pub destination: Destination,
    /// Replace what is there.
    pub overwrite: bool,
    /// Tell what earlier transfers have left of the same destination, and go on with it.
    pub resume: bool,
    /// What the client makes of its files, if not just their bytes: what another variant left is not gone on with.
    pub variant: u64,
}

impl Job {
    /// Where files go, if the engine stores them.
    #[must_use]
    pub const fn receives(&self) -> Option<&Receive> {
        match self {
            Self::Receive(into) | Self::Copy { into, .. } => Some(into),
            Self::Send { .. } => None,
        }
    }
}

/// How a lane's sender begins where that is the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneRate {
    /// What was agreed; its number is 0.
    pub orders: LaneOrders,
    /// What the lanes between its two hosts do, if there are others.
    pub group: Option<LaneGroup>,
}

/// How much of a transfer is durable already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableSummary {
    /// Whole files.
    pub files: u64,
    /// Bytes in them.
    pub files_bytes: u64,
    /// Parts of files that are not whole.
    pub parts: u64,
    /// Bytes in them.
    pub parts_bytes: u64,
}

/// A lane and why it ended, or should end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneClosed {
    /// Which lane.
    pub lane_id: u64,
    /// Why, for programs.
    pub code: ErrorCode,
    /// Why, for people: what happened, where.
    pub text: String,
}

/// The engine is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Release of the engine, `0.1.0`.
    pub version: String,
    /// Where it takes packets. An unspecified address (`0.0.0.0`) means every address of the machine.
    pub endpoints: Vec<DataEndpoint>,
    /// How packets come in.
    pub xdp: XdpStatus,
    /// Number of pinned workers.
    pub workers: u32,
    /// Size of the block pool, bytes.
    pub pool_bytes: u64,
}

/// An address on which the engine takes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataEndpoint {
    /// IP address and UDP port.
    pub address: SocketAddr,
}

/// Whether AF_XDP is in use, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XdpStatus {
    /// Attach mode.
    pub mode: XdpMode,
    /// Why AF_XDP is not used, or why not in a better mode.
    pub reason: Option<String>,
    /// The driver moves frames without a copy.
    pub zero_copy: bool,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// In the driver.
    Driver,
    /// In the kernel's generic receive path.
    Generic,
    /// Not at all: kernel UDP.
    None,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
            Self::None => "none",
        })
    }
}

/// The lane's final parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneAccepted {
    /// Which lane.
    pub lane_id: u64,
    /// Payload bytes of a DATA packet, never 0.
    pub chunk_bytes: u32,
    /// Blocks the sender may open at first, never 0.
    pub credit_blocks: u32,
    /// What is durable already, if [`OpenLane::resume`] asked for it.
    pub durable: Option<DurableList>,
}

/// What is durable already, in a file: it may be long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DurableList {
    /// How much it is.
    pub summary: DurableSummary,
    /// The list, a JSON object a line, as the REST interface gives it; the engine removes it when the lane ends. `None` if it is empty.
    pub path: Option<PathBuf>,
}

/// Sums of a lane since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneTotals {
    /// Payload bytes of distinct chunks received.
    pub bytes_received: u64,
    /// File bytes that the store has confirmed.
    pub bytes_durable: u64,
    /// Authenticated packets that came through AF_XDP.
    pub packets_afxdp: u64,
    /// Authenticated packets that came through the kernel's UDP socket.
    pub packets_kernel: u64,
    /// Authenticated DATA packets whose chunk was there already.
    pub packets_duplicate: u64,
    /// Packet numbers reported missing in feedback.
    pub packets_lost: u64,
    /// Packets that did not authenticate.
    pub packets_rejected: u64,
    /// Blocks received whole.
    pub blocks_complete: u64,
    /// Blocks the store has confirmed.
    pub blocks_durable: u64,
    /// Blocks that have waited on the server's disk because the store was slower than the network.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blocks_staged: u64,
    /// Files durable.
    pub files_durable: u64,
}

/// Left out where it says nothing: servers and clients of builds without it do not know it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's own shape")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How far a lane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Which lane.
    pub lane_id: u64,
    /// Sums so far.
    pub totals: LaneTotals,
}

/// A file that is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDone {
    /// Which lane.
    pub lane_id: u64,
    /// Key or path, relative to the store's root.
    pub path: String,
    /// Size, bytes.
    pub size: u64,
    /// CRC-64/NVME of the whole file.
    pub crc64: u64,
    /// Entity tag the store gave it, if it gives any.
    pub etag: Option<String>,
}

/// A lane that ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneReceipt {
    /// Which lane.
    pub lane_id: u64,
    /// Number of files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// From the first authenticated packet to the last confirmation, milliseconds.
    pub elapsed_ms: u64,
    /// Final sums.
    pub totals: LaneTotals,
    /// Objects that could not be read and were left out, of a download or copy.
    pub files_failed: u64,
    /// Why the first of these was.
    pub first_failure: Option<String>,
}

/// The engine's own figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Lanes open now.
    pub lanes_open: u32,
    /// Bytes of the block pool in use.
    pub pool_bytes_used: u64,
    /// CPU time of the process, seconds.
    pub cpu_user_seconds: f64,
    /// CPU time the kernel spent for the process, seconds.
    pub cpu_system_seconds: f64,
    /// Counters since start, by name: every drop point has one.
    pub counters: BTreeMap<String, u64>,
    /// Latencies by stage.
    pub latencies: Vec<StageLatency>,
}

/// Latency distribution of one stage since the last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageLatency {
    /// Stage of the loop: `receive_to_open`, `block_complete_to_durable`, ….
    pub stage: String,
    /// Samples.
    pub count: u64,
    /// Median, microseconds.
    pub p50_us: f64,
    /// 90th percentile, microseconds.
    pub p90_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// 99.9th percentile, microseconds.
    pub p999_us: f64,
    /// Largest, microseconds.
    pub max_us: f64,
}
