//! What `send` and `get` say of the lane that they use.

use clap::{Args, ValueEnum};
use tradewind_api::{RatePolicy, RateRequest, SubmitRequest};

use crate::rate::BitRate;

/// How a lane to or from a server is used.
#[derive(Debug, Args)]
pub(crate) struct LaneOptions {
    /// Behaviour beside other traffic.
    #[arg(long, value_enum, default_value_t = PolicyOption::Fair)]
    pub(crate) policy: PolicyOption,
    /// Never faster, bits per second: 300M, 1.5G. With --policy fixed, the rate itself. Default: as fast as the path takes.
    #[arg(long, value_name = "RATE", required_if_eq("policy", "fixed"))]
    pub(crate) rate: Option<BitRate>,
    /// Encryption of the packets.
    #[arg(long, value_enum, default_value_t = CipherOption::Aes128Gcm)]
    pub(crate) cipher: CipherOption,
    /// Start again by itself so often when the way to the server or its engine breaks; files that are durable are not moved again.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) retries: u32,
}

impl LaneOptions {
    /// A request for such a lane, and nothing else.
    pub(crate) fn request(&self) -> SubmitRequest {
        let target_rate_bps = self.rate.map(|rate| rate.bits_per_s());
        let rate = RateRequest { policy: self.policy.for_server(), target_rate_bps, minimum_rate_bps: None };
        SubmitRequest { rate, cipher: self.cipher.for_server(), ..SubmitRequest::default() }
    }
}

/// Behaviour beside other traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyOption {
    /// The rate given, whatever the network says.
    Fixed,
    /// Adaptive, twice the weight of fair.
    High,
    /// Adaptive, shares evenly.
    Fair,
    /// Adaptive, yields to everything else.
    Low,
}

impl PolicyOption {
    /// As the server is told.
    pub(crate) const fn for_server(self) -> RatePolicy {
        match self {
            Self::Fixed => RatePolicy::Fixed,
            Self::High => RatePolicy::High,
            Self::Fair => RatePolicy::Fair,
            Self::Low => RatePolicy::Low,
        }
    }
}

/// Encryption of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CipherOption {
    /// AES with 128-bit keys.
    #[value(name = "aes-128-gcm")]
    Aes128Gcm,
    /// AES with 256-bit keys.
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
}

impl CipherOption {
    /// As the server is told.
    pub(crate) const fn for_server(self) -> tradewind_api::Cipher {
        match self {
            Self::Aes128Gcm => tradewind_api::Cipher::Aes128Gcm,
            Self::Aes256Gcm => tradewind_api::Cipher::Aes256Gcm,
        }
    }
}
