//! What the receiver's side orders of a sender, and what the sender says of itself.

/// A rate field that says "none": no target, no lease, or as much as can be had. It is also the largest rate, 4.29 Tbit/s.
pub const KBPS_NONE: u32 = u32::MAX;

/// Policies in [`Orders::policy`]. Constants, not an enum: any other byte leaves the policy as it is.
pub mod policy {
    /// The target rate, whatever the network says.
    pub const FIXED: u8 = 1;
    /// Adaptive, twice the weight of `FAIR`.
    pub const HIGH: u8 = 2;
    /// Adaptive, an even share.
    pub const FAIR: u8 = 3;
    /// Adaptive, yields to others.
    pub const LOW: u8 = 4;
}

/// What limits the sender, in [`State::limiter`]. Constants, not an enum: any other byte is unknown.
pub mod limiter {
    /// Not said.
    pub const UNKNOWN: u8 = 0;
    /// The path.
    pub const NETWORK: u8 = 1;
    /// The receiver's storage.
    pub const STORAGE: u8 = 2;
    /// The user's target.
    pub const TARGET: u8 = 3;
    /// The lane's lease of an aggregate cap.
    pub const LEASE: u8 = 4;
    /// There is not enough to send.
    pub const SOURCE: u8 = 5;
}

/// How a sender should and may send from now on. Each order says everything, so the newest alone counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Grows by at least one with each order, from 1; 0 stands for what was agreed at set-up. A sender ignores a number that
    /// is not larger than the largest it has obeyed.
    pub number: u32,
    /// From [`policy`]; another byte leaves the policy as it is.
    pub policy: u8,
    /// Upper bound, kbit/s of IP packets; [`KBPS_NONE`]: none.
    pub target_kbps: u32,
    /// Lower bound of the network controller, kbit/s of IP packets; 0: none.
    pub minimum_kbps: u32,
    /// Share of an aggregate cap, kbit/s of IP packets, stronger than all else; [`KBPS_NONE`]: none; 0: send no data.
    pub lease_kbps: u32,
}

/// What the lanes between the same two hosts do that the network limits. It fades: a sender forgets it after a few seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Grows with each change, from 1; a sender ignores a number that is less than the largest it has taken in.
    pub number: u32,
    /// This lane's part, by weight, of what all of them send together, kbit/s of IP packets.
    pub share_kbps: u32,
    /// How many they are, this one included; 1: no others.
    pub lanes: u16,
}

/// What a sender says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Smoothed round-trip time, microseconds; 0 while unknown.
    pub round_trip_us: u32,
    /// Sending rate that is allowed now, kbit/s.
    pub rate_kbps: u32,
    /// Sent in the recent past, kbit/s of IP packets.
    pub sent_kbps: u32,
    /// What it would send without a lease, kbit/s of IP packets; [`KBPS_NONE`]: as much as it can get.
    pub wanted_kbps: u32,
    /// Number of the newest [`Orders`] it has obeyed; 0: none yet.
    pub orders: u32,
    /// What limits it, from [`limiter`].
    pub limiter: u8,
}
