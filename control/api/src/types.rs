//! What travels as JSON. Requests refuse unknown fields, so that a misspelt option is an error; answers may grow fields.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
pub use tradewind_ipc::RatePolicy;
use tradewind_ipc::{Cipher, ErrorCode, FileDone, LaneSecret, Select, XdpStatus};

use crate::rates::{RateGrant, RateStatus};

/// `POST /v1/transfers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// Where to: `s3://bucket/prefix/`, `file:///absolute/path/` or `STORE:path/`. Ends in `/`: the files keep their names below
    /// it. Does not: the one file gets exactly this name. Left out for a download.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Where from, for a download to the client or, beside a destination, for a copy from store to store. Written like a destination. Ends in
    /// `/`: everything below it. Does not: this object, or the folder of that name, which files then keep in their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Replace what is there. Default false.
    #[serde(default)]
    pub overwrite: bool,
    /// Number of files, if known. Required to be 1 for a destination without a trailing `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes of all files, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How fast.
    #[serde(default)]
    pub rate: RateRequest,
    /// AEAD of the packets. Default AES-128-GCM.
    #[serde(default)]
    pub cipher: Cipher,
    /// What of earlier transfers is not to be sent again. Default `none`.
    #[serde(default)]
    pub resume: ResumePolicy,
    /// What the client makes of its files, if not just their bytes (encryption, say); what another variant left of the same file is not gone on
    /// with. 0: their bytes. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub variant: u64,
    /// Where the files come from, if not from the client: a lane on which another server is about to send, as that server offered it to the
    /// client. Only with a destination and without a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RemoteLane>,
    /// Which objects of a download or copy; the server leaves the others out as it lists them. Default all.
    #[serde(default, skip_serializing_if = "Select::is_everything")]
    pub select: Select,
    /// Payload bytes of a DATA packet at most, because the client's path takes no more. Default: what fits the MTU of the server's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_bytes_max: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What is taken for durable already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResumePolicy {
    /// Nothing.
    #[default]
    None,
    /// Files and parts of files that earlier transfers brought to the same destination, if they are still there, and the source has the
    /// same size and modification time. See [`DurableEntry`].
    Attributes,
}

/// How fast a transfer may and should go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRequest {
    /// How it behaves beside other traffic. Default `fair`.
    #[serde(default)]
    pub policy: RatePolicy,
    /// Upper bound, bits per second; with `fixed` the rate itself and required. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_rate_bps: Option<u64>,
    /// Lower bound, bits per second, kept even when the network is full. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_rate_bps: Option<u64>,
}

/// Answer to [`SubmitRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitResponse {
    /// Name of the transfer in all later requests.
    pub transfer_id: String,
    /// What to send to. One now; several when one core or node is not enough.
    pub lanes: Vec<LaneOffer>,
    /// Bounds that the server will enforce.
    pub limits: TransferLimits,
    /// What of the transfer is durable already, with [`ResumePolicy::Attributes`]; `GET /v1/transfers/{id}/durable` lists it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<DurableSummary>,
}

/// How much is durable already.
pub use tradewind_ipc::DurableSummary;

/// A line of `GET /v1/transfers/{id}/durable` (`application/x-ndjson`). Files are named by the first half of SHA-256 over size,
/// modification time (nanoseconds since 1970; both 8 bytes, big-endian) and the name below the destination, 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DurableEntry {
    /// Bytes of a file that is not whole.
    Part {
        /// The file.
        #[serde(with = "hex_fingerprint")]
        file: [u8; 16],
        /// Where they begin.
        offset: u64,
        /// How many.
        length: u64,
        /// CRC-64/NVME of them, 16 hexadecimal digits, where it is told.
        #[serde(default, with = "hex_crc", skip_serializing_if = "Option::is_none")]
        crc64: Option<u64>,
    },
    /// A whole file.
    File {
        /// The file.
        #[serde(with = "hex_fingerprint")]
        file: [u8; 16],
        /// CRC-64/NVME of its contents, 16 hexadecimal digits, where it is told.
        #[serde(default, with = "hex_crc", skip_serializing_if = "Option::is_none")]
        crc64: Option<u64>,
        /// Ranges of a large file whose checksums are known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        samples: Vec<SampleEntry>,
    },
}

