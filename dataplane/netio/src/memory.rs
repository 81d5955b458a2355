//! Two links joined in memory, for tests: no sockets, no threads, and the same faults for the same seed.
//!
//! The wire's time is the largest `now_ns` that either end passed to [`Link::receive`]; a datagram that is delayed is due
//! that long after the wire's time when it was flushed. Buffers are reused, so a run in steady state does not allocate.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Ecn, Link, LinkCounters, LinkError, Meta, Path, Transmit};

/// Datagrams that wait for a flush, at most.
const QUEUED_MAX: usize = 256;

/// Datagrams under way to one end, at most; what comes on top is dropped and counted as `receive_dropped`.
const UNDER_WAY_MAX: usize = 16_384;

/// What to do with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Deliver after so many nanoseconds of wire time.
    Deliver {
        /// Delay, ns.
        delay_ns: u64,
    },
    /// Lose it.
    Drop,
}

/// One end of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The first link that [`pair`] returned.
    A,
    /// The second.
    B,
}

impl End {
    const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Decides the fate of each datagram: called with the sending end, the index of the datagram in that direction (from 0),
/// and its bytes, which it may change (corruption).
pub type Faults = Box<dyn FnMut(End, u64, &mut [u8]) -> Fate + Send>;

/// Random loss and delay that depend on nothing but the seed, the direction and the datagram's index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairments {
    /// Same seed, same faults.
    pub seed: u64,
    /// Share of the datagrams that is lost, 0 to 1.
    pub loss: f64,
    /// Delay of every datagram, ns.
    pub delay_ns: u64,
    /// Further delay, uniform below this, ns. Reorders where it exceeds the spacing of the datagrams.
    pub jitter_ns: u64,
}

