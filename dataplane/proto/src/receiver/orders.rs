//! Orders for the sender, repeated until it says that it obeys, and what it says of itself.

use tradewind_wire::{Group, Orders, State};

use super::{MS, Receiver};

/// Orders are repeated no sooner than this, nor sooner than a round trip.
const REPEAT_MIN_NS: u64 = 50 * MS;

/// News of the group are repeated this often: they may be lost, and senders forget them after 3 s.
const GROUP_REPEAT_NS: u64 = 500 * MS;

/// The orders that are to be obeyed, and the sender's newest word.
#[derive(Debug, Default)]
pub(super) struct Standing {
    orders: Option<Orders>,
    /// Largest number that the sender has obeyed.
    obeyed: u32,
    repeat_at_ns: u64,
    group: Option<Group>,
    /// When it is said again, if it is.
    group_at_ns: Option<u64>,
    /// Packet number and content of the newest STATE.
    state: Option<(u64, State)>,
}

impl Standing {
    pub(super) fn on_state(&mut self, number: u64, state: State) {
        if self.state.is_none_or(|(newest, _)| number > newest) {
            self.state = Some((number, state));
        }
        // What was never ordered cannot have been obeyed, whatever a peer may say.
        let ordered = self.orders.map_or(0, |orders| orders.number);
        if state.orders <= ordered {
            self.obeyed = self.obeyed.max(state.orders);
        }
    }

    fn pending(&self) -> Option<Orders> {
        self.orders.filter(|orders| orders.number > self.obeyed)
    }

    /// When orders or news of the group are due next; `u64::MAX` while there are none.
    pub(super) fn due_ns(&self) -> u64 {
        self.pending().map_or(u64::MAX, |_| self.repeat_at_ns).min(self.group_at_ns.unwrap_or(u64::MAX))
    }

    /// The news of the group that are due now.
    pub(super) fn take_group(&mut self, now_ns: u64) -> Option<Group> {
        let group = self.group.filter(|_| self.group_at_ns.is_some_and(|at_ns| now_ns >= at_ns))?;
        self.group_at_ns = (group.lanes > 1).then_some(now_ns + GROUP_REPEAT_NS);
        Some(group)
    }

    /// The orders that are due now.
    pub(super) fn take_due(&mut self, now_ns: u64, round_trip_ns: u64) -> Option<Orders> {
        let orders = self.pending().filter(|_| now_ns >= self.repeat_at_ns)?;
        self.repeat_at_ns = now_ns + round_trip_ns.max(REPEAT_MIN_NS);
        Some(orders)
    }
}

impl<B> Receiver<B> {
    /// Orders for the sender; those with the largest number hold. They go out with the next [`Receiver::poll_transmit`] and
    /// again until the sender has obeyed ([`Receiver::orders_obeyed`]).
    pub fn set_orders(&mut self, now_ns: u64, orders: Orders) {
        if self.standing.orders.map_or(0, |newest| newest.number) < orders.number {
            self.standing.orders = Some(orders);
            self.standing.repeat_at_ns = now_ns;
        }
    }

    /// What the lanes between this sender's host and ours do; the largest number holds. It goes out with the next [`Receiver::poll_transmit`] and now and
    /// then again while they are several.
    pub fn set_group(&mut self, now_ns: u64, group: Group) {
        if self.standing.group.is_none_or(|newest| newest.number < group.number) {
            self.standing.group = Some(group);
            self.standing.group_at_ns = Some(now_ns);
            self.interval.on_group(group.lanes);
        }
    }

    /// Largest number of orders that the sender has obeyed; 0: what was agreed at set-up.
    #[must_use]
    pub fn orders_obeyed(&self) -> u32 {
        self.standing.obeyed
    }

    /// What the sender said of itself last.
    #[must_use]
    pub fn sender_state(&self) -> Option<State> {
        self.standing.state.map(|(_, state)| state)
    }
}
