//! Runs a world: the real sender and receiver, the modelled path and store, and one clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tradewind_netem::link;
use tradewind_proto::block::BlockWriter;
use tradewind_proto::crypto::LaneSecret;
use tradewind_proto::rate::RateConfig;
use tradewind_proto::receiver::{Receiver, ReceiverConfig, ReceiverEvent};
use tradewind_proto::sender::{Sender, SenderConfig, SenderEvent};
use tradewind_wire::control::close;
use tradewind_wire::limits::DATA_OVERHEAD_BYTES;
use tradewind_wire::{DataHeader, Header, Kind, LaneId};

use crate::check::{Ending, Failure, deadline_ns, judge};
use crate::path::{HEADERS_BYTES, Path};
use crate::random::Random;
use crate::report::Report;
use crate::source::{Image, Source, verify};
use crate::store::StoreModel;
use crate::world::World;

pub(crate) const MS: u64 = 1_000_000;
/// Width of a sample of the arrival rate.
pub(crate) const SAMPLE_NS: u64 = 10 * MS;
/// Both ends' clocks begin here, so that their 32-bit microseconds wrap within many worlds.
const CLOCK_SENDER_NS: u64 = 4_294_000 * MS;
const CLOCK_RECEIVER_NS: u64 = 17_178_869 * MS;
/// An endpoint that wants to be polled at once again this often without doing anything burns a core.
const SPINS_MAX: u32 = 200;
const RECEIPT: u64 = 0x7ead;

struct Flight {
    to_receiver: bool,
    datagram: Vec<u8>,
}

/// How one end's packets are watched.
#[derive(Default)]
struct Watch {
    next_number: u64,
    packets: u64,
    bytes: u64,
}

/// A world under way.
pub(crate) struct Run<'w> {
    pub(crate) world: &'w World,
    trace: bool,
    now_ns: u64,
    sender: Sender<Image>,
    receiver: Receiver<Vec<u8>>,
    source: Source,
    store: StoreModel,
    forward: Path,
    reverse: Path,
    random: Random,
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    order: u64,
    hash: u64,
    watch_sender: Watch,
    watch_receiver: Watch,
    heard: bool,
    seen: Vec<bool>,
    extents: Vec<(u32, u64, u32)>,
    out: Vec<u8>,
    pub(crate) ending: Ending,
    report: Report,
    sender_wake: (u64, u64),
    receiver_wake: (u64, u64),
    spins: u32,
    finished: bool,
}

/// Runs a world to its end.
///
/// # Errors
/// [`Failure`] names what was broken.
pub fn run(world: &World, trace: bool) -> Result<Report, Failure> {
    let mut run = Run::new(world, trace)?;
    let until = deadline_ns(world);
    while !run.is_over() {
        if run.now_ns > until {
            return Err(Failure::TooLong { ms: until / MS, state: run.state() });
        }
        run.step()?;
    }
    run.report.trace_hash = run.hash;
    judge(world, &run.ending, &run.report)?;
    if run.ending.done.is_some() {
        if run.seen.len() != run.source.cut.len() {
            return Err(Failure::Lost { delivered: run.seen.len(), sent: run.source.cut.len() });
        }
        run.source.covers(&mut run.extents).map_err(Failure::Content)?;
    }
    run.finish_report();
    Ok(run.report)
}

impl<'w> Run<'w> {
    fn new(world: &'w World, trace: bool) -> Result<Self, Failure> {
        let mut random = Random::new(world.seed, 40);
        let lane = LaneId(random.bits());
        let mut secret = [0; 32];
        random.fill(&mut secret);
        let image_bytes_max = BlockWriter::image_bytes_max(world.block_bytes);
        let datagram_bytes_max = usize::from(world.chunk_bytes) + DATA_OVERHEAD_BYTES;
        let idle_timeout_ns = world.idle_timeout_ms * MS;
        let store = StoreModel::new(&world.store, image_bytes_max);
        let sender = Sender::new(
            SenderConfig {
                lane,
                secret: LaneSecret(secret),
                suite: world.suite,
                provider: world.sender_provider,
                chunk_bytes: world.chunk_bytes,
                blocks_allowed: store.allowed(),
                rate: RateConfig {
                    policy: world.policy,
                    target_bytes_per_s: (world.target_mbps * 125_000.0) as u64,
                    minimum_bytes_per_s: 0,
                    packet_bytes: datagram_bytes_max as u32 + HEADERS_BYTES,
                    seed: random.bits(),
                    initial_rtt_ns: (((world.forward.delay_ms + world.reverse.delay_ms) * 1e6) as u64).max(MS),
                },
                tail_copies: world.tail_copies,
                idle_timeout_ns,
            },
            CLOCK_SENDER_NS,
        );
        let receiver = Receiver::new(ReceiverConfig {
            lane,
            secret: LaneSecret(secret),
            suite: world.suite,
            provider: world.receiver_provider,
            chunk_bytes: world.chunk_bytes,
            image_bytes_max,
            blocks_allowed: store.allowed(),
            idle_timeout_ns,
        });
        let path =
            |way, direction| Path::new(way, direction, world.seed, datagram_bytes_max).map_err(|error| Failure::World(error.to_string()));
        Ok(Self {
            world,
            trace,
            now_ns: 0,
            sender,
            receiver,
            source: Source::new(world),
            store,
            forward: path(&world.forward, link::Way::Forward)?,
            reverse: path(&world.reverse, link::Way::Reverse)?,
            random,
            heap: BinaryHeap::new(),
            flights: Vec::new(),
            free: Vec::new(),
            order: 0,
            hash: world.seed,
            watch_sender: Watch::default(),
            watch_receiver: Watch::default(),
            heard: false,
            seen: Vec::new(),
            extents: Vec::new(),
            out: vec![0; 65_536],
            ending: Ending::default(),
            report: Report::default(),
            sender_wake: (0, 0),
            receiver_wake: (u64::MAX, u64::MAX),
            spins: 0,
            finished: false,
        })
    }