/// A range of a file and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleEntry {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// CRC-64/NVME of them, 16 hexadecimal digits.
    #[serde(default, with = "hex_crc", skip_serializing_if = "Option::is_none")]
    pub crc64: Option<u64>,
}

/// Bounds that the server enforces on a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferLimits {
    /// A transfer that makes no progress for so long is ended, seconds.
    pub idle_timeout_s: u64,
}

/// A lane opened for this transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneOffer {
    /// 64-bit lane id, 16 hexadecimal digits (JSON numbers lose bits above 2^53).
    #[serde(with = "hex_u64")]
    pub lane_id: u64,
    /// Root of the lane's packet keys, base64.
    pub secret: LaneSecret,
    /// Where to send UDP packets, best first.
    pub endpoints: Vec<OfferedEndpoint>,
    /// Size limit of a block's payload, bytes.
    pub block_bytes: u32,
    /// Payload bytes of a DATA packet.
    pub chunk_bytes: u32,
    /// Blocks that may be open at first.
    pub credit_blocks: u32,
    /// AEAD of the packets.
    pub cipher: Cipher,
    /// How fast to begin; orders on the lane may change it at any time.
    pub rate: RateGrant,
}

/// A lane of another server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteLane {
    /// [`LaneOffer::lane_id`] there.
    #[serde(with = "hex_u64")]
    pub lane_id: u64,
    /// [`LaneOffer::secret`] there.
    pub secret: LaneSecret,
    /// Where its engine takes packets.
    pub address: SocketAddr,
    /// [`LaneOffer::block_bytes`] there.
    pub block_bytes: u32,
    /// [`LaneOffer::chunk_bytes`] there.
    pub chunk_bytes: u32,
}

impl LaneOffer {
    /// Addresses to send to. `server` is the address of the HTTPS connection's other end, which stands in where the server
    /// listens on every address and so names none.
    #[must_use]
    pub fn socket_addresses(&self, server: IpAddr) -> Vec<SocketAddr> {
        self.endpoints.iter().map(|endpoint| SocketAddr::new(endpoint.ip.unwrap_or(server), endpoint.port)).collect()
    }
}

/// Where the engine takes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedEndpoint {
    /// IP address; `None` means the address at which this HTTPS connection reached the server.
    pub ip: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
}

/// Where a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferState {
    /// The engine is asked to open its lane.
    Opening,
    /// The lane is open, nothing has arrived.
    Waiting,
    /// Data arrives.
    Running,
    /// Every file is durable.
    Done,
    /// Ended without; see [`TransferStatus::outcome`].
    Failed,
    /// Ended because a user asked for it.
    Cancelled,
}

impl TransferState {
    /// Nothing will change any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// `GET /v1/transfers/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Name of the transfer.
    pub transfer_id: String,
    /// Where it stands.
    pub state: TransferState,
    /// Destination as submitted; empty for a download.
    pub destination: String,
    /// Source as submitted, of a download or copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// When it was submitted, milliseconds since 1970 (Unix time).
    pub submitted_unix_ms: u64,
    /// How long it took, or has taken so far, milliseconds.
    pub elapsed_ms: u64,
    /// Number of files announced.
    pub files_announced: Option<u64>,
    /// Bytes announced.
    pub bytes_announced: Option<u64>,
    /// Sums of the receiving end.
    pub totals: Totals,
    /// How fast it may and does go.
    #[serde(default)]
    pub rate: RateStatus,
    /// Files that are durable, the latest [`crate::limits::STATUS_FILES_MAX`] of them.
    #[serde(default)]
    pub files: Vec<FileStatus>,
    /// Objects that could not be read and were left out, of a download or copy that is done.
    #[serde(default)]
    pub files_failed: u64,
    /// Why the first of these was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// Why it ended, for `failed` and `cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// Why a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened, where.
    pub detail: String,
    /// For people: what to do next.
    pub hint: String,
}

/// Sums of the receiving end since the transfer began.
pub type Totals = tradewind_ipc::LaneTotals;
/// One durable file. Its lane id is 0 in answers to users.
pub type FileStatus = FileDone;

/// `GET /v1/transfers`: newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferList {
    /// At most [`crate::limits::LIST_MAX`], without their files.
    pub transfers: Vec<TransferStatus>,
}

/// `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether transfers can be submitted.
    pub status: HealthState,
    /// Release of the control process; only with credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The engine, if it is up; only with credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineHealth>,
    /// Why the engine is not up; only with credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_problem: Option<String>,
}

