//! What bounds a rate, by name and by its code on the wire.

use tradewind_wire::orders::limiter;

/// What bounds the rate at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Limiter {
    /// The path.
    #[default]
    Network,
    /// The receiver's storage.
    Storage,
    /// The user's target.
    Target,
    /// The lane's share of the aggregate cap.
    Lease,
    /// There is not enough to send.
    Source,
}

impl Limiter {
    /// As in a STATE packet.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Network => limiter::NETWORK,
            Self::Storage => limiter::STORAGE,
            Self::Target => limiter::TARGET,
            Self::Lease => limiter::LEASE,
            Self::Source => limiter::SOURCE,
        }
    }

    /// The reverse; `None` for a limiter of a later release.
    #[must_use]
    pub const fn of_code(code: u8) -> Option<Self> {
        match code {
            limiter::NETWORK => Some(Self::Network),
            limiter::STORAGE => Some(Self::Storage),
            limiter::TARGET => Some(Self::Target),
            limiter::LEASE => Some(Self::Lease),
            limiter::SOURCE => Some(Self::Source),
            _ => None,
        }
    }
}