    fn is_over(&self) -> bool {
        self.ending.sender_end_ns.is_some() && self.ending.receiver_end_ns.is_some()
    }

    fn state(&self) -> String {
        format!(
            "sender {:?}; receiver {:?}; {} of {} blocks durable; fin {:?}; ending {:?}",
            self.sender.statistics(),
            self.receiver.statistics(),
            self.store.durable(),
            self.source.cut.len(),
            self.receiver.blocks_total(),
            self.ending
        )
    }

    fn step(&mut self) -> Result<(), Failure> {
        let arrival = self.heap.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
        let cancel = self.world.cancel_ms.filter(|_| !self.ending.cancelled).map_or(u64::MAX, |ms| ms * MS);
        let next = arrival.min(cancel).min(self.store.next_ns()).min(self.sender_wake.1).min(self.receiver_wake.1);
        if next == u64::MAX {
            return Err(Failure::Stuck { state: self.state() });
        }
        if next > self.now_ns {
            self.spins = 0;
        }
        self.now_ns = self.now_ns.max(next);
        let (mut drive_sender, mut drive_receiver) = (self.sender_wake.1 <= self.now_ns, self.receiver_wake.1 <= self.now_ns);
        if cancel <= self.now_ns {
            self.ending.cancelled = true;
            self.sender.close(close::CANCELLED, "cancelled by the user");
            drive_sender = true;
        }
        while self.heap.peek().is_some_and(|Reverse((at, ..))| *at <= self.now_ns) {
            let Some(Reverse((_, _, slot))) = self.heap.pop() else { break };
            let Some(flight) = self.flights[slot].take() else { continue };
            self.free.push(slot);
            if flight.to_receiver {
                self.arrive_at_receiver(&flight.datagram);
                drive_receiver = true;
            } else {
                self.arrive_at_sender(&flight.datagram);
                drive_sender = true;
            }
        }
        if self.store.advance(self.now_ns) {
            drive_receiver = true;
        }
        if drive_receiver {
            self.drive_receiver()?;
        }
        if drive_sender {
            self.drive_sender()?;
        }
        if self.ending.sender_end_ns.is_some() && !self.heard && self.heap.is_empty() {
            // The receiver never heard anything, so it has no timers: its owner forgets a lane that nobody used.
            self.ending.receiver_end_ns.get_or_insert(self.now_ns);
        }
        Ok(())
    }

    fn arrive_at_receiver(&mut self, datagram: &[u8]) {
        let now_ns = self.now_ns + CLOCK_RECEIVER_NS;
        let store = &mut self.store;
        let before = self.receiver.statistics().dropped_without_buffer;
        let taken = self.receiver.handle_datagram(now_ns, datagram, false, &mut || store.take());
        self.heard |= taken.is_ok();
        let after = self.receiver.statistics();
        self.report.dropped_without_buffer += after.dropped_without_buffer - before;
        let sample = (self.now_ns / SAMPLE_NS) as usize;
        if self.report.samples.len() <= sample {
            self.report.samples.resize(sample + 1, 0);
        }
        self.report.samples[sample] = after.data_bytes;
        if self.trace {
            println!("{:>14} receiver < {} {:?}", self.now_ns, name(datagram), taken);
        }
    }

    fn arrive_at_sender(&mut self, datagram: &[u8]) {
        if self.ending.sender_end_ns.is_some() {
            return;
        }
        let taken = self.sender.handle_datagram(self.now_ns + CLOCK_SENDER_NS, datagram);
        if self.trace {
            println!("{:>14} sender   < {} {:?}", self.now_ns, name(datagram), taken);
        }
    }

