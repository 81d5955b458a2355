//! Both ends of a transfer as a library, over one lane by kernel UDP: [`Upload`] reads files, cuts blocks and sends them, [`Download`] receives
//! blocks and writes files.
//!
//! Their `run` blocks the calling thread, which becomes the lane's worker; for an upload a second thread reads the sources.
//! [`Uploads`] runs many uploads to one server on one thread.
#![forbid(unsafe_code)]

mod blocks;
mod download;
mod durable;
mod error;
mod keep;
mod lane;
mod link;
mod origin;
mod progress;
mod sealed;
mod select;
mod source;
mod upload;
mod uploads;
mod worker;

pub use blocks::{CRC_ATTRIBUTE, ERROR_ATTRIBUTE, files_and_pieces, is_of_the_way, ready_block};
pub use download::{Download, DownloadReport, FileEvent};
pub use durable::{Compare, Durable};
pub use error::{SourceError, UploadError};
pub use keep::{Keep, SourceNote};
pub use progress::{Progress, UploadReport};
pub use sealed::{SEALED_ATTRIBUTE, SealedNames, Sealing, header_attribute, header_of_attribute};
pub use select::{PatternError, Selected};
pub use source::{Found, Source, SourceKind, Sources};
pub use tradewind_integrity::Checksum;
pub use tradewind_netio::udp::route_mtu;
pub use tradewind_proto::block::{Fingerprint, fingerprint};
pub use tradewind_proto::crypto::CipherSuite as Cipher;
pub use tradewind_proto::rate::{Group, Policy};
pub use upload::{CREDIT_BLOCKS_DEFAULT, LaneOffer, RateOptions, Upload, chunk_bytes_for_packets};
pub use uploads::Uploads;
