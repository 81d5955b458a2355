//! Two workers: the NIC spreads packets by address and port, so a new port may bring a lane's packets to another worker than its own.

use std::collections::VecDeque;

use tradewind_fabric::wake::Waker;
use tradewind_netio::{LinkCounters, Path};

use super::*;
use crate::lane::tests::{IMAGE_BYTES, LANE, from, opening, packets};
use crate::shared::{LaneShared, STRAYS_MAX};

/// A link without a network.
#[derive(Default)]
struct Wire {
    arriving: VecDeque<(Meta, Vec<u8>)>,
    left: Vec<Path>,
}

impl Link for Wire {
    fn receive(&mut self, _: u64, limit: usize, each: &mut impl FnMut(&Meta, &mut [u8])) -> Result<usize, LinkError> {
        let count = self.arriving.len().min(limit);
        for (meta, mut datagram) in self.arriving.drain(..count) {
            each(&meta, &mut datagram);
        }
        Ok(count)
    }

    fn transmit(&mut self, path: &Path, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<Transmit, LinkError> {
        if fill(&mut vec![0; capacity]) == 0 {
            return Ok(Transmit::Nothing);
        }
        self.left.push(*path);
        Ok(Transmit::Queued)
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        Ok(())
    }

    fn wait(&mut self, _: Duration) -> Result<(), LinkError> {
        Ok(())
    }

    fn datagram_bytes_max(&self) -> usize {
        DATAGRAM_BYTES
    }

    fn counters(&self) -> LinkCounters {
        LinkCounters::default()
    }
}

struct Engine {
    workers: [Worker<Wire>; 2],
    mailboxes: Arc<[Mailbox]>,
    now: u64,
}

impl Engine {
    /// With one lane, open on both.
    fn new() -> Self {
        let pool = BlockPool::new(2, IMAGE_BYTES).expect("memory");
        let mailboxes: Arc<[Mailbox]> = [(); 2].map(|()| Mailbox::new(Waker::new().expect("an eventfd"))).into();
        let shared = Arc::<LaneShared>::default();
        let worker = |index| Worker::new(index, Wire::default(), pool.clone(), Arc::clone(&mailboxes), Arc::default());
        let mut workers = [worker(0), worker(1)];
        for worker in &mut workers {
            mailboxes[worker.index].send(Command::Open(Box::new(opening(&pool, &shared))));
            worker.run_commands(0);
        }
        Self { workers, mailboxes, now: 0 }
    }

    fn arrive(&mut self, worker: usize, meta: &Meta, packet: &[u8]) {
        self.workers[worker].link.arriving.push_back((*meta, packet.to_vec()));
    }

    /// One turn of each worker, the other one's lane first: what is handed over is seen in the same turn.
    fn turn(&mut self) {
        self.now += 1_000_000;
        for worker in self.workers.iter_mut().rev() {
            worker.receive(self.now).expect("the wire holds");
            worker.deliver(self.now);
            worker.transmit(self.now).expect("the wire holds");
        }
    }

    fn path(&self) -> Option<Path> {
        self.workers[0].lanes.get(&LANE.0).and_then(Lane::path)
    }
}

#[test]
fn a_new_port_that_leads_to_another_worker_does_not_end_the_lane() {
    let (home, rebound, thief) = (from("10.0.0.1:40000", None), from("10.0.0.1:40001", None), from("192.0.2.9:666", None));
    let packets = packets(40);
    let mut engine = Engine::new();
    engine.arrive(0, &home, &packets[0]);
    engine.turn();
    assert_eq!(engine.path(), Some(home.path));

    // Both queues at once, as packets do that were on their way when the port changed.
    for (number, packet) in packets.iter().enumerate().skip(1) {
        let late = number < 10 && number % 2 == 0;
        engine.arrive(usize::from(!late), if late { &home } else { &rebound }, packet);
    }
    engine.turn();
    assert_eq!(engine.path(), Some(rebound.path));
    let figures = |engine: &Engine, worker: usize| {
        let statistics = &engine.workers[worker].statistics;
        (statistics.authentic.get(), statistics.handed_over.get(), statistics.drops().iter().sum::<u64>())
    };
    let strayed = packets.len() as u64 - 1 - 4;
    assert_eq!(figures(&engine, 0), (packets.len() as u64, 0, 0));
    assert_eq!(figures(&engine, 1), (0, strayed, 0), "it opens nothing of what is not its own");
    assert_eq!(engine.workers[1].lanes.len(), 0);

    // The owner answers, and to the new port.
    for _ in 0..50 {
        engine.turn();
    }
    let left = &engine.workers[0].link.left;
    assert_eq!(left.last(), Some(&rebound.path), "{left:?}");
    assert!(engine.workers[1].link.left.is_empty());

    // A forged and a replayed packet by that way move nothing.
    let mut forged = packets[1].clone();
    // The packet number's last byte.
    forged[7] = 200;
    for packet in [&forged, &packets[3]] {
        engine.arrive(1, &thief, packet);
    }
    engine.turn();
    assert_eq!(engine.path(), Some(rebound.path));
    assert_eq!(figures(&engine, 0), (packets.len() as u64, 0, 2));
}

#[test]
fn what_waits_for_another_worker_is_bounded_and_forgotten_with_the_lane() {
    let (home, rebound) = (from("10.0.0.1:40000", None), from("10.0.0.1:40001", None));
    let packets = packets(2);
    let mut engine = Engine::new();
    engine.arrive(0, &home, &packets[0]);
    engine.turn();

    // The owner is busy elsewhere, and a flood comes.
    let flood = STRAYS_MAX + 3;
    (0..flood).for_each(|_| engine.arrive(1, &rebound, &packets[1]));
    while !engine.workers[1].link.arriving.is_empty() {
        engine.workers[1].receive(1).expect("the wire holds");
    }
    let statistics = Arc::clone(&engine.workers[1].statistics);
    assert_eq!((statistics.handed_over.get(), statistics.drops()[6]), (STRAYS_MAX as u64, 3));
    for _ in 0..STRAYS_MAX / BATCH {
        engine.turn();
    }
    assert_eq!(engine.path(), Some(rebound.path));
    assert!(engine.mailboxes[0].take_stray().is_none(), "the owner has caught up");

    assert_eq!(engine.workers[1].elsewhere.len(), 1);
    engine.mailboxes[1].send(Command::Close { lane: LANE, code: close::NORMAL, text: String::new() });
    engine.workers[1].run_commands(2);
    assert!(engine.workers[1].elsewhere.is_empty());
    engine.arrive(1, &rebound, &packets[1]);
    engine.turn();
    assert_eq!(statistics.drops()[1], 1, "the lane is not known there any more");
}