    fn drive_sender(&mut self) -> Result<(), Failure> {
        if self.ending.sender_end_ns.is_some() {
            return Ok(());
        }
        let now_ns = self.now_ns + CLOCK_SENDER_NS;
        let mut idle = true;
        loop {
            while self.sender.wants_block() {
                let Some(image) = self.source.next_block() else { break };
                if self.sender.open_block(now_ns, image).is_err() {
                    return Err(Failure::Refused { block: self.source.cut.len() - 1 });
                }
                idle = false;
            }
            if self.source.is_exhausted() {
                self.sender.finish();
            }
            let mut out = std::mem::take(&mut self.out);
            let bytes = self.sender.poll_transmit(now_ns, &mut out);
            let sent = if bytes > 0 { self.launch(true, &out[..bytes]) } else { Ok(()) };
            self.out = out;
            sent?;
            while let Some(event) = self.sender.poll_event() {
                idle = false;
                self.on_sender_event(event);
            }
            if bytes == 0 {
                break;
            }
            idle = false;
        }
        if self.sender.is_closed() {
            self.ending.sender_end_ns = Some(self.now_ns);
            self.sender_wake = (u64::MAX, u64::MAX);
            return Ok(());
        }
        let at = self.sender.poll_timeout(now_ns).saturating_sub(CLOCK_SENDER_NS);
        self.sender_wake = self.wake("sender", self.sender_wake, at, idle)?;
        Ok(())
    }

    fn on_sender_event(&mut self, event: SenderEvent<Image>) {
        if self.trace {
            println!(
                "{:>14} sender   ! {}",
                self.now_ns,
                match &event {
                    SenderEvent::BlockReceived { block, .. } => format!("block {} received", block.0),
                    SenderEvent::Done { receipt } => format!("done {receipt}"),
                    SenderEvent::Closed { code, text } => format!("closed {code} {text}"),
                }
            );
        }
        match event {
            SenderEvent::BlockReceived { image, .. } => self.source.recycle(image),
            SenderEvent::Done { receipt } => {
                self.ending.done = Some(receipt == RECEIPT);
                self.report.done_ns = self.now_ns;
            }
            SenderEvent::Closed { code, .. } => self.ending.sender_codes.push(code),
        }
    }

    fn drive_receiver(&mut self) -> Result<(), Failure> {
        let now_ns = self.now_ns + CLOCK_RECEIVER_NS;
        let mut idle = true;
        while let Some(event) = self.receiver.poll_event() {
            idle = false;
            self.on_receiver_event(event)?;
        }
        if self.ending.receiver_end_ns.is_some() {
            return Ok(());
        }
        self.store.advance(self.now_ns);
        self.receiver.set_blocks_allowed(now_ns, self.store.allowed());
        self.receiver.set_storage(now_ns, self.store.durable(), self.store.rate_kbps(), self.store.is_limiting());
        if self.receiver.blocks_total() == Some(self.store.durable()) && !self.finished {
            self.finished = true;
            self.ending.durable = true;
            self.receiver.finish(now_ns, RECEIPT);
        }
        loop {
            let mut out = std::mem::take(&mut self.out);
            let bytes = self.receiver.poll_transmit(now_ns, &mut out);
            let sent = if bytes > 0 { self.launch(false, &out[..bytes]) } else { Ok(()) };
            self.out = out;
            sent?;
            if bytes == 0 {
                break;
            }
            idle = false;
        }
        while let Some(event) = self.receiver.poll_event() {
            idle = false;
            self.on_receiver_event(event)?;
        }
        if self.receiver.is_closed() {
            self.ending.receiver_end_ns = Some(self.now_ns);
            self.receiver_wake = (u64::MAX, u64::MAX);
            return Ok(());
        }
        let at = self.receiver.poll_timeout();
        let at = if at == u64::MAX { at } else { at.saturating_sub(CLOCK_RECEIVER_NS) };
        self.receiver_wake = self.wake("receiver", self.receiver_wake, at, idle)?;
        Ok(())
    }

    /// When an end is polled next: at its timer, late by what its host needs to wake up.
    fn wake(&mut self, end: &'static str, before: (u64, u64), at: u64, idle: bool) -> Result<(u64, u64), Failure> {
        if at == u64::MAX {
            return Ok((at, at));
        }
        if at <= self.now_ns {
            self.spins += u32::from(idle);
            if self.spins > SPINS_MAX {
                return Err(Failure::Spins { end, ms: self.now_ns / MS, state: self.state() });
            }
        }
        if before.0 == at && before.1 > self.now_ns {
            return Ok(before);
        }
        let late = if self.world.wake_late_us == 0 { 0 } else { self.random.within(0, self.world.wake_late_us * 1000) };
        Ok((at, at.max(self.now_ns) + late))
    }

