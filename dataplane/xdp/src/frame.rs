//! Frames of the UMEM as move-only tokens.
//!
//! A frame belongs to exactly one side at a time. While it is ours, a [`Frame`] exists for it, and its type says what may
//! be done with it; when the kernel takes it, the token is consumed; when the kernel returns it, [`Ledger`] checks that
//! it was really the kernel's to return before a new token is made. So a frame is never used twice and never lost.

use std::marker::PhantomData;

use xsk_rs::FrameDesc;

/// Ours, empty, for sending.
pub(crate) enum Free {}
/// Ours, empty, for receiving: waits for room on the fill ring.
pub(crate) enum Fill {}
/// Ours, holds a fragment that the kernel received.
pub(crate) enum Received {}
/// Ours, holds a fragment to be sent.
pub(crate) enum Transmit {}
/// Ours again after the kernel sent it.
pub(crate) enum Completed {}

/// A frame that is ours. The descriptor stays inside the crate's ring code.
#[must_use = "a frame that is dropped is lost to the UMEM"]
pub(crate) struct Frame<State> {
    pub(super) descriptor: FrameDesc,
    state: PhantomData<State>,
}

impl<State> Frame<State> {
    pub(super) fn new(descriptor: FrameDesc) -> Self {
        Self { descriptor, state: PhantomData }
    }

    pub(super) fn become_state<Next>(self) -> Frame<Next> {
        Frame::new(self.descriptor)
    }
}

impl Frame<Received> {
    /// Whether the packet goes on in the next frame (multi-buffer).
    pub(crate) fn continues(&self) -> bool {
        self.descriptor.has_more_frames()
    }

    /// Gives the frame back for the next packet.
    pub(crate) fn recycle(self) -> Frame<Fill> {
        self.become_state()
    }
}

impl Frame<Completed> {
    /// Makes the frame available for the next packet to send.
    pub(crate) fn recycle(self) -> Frame<Free> {
        self.become_state()
    }
}

/// Who holds a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    User,
    KernelFill,
    KernelTransmit,
}

/// How many frames each side holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameAudit {
    /// Frames of the UMEM.
    pub total: usize,
    /// With us, waiting to be sent from or to be given to the fill ring.
    pub ours: usize,
    /// With the kernel, to receive into. Includes received packets that nobody has fetched yet.
    pub receiving: usize,
    /// With the kernel, being sent.
    pub transmitting: usize,
    /// Times the kernel returned a frame that it did not hold; always 0 unless the kernel or we are broken.
    pub foreign: u64,
}

/// One entry a frame: which side holds it.
pub(super) struct Ledger {
    holders: Vec<Holder>,
    frame_bytes_log2: u32,
    foreign: u64,
}

impl Ledger {
    pub(super) fn new(frames: usize, frame_bytes: u32) -> Self {
        debug_assert!(frame_bytes.is_power_of_two(), "aligned UMEM frames");
        Self { holders: vec![Holder::User; frames], frame_bytes_log2: frame_bytes.trailing_zeros(), foreign: 0 }
    }

    fn hand_over(&mut self, address: usize, from: Holder, to: Holder) -> bool {
        match self.holders.get_mut(address >> self.frame_bytes_log2) {
            Some(holder) if *holder == from => {
                *holder = to;
                true
            }
            _ => {
                self.foreign += 1;
                false
            }
        }
    }

    /// Ours to the kernel's fill ring; `false` (and counted) if it was not ours.
    pub(super) fn give_to_fill(&mut self, address: usize) -> bool {
        self.hand_over(address, Holder::User, Holder::KernelFill)
    }

    /// The fill ring's to us.
    pub(super) fn take_received(&mut self, address: usize) -> bool {
        self.hand_over(address, Holder::KernelFill, Holder::User)
    }

    /// Ours to the kernel's transmit ring.
    pub(super) fn give_to_transmit(&mut self, address: usize) -> bool {
        self.hand_over(address, Holder::User, Holder::KernelTransmit)
    }

    /// The transmit ring's to us.
    pub(super) fn take_completed(&mut self, address: usize) -> bool {
        self.hand_over(address, Holder::KernelTransmit, Holder::User)
    }

    pub(super) fn audit(&self) -> FrameAudit {
        let count = |wanted| self.holders.iter().filter(|&&holder| holder == wanted).count();
        FrameAudit {
            total: self.holders.len(),
            ours: count(Holder::User),
            receiving: count(Holder::KernelFill),
            transmitting: count(Holder::KernelTransmit),
            foreign: self.foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    #[test]
    fn a_frame_moves_only_along_its_life() {
        let mut ledger = Ledger::new(2, 2048);
        assert!(ledger.give_to_fill(256));
        assert!(!ledger.give_to_fill(300), "the same frame again, at another offset");
        assert!(!ledger.take_completed(256), "it is not being sent");
        assert!(!ledger.give_to_transmit(256), "the kernel holds it");
        assert!(ledger.take_received(2047));
        assert!(!ledger.take_received(256), "returned twice");
        assert!(ledger.give_to_transmit(2048 + 256));
        assert!(!ledger.take_received(2 * 2048), "outside the UMEM");
        let audit = ledger.audit();
        assert_eq!((audit.total, audit.ours, audit.receiving, audit.transmitting), (2, 1, 0, 1));
        assert_eq!(audit.foreign, 5);
    }
}