impl Impairments {
    /// These impairments as a fault hook.
    #[must_use]
    pub fn faults(self) -> Faults {
        Box::new(move |from, index, _| {
            let word = mix(self.seed ^ mix(index ^ ((from.index() as u64) << 63)));
            if unit(word) < self.loss {
                return Fate::Drop;
            }
            let jitter_ns = (unit(mix(word)) * self.jitter_ns as f64) as u64;
            Fate::Deliver { delay_ns: self.delay_ns + jitter_ns }
        })
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The upper 53 bits as a number in [0, 1).
fn unit(word: u64) -> f64 {
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

/// A datagram under way; ordered by due time, then by sequence.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due_ns: u64,
    sequence: u64,
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

struct Wire {
    now_ns: u64,
    sequence: [u64; 2],
    /// By receiving end.
    under_way: [BinaryHeap<Reverse<UnderWay>>; 2],
    dropped: [u64; 2],
    spare: Vec<Vec<u8>>,
    faults: Option<Faults>,
}

struct Shared {
    wire: Mutex<Wire>,
    arrived: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wire> {
        // A panic of the other end (a failing test) leaves nothing half-changed that could hurt this one.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of a pair of links in memory.
pub struct MemoryLink {
    shared: Arc<Shared>,
    end: End,
    local: SocketAddr,
    datagram_bytes_max: usize,
    queued: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    counters: LinkCounters,
}

/// Two joined links without faults, with the addresses 192.0.2.1:33001 and 192.0.2.2:33001 (RFC 5737) and 1472-byte
/// datagrams.
#[must_use]
pub fn pair() -> (MemoryLink, MemoryLink) {
    pair_with(1472, None)
}

/// Two joined links with datagrams of at most `datagram_bytes_max` bytes, and with faults if given.
#[must_use]
pub fn pair_with(datagram_bytes_max: usize, faults: Option<Faults>) -> (MemoryLink, MemoryLink) {
    let shared = Arc::new(Shared {
        wire: Mutex::new(Wire {
            now_ns: 0,
            sequence: [0; 2],
            under_way: [BinaryHeap::new(), BinaryHeap::new()],
            dropped: [0; 2],
            spare: Vec::new(),
            faults,
        }),
        arrived: Condvar::new(),
    });
    let link = |end: End, last_octet| MemoryLink {
        shared: Arc::clone(&shared),
        end,
        local: SocketAddr::from(([192, 0, 2, last_octet], 33_001)),
        datagram_bytes_max,
        queued: Vec::with_capacity(QUEUED_MAX),
        counters: LinkCounters::default(),
    };
    (link(End::A, 1), link(End::B, 2))
}

impl MemoryLink {
    /// This end's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// When the next datagram for this end is due, ns of wire time; `None` if none is under way.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.shared.lock().under_way[self.end.index()].peek().map(|Reverse(next)| next.due_ns)
    }
}

impl Link for MemoryLink {
    fn receive(
        &mut self,
        clock: &mut impl FnMut() -> u64,
        limit: usize,
        each: &mut impl FnMut(&Meta, &mut [u8]),
    ) -> Result<usize, LinkError> {
        let (now_ns, mut handed) = (clock(), 0);
        while handed < limit {
            let mut wire = self.shared.lock();
            wire.now_ns = wire.now_ns.max(now_ns);
            let now_ns = wire.now_ns;
            let waiting = &mut wire.under_way[self.end.index()];
            if waiting.peek().is_none_or(|Reverse(next)| next.due_ns > now_ns) {
                break;
            }
            let Some(Reverse(mut datagram)) = waiting.pop() else { break };
            // `each` may well use the other end: do not hold the lock.
            drop(wire);
            let path = Path { local: datagram.to, remote: datagram.from, link: None };
            self.counters.received += 1;
            self.counters.received_bytes += datagram.bytes.len() as u64;
            handed += 1;
            each(&Meta { path, ecn: Ecn::NotEct, arrived_ns: now_ns }, &mut datagram.bytes);
            self.shared.lock().spare.push(datagram.bytes);
        }
        Ok(handed)
    }

    fn transmit(&mut self, path: &Path, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<Transmit, LinkError> {
        if self.queued.len() == QUEUED_MAX {
            return Ok(Transmit::Full);
        }
        let mut bytes = self.shared.lock().spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.resize(capacity, 0);
        let written = fill(&mut bytes).min(capacity);
        bytes.truncate(written);
        if written == 0 {
            self.shared.lock().spare.push(bytes);
            return Ok(Transmit::Nothing);
        }
        let from = if path.local.ip().is_unspecified() { self.local } else { path.local };
        self.queued.push((from, path.remote, bytes));
        Ok(Transmit::Queued)
    }

    /// Nothing routes here: whatever the destination address, a datagram goes to the other end.
    fn flush(&mut self) -> Result<(), LinkError> {
        if self.queued.is_empty() {
            return Ok(());
        }
        let mut guard = self.shared.lock();
        let wire = &mut *guard;
        let to_end = self.end.other().index();
        for (from, to, mut bytes) in self.queued.drain(..) {
            if bytes.len() > self.datagram_bytes_max {
                self.counters.send_failed += 1;
                wire.spare.push(bytes);
                continue;
            }
            self.counters.sent += 1;
            self.counters.sent_bytes += bytes.len() as u64;
            let sequence = wire.sequence[self.end.index()];
            wire.sequence[self.end.index()] += 1;
            let fate = wire.faults.as_mut().map_or(Fate::Deliver { delay_ns: 0 }, |faults| faults(self.end, sequence, &mut bytes));
            match fate {
                Fate::Deliver { delay_ns } if wire.under_way[to_end].len() < UNDER_WAY_MAX => {
                    let due_ns = wire.now_ns.saturating_add(delay_ns);
                    wire.under_way[to_end].push(Reverse(UnderWay { due_ns, sequence, from, to, bytes }));
                }
                Fate::Deliver { .. } => {
                    wire.dropped[to_end] += 1;
                    wire.spare.push(bytes);
                }
                Fate::Drop => wire.spare.push(bytes),
            }
        }
        drop(guard);
        self.shared.arrived.notify_all();
        Ok(())
    }

    /// Sleeps in real time. A datagram under way that is not due yet does not end the wait: wire time only moves with
    /// [`Link::receive`].
    fn wait(&mut self, timeout: Duration) -> Result<(), LinkError> {
        let index = self.end.index();
        let nothing_due = |wire: &mut Wire| wire.under_way[index].peek().is_none_or(|Reverse(next)| next.due_ns > wire.now_ns);
        let wire = self.shared.lock();
        drop(self.shared.arrived.wait_timeout_while(wire, timeout, nothing_due).unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn datagram_bytes_max(&self) -> usize {
        self.datagram_bytes_max
    }

    fn counters(&self) -> LinkCounters {
        LinkCounters { receive_dropped: self.shared.lock().dropped[self.end.index()], ..self.counters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(from: &MemoryLink, to: &MemoryLink) -> Path {
        Path { local: from.local_addr(), remote: to.local_addr(), link: None }
    }

    fn send(link: &mut MemoryLink, path: &Path, bytes: &[u8]) {
        let result = link
            .transmit(path, bytes.len(), |room| {
                room.copy_from_slice(bytes);
                bytes.len()
            })
            .expect("memory links do not fail");
        assert_eq!(result, Transmit::Queued);
        link.flush().expect("memory links do not fail");
    }

    fn received(link: &mut MemoryLink, now_ns: u64) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        link.receive(&mut || now_ns, usize::MAX, &mut |_, bytes| all.push(bytes.to_vec())).expect("memory links do not fail");
        all
    }

    #[test]
    fn datagrams_cross_and_can_be_answered() {
        let (mut a, mut b) = pair();
        let way = path(&a, &b);
        send(&mut a, &way, b"question");
        let mut back = None;
        let count = b.receive(&mut || 5, 10, &mut |meta, bytes| {
            assert_eq!(bytes, b"question");
            assert_eq!(meta.arrived_ns, 5);
            back = Some(meta.path);
        });
        assert_eq!(count.expect("memory links do not fail"), 1);
        send(&mut b, &back.expect("a datagram came"), b"answer");
        assert_eq!(received(&mut a, 6), [b"answer"]);
        assert_eq!(a.counters(), LinkCounters { received: 1, received_bytes: 6, sent: 1, sent_bytes: 8, ..LinkCounters::default() });
    }

    #[test]
    fn oversize_datagrams_fail_and_full_queues_say_so() {
        let (mut a, b) = pair_with(100, None);
        let path = path(&a, &b);
        send(&mut a, &path, &[1; 100]);
        send(&mut a, &path, &[1; 101]);
        assert_eq!((a.counters().sent, a.counters().send_failed), (1, 1));
        let queue = |a: &mut MemoryLink| a.transmit(&path, 1, |_| 1).expect("memory links do not fail");
        assert_eq!(a.transmit(&path, 1, |_| 0).expect("memory links do not fail"), Transmit::Nothing);
        for _ in 0..QUEUED_MAX {
            assert_eq!(queue(&mut a), Transmit::Queued);
        }
        assert_eq!(queue(&mut a), Transmit::Full);
        a.flush().expect("memory links do not fail");
        assert_eq!(queue(&mut a), Transmit::Queued);
    }

    #[test]
    fn a_delay_holds_until_wire_time_has_passed() {
        let faults = Impairments { seed: 1, loss: 0.0, delay_ns: 1000, jitter_ns: 0 }.faults();
        let (mut a, mut b) = pair_with(1472, Some(faults));
        assert!(received(&mut b, 50).is_empty());
        let way = path(&a, &b);
        send(&mut a, &way, b"late");
        assert_eq!(b.next_due_ns(), Some(1050));
        assert!(received(&mut b, 1049).is_empty());
        assert_eq!(received(&mut b, 1050), [b"late"]);
    }

    fn survivors(seed: u64) -> Vec<Vec<u8>> {
        let faults = Impairments { seed, loss: 0.3, delay_ns: 100, jitter_ns: 1000 }.faults();
        let (mut a, mut b) = pair_with(1472, Some(faults));
        let path = path(&a, &b);
        for number in 0..1000_u32 {
            send(&mut a, &path, &number.to_be_bytes());
        }
        received(&mut b, 10_000)
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let first = survivors(7);
        assert_eq!(first, survivors(7));
        assert_ne!(first, survivors(8));
        assert!((600..800).contains(&first.len()), "{} of 1000 arrived at 30 % loss", first.len());
        assert!(!first.is_sorted(), "jitter reorders");
    }

    #[test]
    fn a_hook_may_corrupt() {
        let (mut a, mut b) = pair_with(
            1472,
            Some(Box::new(|end, index, bytes| {
                assert_eq!((end, index), (End::A, 0));
                bytes[0] ^= 0xff;
                Fate::Deliver { delay_ns: 0 }
            })),
        );
        let way = path(&a, &b);
        send(&mut a, &way, &[0x0f]);
        assert_eq!(received(&mut b, 0), [[0xf0]]);
    }
}