    fn on_receiver_event(&mut self, event: ReceiverEvent<Vec<u8>>) -> Result<(), Failure> {
        match event {
            ReceiverEvent::Block { block, buffer, image_bytes } => {
                let id = block.0 as usize;
                if self.trace {
                    println!("{:>14} receiver ! block {id} of {image_bytes} bytes", self.now_ns);
                }
                if self.seen.len() <= id {
                    self.seen.resize(id + 1, false);
                }
                if std::mem::replace(&mut self.seen[id], true) {
                    return Err(Failure::Twice { block: id });
                }
                verify(self.source.cut.get(id), &buffer[..image_bytes], &mut self.extents)
                    .map_err(|reason| Failure::Content(format!("block {id}: {reason}")))?;
                self.report.last_block_ns = self.now_ns;
                if !self.store.accept(self.now_ns, buffer, image_bytes) {
                    self.ending.store_failed = true;
                    self.receiver.close(close::STORAGE, "the store answered 403");
                }
            }
            ReceiverEvent::Fin { blocks } => {
                if blocks as usize != self.source.cut.len() || !self.source.is_exhausted() {
                    return Err(Failure::Fin { said: blocks, cut: self.source.cut.len() });
                }
            }
            ReceiverEvent::Closed { code, .. } => self.ending.receiver_codes.push(code),
        }
        Ok(())
    }

    /// Checks a datagram that an end has sent and puts it on its way.
    fn launch(&mut self, from_sender: bool, datagram: &[u8]) -> Result<(), Failure> {
        let header = Header::parse(datagram).map_err(|_| Failure::Packet("an endpoint sent what is no packet"))?;
        if datagram.len() > usize::from(self.world.chunk_bytes) + DATA_OVERHEAD_BYTES {
            return Err(Failure::Packet("a datagram is larger than the path carries"));
        }
        if !from_sender && !self.heard {
            return Err(Failure::Packet("the receiver sent before it had heard an authentic packet"));
        }
        let watch = if from_sender { &mut self.watch_sender } else { &mut self.watch_receiver };
        if header.packet_number.get() < watch.next_number {
            return Err(Failure::Packet("a packet number was used twice"));
        }
        watch.next_number = header.packet_number.get() + 1;
        watch.packets += 1;
        watch.bytes += datagram.len() as u64 + u64::from(HEADERS_BYTES);
        self.hash =
            (self.hash ^ self.now_ns ^ tradewind_proto::block::crc64_nvme(datagram)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        if from_sender && header.kind == Kind::Data {
            self.report.on_data(self.now_ns, DataHeader::parse(datagram).ok());
        }
        if self.trace {
            println!("{:>14} {} > {}", self.now_ns, if from_sender { "sender  " } else { "receiver" }, name(datagram));
        }
        let Self { forward, reverse, heap, flights, free, order, .. } = self;
        let path = if from_sender { forward } else { reverse };
        path.offer(self.now_ns, datagram, |due_ns, datagram| {
            let flight = Some(Flight { to_receiver: from_sender, datagram });
            let slot = match free.pop() {
                Some(slot) => {
                    flights[slot] = flight;
                    slot
                }
                None => {
                    flights.push(flight);
                    flights.len() - 1
                }
            };
            *order += 1;
            heap.push(Reverse((due_ns, *order, slot)));
        });
        Ok(())
    }

    fn finish_report(&mut self) {
        let report = &mut self.report;
        report.sender = self.sender.statistics();
        report.receiver = self.receiver.statistics();
        report.forward_bytes = self.watch_sender.bytes;
        report.reverse_bytes = self.watch_receiver.bytes;
        report.forward_packets = self.watch_sender.packets;
        report.dropped_by_queue = self.forward.dropped_by_queue;
        report.dropped_at_random = self.forward.dropped_at_random;
        report.queue_us = std::mem::take(&mut self.forward.queue_us);
        report.blocks_held_most = self.store.most_taken;
        report.completed = self.ending.done.is_some();
    }
}

fn name(datagram: &[u8]) -> String {
    let Ok(header) = Header::parse(datagram) else { return format!("{} bytes that are no packet", datagram.len()) };
    let base = format!("{:?} {} of {} bytes", header.kind, header.packet_number.get(), datagram.len());
    match DataHeader::parse(datagram) {
        Ok(data) if header.kind == Kind::Data => {
            format!("{base}: block {} chunk {} train {} floor {}", data.block.0, data.chunk, data.train, data.floor_segment)
        }
        _ => base,
    }
}
