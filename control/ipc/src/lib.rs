//! Typed, versioned messages between the control process (`tradewindd`) and the data process (`tradewind-engine`).
//!
//! The two talk over one Unix stream socket. The control process makes a socket pair, keeps one end and passes the other
//! to the engine it starts (`tradewind-engine --control-fd 3`); see [`inherited_stream`]. On it travel frames: a 32-bit
//! big-endian length and that many bytes of JSON ([`FRAME_BYTES_MAX`] at most). The first frame in each direction is a
//! [`Hello`]; ends of different [`PROTOCOL_VERSION`] refuse each other by name. After it, [`ToEngine`] travels one way and
//! [`FromEngine`] the other, the first of the latter being [`Ready`].
//!
//! JSON, because this socket carries a few messages per lane and second, and because a person with `strace` can read it.
//!
//! ```
//! use tradewind_ipc::{FromEngine, LaneClosed, ErrorCode, FrameDecoder, encode_frame};
//! let sent = FromEngine::LaneFailed(LaneClosed { lane_id: 7, code: ErrorCode::DiskFull, text: "no space on /data".into() });
//! let mut decoder = FrameDecoder::new();
//! decoder.extend(&encode_frame(&sent).unwrap());
//! assert_eq!(decoder.next::<FromEngine>().unwrap(), Some(sent));
//! ```

#![forbid(unsafe_code)]

mod browse;
mod channel;
mod code;
mod error;
mod frame;
mod message;
mod place;
mod secret;
mod select;
mod verify;

pub use browse::{Browse, BrowseAnswer, BrowseQuestion, Browsed, ObjectDetails, ObjectEntry, ObjectPage};
pub use channel::{
    HANDSHAKE_TIMEOUT, Receiver, Sender, SyncChannel, accept_engine, connect_control, connect_control_sync, inherited_stream,
};
pub use code::{ErrorCode, exit};
pub use error::IpcError;
pub use frame::{FRAME_BYTES_MAX, FrameDecoder, encode_frame};
pub use message::{
    Cipher, DataEndpoint, DurableList, DurableSummary, FileDone, FromEngine, Hello, Job, LANE_ORDERS_MAX, LaneAccepted, LaneClosed,
    LaneGroup, LaneOrders, LaneRate, LaneReceipt, LaneReport, LaneTotals, Limiter, OpenLane, PROTOCOL_VERSION, Progress, RatePolicy, Ready,
    Receive, Role, StageLatency, Stats, ToEngine, XdpMode, XdpStatus,
};
pub use place::{
    AzureStore, Destination, DestinationName, Dialect, GcsStore, HdfsStore, LargeObjects, NetStorageStore, S3Store, Store, SwiftAuth,
    SwiftIdentity, SwiftStore,
};
pub use secret::{LANE_SECRET_BYTES, LaneSecret, SecretText};
pub use select::Select;
pub use verify::{VERIFY_HEARTBEAT_MS, Verdict, Verified, Verify};