/// Whether the server can take transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Yes.
    Ok,
    /// Not now: the engine is starting or restarting.
    EngineDown,
    /// Not any more: the server is shutting down.
    Draining,
}

/// The engine as it reported itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineHealth {
    /// Release.
    pub version: String,
    /// Addresses on which it takes packets.
    pub endpoints: Vec<SocketAddr>,
    /// Whether AF_XDP is in use, and why not.
    pub xdp: XdpStatus,
    /// Pinned workers.
    pub workers: u32,
    /// Size of the block pool, bytes.
    pub pool_bytes: u64,
    /// How often it was started since the control process was.
    pub starts: u64,
    /// Transfers that have not ended.
    pub transfers_active: u64,
}

/// A `u64` of exactly 16 hexadecimal digits.
fn parse_hex_u64(text: &str) -> Option<u64> {
    let well_formed = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    well_formed.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

mod hex_fingerprint {
    //! 16 bytes as 32 hexadecimal digits.

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(*value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        let text = String::deserialize(deserializer)?;
        let well_formed = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = well_formed.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        value.map(u128::to_be_bytes).ok_or_else(|| D::Error::custom("a fingerprint is 32 hexadecimal digits"))
    }
}

mod hex_crc {
    //! A `u64` that may be missing, as 16 hexadecimal digits.

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(&format_args!("{value:016x}")),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        super::parse_hex_u64(&text).map(Some).ok_or_else(|| D::Error::custom("a checksum is 16 hexadecimal digits"))
    }
}

mod hex_u64 {
    //! A `u64` as 16 hexadecimal digits.

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_hex_u64(&text).ok_or_else(|| D::Error::custom("a lane id is 16 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durable_lines_are_read_back() {
        let file = [0xab; 16];
        let hex = "ab".repeat(16);
        for (entry, line) in [
            (DurableEntry::File { file, crc64: None, samples: Vec::new() }, format!(r#"{{"file":"{hex}"}}"#)),
            (
                DurableEntry::File { file, crc64: Some(10), samples: Vec::new() },
                format!(r#"{{"file":"{hex}","crc64":"000000000000000a"}}"#),
            ),
            (
                DurableEntry::File { file, crc64: None, samples: vec![SampleEntry { offset: 5, length: 7, crc64: Some(9) }] },
                format!(r#"{{"file":"{hex}","samples":[{{"offset":5,"length":7,"crc64":"0000000000000009"}}]}}"#),
            ),
            (DurableEntry::Part { file, offset: 5, length: 7, crc64: None }, format!(r#"{{"file":"{hex}","offset":5,"length":7}}"#)),
        ] {
            assert_eq!(serde_json::to_string(&entry).unwrap(), line);
            assert_eq!(serde_json::from_str::<DurableEntry>(&line).unwrap(), entry);
        }
        for bad in [r#"{"file":"ab"}"#, r#"{"file":7}"#, "{}"] {
            assert!(serde_json::from_str::<DurableEntry>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lane_offer_keeps_all_64_bits_and_hides_its_secret() {
        let offer = LaneOffer {
            lane_id: u64::MAX - 1,
            secret: LaneSecret::new([1; 32]),
            endpoints: vec![OfferedEndpoint { ip: None, port: 33001 }],
            block_bytes: 1 << 20,
            chunk_bytes: 1400,
            credit_blocks: 8,
            cipher: Cipher::Aes128Gcm,
            rate: RateGrant::default(),
        };
        let json = serde_json::to_value(&offer).unwrap();
        assert_eq!(json["lane_id"], "fffffffffffffffe");
        assert_eq!(json["secret"], "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
        assert_eq!(serde_json::from_value::<LaneOffer>(json.clone()).unwrap(), offer);
        assert!(!format!("{offer:?}").contains("1, 1"));
        assert_eq!(offer.socket_addresses([192, 0, 2, 1].into()), ["192.0.2.1:33001".parse().unwrap()]);

        for wrong in ["fffffffffffffff", "+ffffffffffffffe", "fffffffffffffffe0", ""] {
            let mut json = json.clone();
            json["lane_id"] = wrong.into();
            assert!(serde_json::from_value::<LaneOffer>(json).is_err(), "{wrong}");
        }
    }
}
