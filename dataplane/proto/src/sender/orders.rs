//! Orders from the receiver's side, and what the sender says of itself in return.

use tradewind_wire::orders::{KBPS_NONE, Orders, State, policy};

use super::{KEEP_ALIVE_NS, MS, Sender};
use crate::rate::{Group, Limiter, Policy, RateController, RateOrders};

/// How often a sender with a lease tells how it does: leases follow demand within a second.
const LEASED_INTERVAL_NS: u64 = 100 * MS;
/// The same while it has nothing to send.
const LEASED_IDLE_INTERVAL_NS: u64 = 250 * MS;
/// At most one STATE in so many of its own sizes: what STATEs take of a slow path, 0.5 % of the rate, is lost to its goodput.
const STATE_SHARE: u64 = 200;
/// The same with a lease or a group: 1 % of the rate.
const LEASED_STATE_SHARE: u64 = 100;
/// IP bytes of a STATE, about.
const STATE_BYTES: u64 = 82;
/// Shortest stretch over which the rate sent is measured.
const MEASURE_NS: u64 = 50 * MS;
/// For how long after the last want of credit a lack of data is the storage's doing.
const CREDIT_MEMORY_NS: u64 = 500 * MS;

/// What the orders module remembers.
#[derive(Debug)]
pub(super) struct Standing {
    /// Largest number obeyed.
    number: u32,
    /// The orders in force give a lease.
    leased: bool,
    /// Largest number of a GROUP message that was taken in.
    group_number: u32,
    /// Time and IP bytes sent at the last measurement, and its result.
    measured_ns: u64,
    measured_bytes: u64,
    sent_bytes_per_s: u64,
    /// When a block could not be opened for want of credit, last.
    no_credit_ns: Option<u64>,
    /// The last time the sender was told.
    now_ns: u64,
}

impl Standing {
    pub(super) fn new(now_ns: u64) -> Self {
        Self {
            number: 0,
            leased: false,
            group_number: 0,
            measured_ns: now_ns,
            measured_bytes: 0,
            sent_bytes_per_s: 0,
            no_credit_ns: None,
            now_ns,
        }
    }
}

impl<B: AsRef<[u8]>> Sender<B> {
    /// The rate controller: policy, target and limits may be changed while data flows.
    pub fn rate_mut(&mut self) -> &mut RateController {
        &mut self.rate
    }

    /// What was agreed at set-up, where it was not known when the sender was made; orders change it later.
    pub fn agree(&mut self, now_ns: u64, orders: &Orders, group: Option<Group>) {
        self.obey(now_ns, orders);
        if let Some(group) = group {
            self.set_group(now_ns, group);
        }
    }

    /// Orders from its own side: see [`Sender::handle_datagram`] for those that come over the network.
    pub fn set_orders(&mut self, now_ns: u64, orders: &Orders) {
        self.on_orders(now_ns, orders);
    }

    /// What the lanes of the group do, from its own side.
    pub fn set_group_message(&mut self, now_ns: u64, group: &tradewind_wire::Group) {
        self.on_group(now_ns, group);
    }

    pub(super) fn on_group(&mut self, now_ns: u64, group: &tradewind_wire::Group) {
        // The same number again says that it still holds.
        if group.number >= self.standing.group_number {
            self.standing.group_number = group.number;
            self.set_group(now_ns, Group { share_bytes_per_s: u64::from(group.share_kbps) * 125, lanes: u32::from(group.lanes) });
        }
    }

    /// What set-up said of the lanes between these two hosts; GROUP messages change it later.
    pub fn set_group(&mut self, now_ns: u64, group: Group) {
        self.rate.set_group(now_ns, group);
        self.admission.0 = 0;
        self.admit_again_ns = 0;
    }

    /// The lease of an aggregate cap that was agreed at set-up, bytes/s of IP packets; orders change it later.
    pub fn set_lease(&mut self, bytes_per_s: u64) {
        self.rate.set_lease(Some(bytes_per_s));
        self.standing.leased = true;
    }

    /// Number of the newest orders obeyed; 0: none yet.
    #[must_use]
    pub fn orders_obeyed(&self) -> u32 {
        self.standing.number
    }

    pub(super) fn on_orders(&mut self, now_ns: u64, orders: &Orders) {
        if orders.number < self.standing.number {
            return;
        }
        // Also after a repetition: it says that the last answer was lost.
        self.state_at_ns = self.state_at_ns.min(now_ns);
        if orders.number == self.standing.number {
            return;
        }
        self.standing.number = orders.number;
        self.obey(now_ns, orders);
    }

    fn obey(&mut self, now_ns: u64, orders: &Orders) {
        self.standing.leased = orders.lease_kbps != KBPS_NONE;
        let chosen = match orders.policy {
            policy::FIXED => Some(Policy::Fixed),
            policy::HIGH => Some(Policy::High),
            policy::FAIR => Some(Policy::Fair),
            policy::LOW => Some(Policy::Low),
            _ => None,
        };
        if let Some(chosen) = chosen {
            self.config.tail_copies = chosen != Policy::Low;
        }
        self.rate.obey(
            now_ns,
            RateOrders {
                policy: chosen,
                target_bytes_per_s: bytes_per_s(orders.target_kbps),
                minimum_bytes_per_s: u64::from(orders.minimum_kbps) * 125,
                lease_bytes_per_s: bytes_per_s(orders.lease_kbps),
            },
        );
        self.admission.0 = 0;
        self.admit_again_ns = 0;
    }

