//! AF_XDP for Tradewind: the steering program's loader, sockets with owned frames, and a [`Link`](tradewind_netio::Link)
//! over them.
//!
//! ```text
//! let steering = Steering::load(&SteeringConfig::new("eth0", 33001))?;      // privileged, once an interface
//! let link = XdpLink::open(&steering, &XdpLinkConfig::new(worker, queue))?; // privileged, once a worker
//! // … drop capabilities …
//! steering.add_lane(lane, None, 1472)?;                                     // any time
//! ```
//!
//! Unsafe code is confined to `rings` (xsk-rs) and `device` (ioctl).
#![deny(unsafe_code)]

mod checksum;
mod device;
mod error;
mod frame;
mod link;
mod packet;
pub mod probe;
mod rings;
mod socket;
mod steering;

pub use device::XdpFeatures;
pub use error::XdpError;
pub use frame::FrameAudit;
pub use link::{XdpLink, XdpLinkConfig};
pub use socket::{SocketConfig, SocketStatistics, XdpSocket};
pub use steering::{AttachMode, Steering, SteeringConfig, SteeringCounters, XdpMode};
pub use tradewind_ebpf::Verdict;
