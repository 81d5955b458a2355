//! Blocks put together out of packets that are lost, repeated and out of order.

use anyhow::{Result, ensure};
use tradewind_proto::crypto::{Direction, SealKeys};
use tradewind_proto::receiver::{Receiver, ReceiverEvent};
use tradewind_wire::header::FLAG_LAST_CHUNK;
use tradewind_wire::limits::{BLOCK_PAYLOAD_DEFAULT, SEGMENT_PACKETS};
use tradewind_wire::{BlockId, DataHeader, Kind};

use crate::Workload;
use crate::lane::{CHUNK, MS, receiver_config, seal_keys, write_packet};
use crate::random::Random;

const LOSS_PERCENT: u64 = 5;
/// Packets arrive up to this many places from where they were sent.
const REORDER: usize = 32;
const DATAGRAM_BYTES: usize = 2048;

struct Reassembly {
    receiver: Receiver<Vec<u8>>,
    seal: SealKeys,
    random: Random,
    image: Vec<u8>,
    next: u64,
    block: u32,
    now_ns: u64,
    buffers: Vec<Vec<u8>>,
    datagrams: Vec<(usize, [u8; DATAGRAM_BYTES])>,
    out: Vec<u8>,
    whole: Option<(u32, usize)>,
}

fn chunks() -> usize {
    BLOCK_PAYLOAD_DEFAULT.div_ceil(usize::from(CHUNK))
}

pub(crate) fn packets() -> Result<Box<dyn Workload>> {
    let mut random = Random(9);
    let mut image = vec![0; BLOCK_PAYLOAD_DEFAULT];
    random.fill(&mut image);
    Ok(Box::new(Reassembly {
        receiver: Receiver::new(receiver_config(CHUNK, BLOCK_PAYLOAD_DEFAULT)),
        seal: seal_keys(Direction::Forward),
        random,
        image,
        next: 0,
        block: 0,
        now_ns: 0,
        buffers: vec![vec![0; BLOCK_PAYLOAD_DEFAULT]],
        datagrams: Vec::new(),
        out: vec![0; DATAGRAM_BYTES],
        whole: None,
    }))
}

impl Reassembly {
    fn write(&mut self, chunk: usize, lost: bool) -> Result<()> {
        let number = self.next;
        self.next += 1;
        if lost {
            return Ok(());
        }
        let start = chunk * usize::from(CHUNK);
        let plain = &self.image[start..self.image.len().min(start + usize::from(CHUNK))];
        let flags = if chunk + 1 == chunks() { FLAG_LAST_CHUNK } else { 0 };
        let data = DataHeader {
            sent_us: (self.now_ns / 1000) as u32,
            train: (number / 64 % 255) as u8,
            // All verdicts of the blocks before have reached the sender.
            floor_segment: (number.saturating_sub(2 * chunks() as u64) / SEGMENT_PACKETS as u64) as u16,
            block: BlockId(self.block),
            chunk: chunk as u16,
        };
        let mut datagram = [0; DATAGRAM_BYTES];
        let bytes = write_packet(&mut self.seal, Kind::Data, flags, number, &data.to_bytes(), plain, &mut datagram)?;
        self.datagrams.push((bytes, datagram));
        Ok(())
    }
}

impl Workload for Reassembly {
    fn operations(&self) -> u64 {
        chunks() as u64
    }

    fn prepare(&mut self) -> Result<()> {
        // What the receiver says between two blocks is another workload's.
        while self.receiver.poll_transmit(self.now_ns, &mut self.out) > 0 {}
        self.now_ns += MS;
        self.datagrams.clear();
        let mut again = Vec::new();
        for chunk in 0..chunks() {
            let lost = self.random.percent(LOSS_PERCENT);
            if lost {
                again.push(chunk);
            }
            self.write(chunk, lost)?;
        }
        for chunk in again {
            self.write(chunk, false)?;
        }
        for at in 0..self.datagrams.len() {
            let other = (at + self.random.below(REORDER as u64) as usize).min(self.datagrams.len() - 1);
            self.datagrams.swap(at, other);
        }
        for buffer in &mut self.buffers {
            buffer.fill(0);
        }
        self.whole = None;
        Ok(())
    }

    fn run(&mut self) -> u64 {
        let mut taken = 0;
        let buffers = &mut self.buffers;
        for (bytes, datagram) in &self.datagrams {
            let arrival = self.receiver.handle_datagram(self.now_ns, &datagram[..*bytes], false, &mut || buffers.pop());
            taken += u64::from(arrival.is_ok());
            while let Some(event) = self.receiver.poll_event() {
                if let ReceiverEvent::Block { block, buffer, image_bytes } = event {
                    self.whole = Some((block.0, image_bytes));
                    buffers.push(buffer);
                }
            }
        }
        taken
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result == self.operations(), "{result} of {} packets were taken", self.operations());
        ensure!(self.whole == Some((self.block, self.image.len())), "block {} is not whole", self.block);
        ensure!(self.buffers.first().is_some_and(|buffer| *buffer == self.image), "block {} holds other bytes", self.block);
        self.block += 1;
        Ok(())
    }
}