    /// Bytes of IP and UDP headers around each datagram.
    pub(super) fn ip_bytes(&self) -> u32 {
        self.config.rate.packet_bytes.saturating_sub(self.datagram_bytes_max() as u32)
    }

    /// There is nothing to send: remembers whose doing it is.
    pub(super) fn note_starved(&mut self, now_ns: u64) {
        self.standing.now_ns = now_ns;
        if !self.finished && self.blocks.opened() >= self.blocks_allowed {
            self.standing.no_credit_ns = Some(now_ns);
        }
    }

    /// The next STATE: what the sender says of itself.
    pub fn state(&mut self, now_ns: u64) -> State {
        self.standing.now_ns = now_ns;
        let elapsed_ns = now_ns.saturating_sub(self.standing.measured_ns);
        if elapsed_ns >= MEASURE_NS {
            let bytes = self.statistics.bytes_sent + self.statistics.packets_sent * u64::from(self.ip_bytes());
            let sent = u128::from(bytes.saturating_sub(self.standing.measured_bytes)) * 1_000_000_000 / u128::from(elapsed_ns);
            self.standing.sent_bytes_per_s = u64::try_from(sent).unwrap_or(u64::MAX);
            self.standing.measured_ns = now_ns;
            self.standing.measured_bytes = bytes;
        }
        let limiter = self.limiter();
        let wanted = match limiter {
            Limiter::Source | Limiter::Storage => Some(self.standing.sent_bytes_per_s),
            Limiter::Network | Limiter::Target | Limiter::Lease => self.rate.wanted_bytes_per_s(),
        };
        State {
            round_trip_us: if self.round_trip.is_known() { (self.round_trip.smoothed_ns() / 1000) as u32 } else { 0 },
            rate_kbps: kbps(self.rate.rate_bytes_per_s()),
            sent_kbps: kbps(self.standing.sent_bytes_per_s),
            wanted_kbps: wanted.map_or(KBPS_NONE, kbps),
            orders: self.standing.number,
            limiter: limiter.code(),
        }
    }

    /// When to send the next STATE.
    pub(super) fn next_state_ns(&self, now_ns: u64) -> u64 {
        let idle = self.records.unresolved() == 0 && !self.blocks.has_fresh();
        let leased = self.standing.leased || self.rate.is_grouped(now_ns);
        let (share, least_ns) = match (leased, idle) {
            (true, true) => (LEASED_STATE_SHARE, LEASED_IDLE_INTERVAL_NS),
            (true, false) => (LEASED_STATE_SHARE, LEASED_INTERVAL_NS),
            (false, true) => (STATE_SHARE, KEEP_ALIVE_NS),
            (false, false) => (STATE_SHARE, self.round_trip.smoothed_ns().clamp(100 * MS, KEEP_ALIVE_NS)),
        };
        let affordable_ns = STATE_BYTES * share * 1_000_000_000 / self.rate.rate_bytes_per_s().max(1);
        now_ns + affordable_ns.clamp(least_ns, KEEP_ALIVE_NS)
    }

    /// How much later than [`Self::poll_timeout`] a call may come without a loss of rate, nanoseconds: who serves many lanes gathers packets of each this way.
    #[must_use]
    pub fn slack_ns(&self) -> u64 {
        self.rate.slack_ns()
    }

    /// Whether [`Self::poll_event`] has something, for the same.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// What limits the rate.
    pub(super) fn limiter(&self) -> Limiter {
        let starved = !self.blocks.has_fresh() && !self.blocks.has_lost();
        let no_credit = starved && !self.finished && self.blocks.opened() >= self.blocks_allowed;
        // All is there, and the store has yet to confirm it.
        let unconfirmed = self.finished && self.blocks.opened() > 0 && starved && self.blocks.unreceived() == 0;
        let lately = self.standing.no_credit_ns.is_some_and(|at| self.standing.now_ns.saturating_sub(at) <= CREDIT_MEMORY_NS);
        match self.rate.limiter() {
            _ if no_credit || unconfirmed => Limiter::Storage,
            // Data waits for the lease: how long ago there was none does not matter.
            Limiter::Source if !starved && self.rate.lease_binds() => Limiter::Lease,
            Limiter::Source if lately || self.storage_limited => Limiter::Storage,
            _ if starved && !self.finished => Limiter::Source,
            Limiter::Lease if self.rate.target_binds() => Limiter::Target,
            limiter => limiter,
        }
    }
}

fn bytes_per_s(kbps: u32) -> Option<u64> {
    (kbps != KBPS_NONE).then_some(u64::from(kbps) * 125)
}

fn kbps(bytes_per_s: u64) -> u32 {
    u32::try_from(bytes_per_s / 125).unwrap_or(KBPS_NONE)
}
