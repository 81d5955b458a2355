//! Whether a server keeps to the condition of a write ("only where nothing is", `If-None-Match: *`).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How many small objects are looked for before their writes until the server is asked to prove that it keeps to conditions.
/// The proof costs a second write of one of them, the looks a request for each.
pub(crate) const LOOKS: u32 = 64;

/// What is known of a server's conditional writes. Some servers refuse them, and some take them and replace what is there.
#[derive(Debug)]
pub(super) struct Conditions {
    sent: AtomicBool,
    kept: AtomicBool,
    looks: AtomicU32,
}

impl Conditions {
    /// `sent`: whether they are worth trying.
    pub(super) const fn new(sent: bool) -> Self {
        Self { sent: AtomicBool::new(sent), kept: AtomicBool::new(false), looks: AtomicU32::new(0) }
    }

    /// Whether to send them. They protect from what a look cannot see, also where nobody knows whether the server keeps to them.
    pub(super) fn sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// The server refuses them.
    pub(super) fn give_up(&self) {
        self.sent.store(false, Ordering::Relaxed);
    }

    /// Whether the server has proved that it keeps to them.
    pub(super) fn kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// The server has kept to one.
    pub(super) fn prove(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// A look was made before a conditional write that succeeded. True for the one after which it is time for the proof.
    pub(super) fn wants_proof(&self) -> bool {
        self.sent() && !self.kept() && self.looks.fetch_add(1, Ordering::Relaxed) == LOOKS - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_asked_for_once_and_only_where_it_is_of_use() {
        let asks = |conditions: &Conditions| (0..3 * LOOKS).filter(|_| conditions.wants_proof()).count();
        let conditions = Conditions::new(true);
        assert_eq!((asks(&conditions), conditions.kept()), (1, false));
        let conditions = Conditions::new(true);
        conditions.prove();
        assert_eq!(asks(&conditions), 0);
        assert_eq!(asks(&Conditions::new(false)), 0);
    }
}
