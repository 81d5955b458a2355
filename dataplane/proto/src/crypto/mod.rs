//! Packet protection: AES-GCM under keys that both ends derive from the lane's secret and the packet number.
//!
//! The 32-byte lane secret comes over TLS. HKDF-SHA-256 (RFC 5869) gives a key and an IV for every direction and
//! [epoch](tradewind_wire::PacketNumber::epoch), so no negotiation and no key-phase bit is needed. The nonce is the IV xor
//! the packet number, as in RFC 9001 section 5.3.

mod aead;
mod schedule;

pub use aead::{AuthError, Key, Provider};
pub use schedule::{Direction, LaneSecret, OpenKeys, SealKeys};

/// Which AES-GCM a lane uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum CipherSuite {
    /// 128-bit keys: the default.
    #[default]
    Aes128Gcm,
    /// 256-bit keys, where a policy asks for them.
    Aes256Gcm,
}

impl CipherSuite {
    /// Bytes of a key.
    #[must_use]
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
        }
    }
}
