//! Everything that may bind a lane besides the network, and the brake that is pulled when nothing is heard.

use super::Limiter;
use super::units::{SECOND_NS, within};

/// Factor on the rate per probe timeout without an answer (transport-study §2.4; RFC 8085 §3.1 asks for a reduction).
const BRAKE_PER_TIMEOUT: f64 = 0.7;

/// Without feedback for this long a lane falls to one packet per round trip (transport-study §2.4, the circuit breaker of RFC 8084).
const SILENCE_MOST_NS: u64 = 3 * SECOND_NS;

/// Target, minimum, storage limit, lease and brake of one lane; bytes/s.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    target: f64,
    minimum: f64,
    storage: Option<f64>,
    lease: Option<f64>,
    brake: f64,
    timeouts: u32,
    broken: bool,
    heard_ns: u64,
}

impl Limits {
    pub(super) fn new(target_bytes_per_s: u64, minimum_bytes_per_s: u64, now_ns: u64) -> Self {
        Self {
            target: target_bytes_per_s as f64,
            minimum: minimum_bytes_per_s as f64,
            storage: None,
            lease: None,
            brake: 1.0,
            timeouts: 0,
            broken: false,
            heard_ns: now_ns,
        }
    }

    pub(super) fn set_target(&mut self, bytes_per_s: u64) {
        self.target = bytes_per_s as f64;
    }

    pub(super) fn set_minimum(&mut self, bytes_per_s: u64) {
        self.minimum = bytes_per_s as f64;
    }

    pub(super) fn set_storage(&mut self, bytes_per_s: Option<u64>) {
        self.storage = bytes_per_s.map(|limit| limit as f64);
    }

    pub(super) fn set_lease(&mut self, bytes_per_s: Option<u64>) {
        self.lease = bytes_per_s.map(|limit| limit as f64);
    }

    /// The least of target, storage limit and lease: what may never be exceeded.
    pub(super) fn cap(&self) -> f64 {
        self.target.min(self.storage.unwrap_or(f64::INFINITY)).min(self.lease.unwrap_or(f64::INFINITY)).max(0.0)
    }

    /// The target alone: the network controller's own ceiling.
    pub(super) fn target(&self) -> f64 {
        self.target
    }

    /// A network rate, raised to the minimum and bounded by the target; `floor` is the least that still measures the path.
    pub(super) fn network(&self, rate: f64, floor: f64) -> f64 {
        within(rate, self.minimum.max(floor), self.target)
    }

    /// What may be sent when the network controller says `rate`: below the cap, then braked. `packet_per_rtt` is the least pace to be tried.
    pub(super) fn allowed(&self, rate: f64, packet_per_rtt: f64) -> f64 {
        let allowed = rate.min(self.cap());
        if self.broken {
            allowed.min(packet_per_rtt)
        } else if self.timeouts > 0 {
            (allowed * self.brake).max(packet_per_rtt).min(allowed)
        } else {
            allowed
        }
    }

    /// Which of them binds a network rate.
    pub(super) fn binding(&self, network: f64) -> Limiter {
        let storage = self.storage.unwrap_or(f64::INFINITY);
        let lease = self.lease.unwrap_or(f64::INFINITY);
        let cap = self.cap();
        if network < cap {
            Limiter::Network
        } else if storage <= cap {
            Limiter::Storage
        } else if lease <= cap {
            Limiter::Lease
        } else {
            Limiter::Target
        }
    }

    /// Nothing was heard for a probe timeout.
    pub(super) fn on_probe_timeout(&mut self, now_ns: u64) {
        self.timeouts = self.timeouts.saturating_add(1);
        self.brake *= BRAKE_PER_TIMEOUT;
        self.broken = now_ns.saturating_sub(self.heard_ns) >= SILENCE_MOST_NS;
    }

    /// Something was heard: lets the brake go and returns how many timeouts there were and how far it had been pulled.
    pub(super) fn on_heard(&mut self, now_ns: u64) -> (u32, f64) {
        self.heard_ns = now_ns;
        let was = (self.timeouts, self.brake);
        self.timeouts = 0;
        self.brake = 1.0;
        self.broken = false;
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_names_itself() {
        let mut limits = Limits::new(1_000, 0, 0);
        assert_eq!(limits.binding(900.0), Limiter::Network);
        assert_eq!(limits.binding(1_000.0), Limiter::Target);
        limits.set_lease(Some(500));
        assert_eq!(limits.binding(900.0), Limiter::Lease);
        limits.set_storage(Some(400));
        assert_eq!(limits.binding(900.0), Limiter::Storage);
        assert_eq!(limits.allowed(900.0, 1.0), 400.0);
    }

    #[test]
    fn brake_pulls_breaks_and_lets_go() {
        let mut limits = Limits::new(1_000_000, 500_000, 0);
        limits.on_probe_timeout(SECOND_NS);
        limits.on_probe_timeout(2 * SECOND_NS);
        assert!((limits.allowed(1_000_000.0, 10.0) - 490_000.0).abs() < 1.0);
        limits.on_probe_timeout(3 * SECOND_NS);
        assert_eq!(limits.allowed(1_000_000.0, 10.0), 10.0);
        assert_eq!(limits.on_heard(4 * SECOND_NS).0, 3);
        assert_eq!(limits.allowed(1_000_000.0, 10.0), 1_000_000.0);
    }

    #[test]
    fn minimum_never_lifts_above_the_target() {
        let limits = Limits::new(100, 500, 0);
        assert_eq!(limits.network(10.0, 1.0), 100.0);
    }
}
