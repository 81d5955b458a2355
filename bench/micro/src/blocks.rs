//! Cutting blocks at the sender and reading their tables at the receiver.

use std::hint::black_box;

use anyhow::{Result, ensure};
use tradewind_proto::block::{BlockTable, BlockWriter, FileId, FileRecord, crc64_nvme};
use tradewind_wire::limits::BLOCK_PAYLOAD_DEFAULT;

use crate::Workload;
use crate::random::Random;

/// Files of a block of small ones: as many as its table has room for at this length of paths, nearly.
const FILES: usize = 700;
const FILE_BYTES: usize = 1400;

/// Files that fill one block, and the slot that their bytes lie in.
struct Content {
    files: Vec<(FileRecord, usize)>,
    slot: Vec<u8>,
}

fn content(count: usize, bytes: usize) -> Content {
    let record = |file: usize| FileRecord {
        file: FileId(file as u32),
        path: format!("footage/day-{:02}/clip-{file:06}.mov", file % 31).into_bytes(),
        size: bytes as u64,
        mtime_ns: 1_700_000_000_000_000_000 + file as i64,
        mode: 0o644,
        attributes: [].into(),
    };
    let mut slot = vec![0; BlockWriter::image_bytes_max(BLOCK_PAYLOAD_DEFAULT)];
    Random(6).fill(&mut slot[..count * bytes]);
    Content { files: (0..count).map(|file| (record(file), bytes)).collect(), slot }
}

impl Content {
    /// What a sender does with bytes that it has read into the slot.
    fn cut(&mut self, writer: &mut BlockWriter) -> usize {
        for (record, bytes) in &self.files {
            let at = writer.payload_bytes();
            if writer.window_room(record, 0).is_none_or(|room| room < *bytes) {
                return 0;
            }
            let crc = crc64_nvme(black_box(&self.slot[at..at + bytes]));
            if writer.add(record, 0, *bytes as u32, crc).is_err() {
                return 0;
            }
        }
        writer.finish(&mut self.slot)
    }
}

struct Cut {
    content: Content,
    writer: BlockWriter,
}

fn cut(count: usize, bytes: usize) -> Box<dyn Workload> {
    Box::new(Cut { content: content(count, bytes), writer: BlockWriter::new(BLOCK_PAYLOAD_DEFAULT) })
}

pub(crate) fn cut_large() -> Result<Box<dyn Workload>> {
    Ok(cut(1, BLOCK_PAYLOAD_DEFAULT))
}

pub(crate) fn cut_small() -> Result<Box<dyn Workload>> {
    Ok(cut(FILES, FILE_BYTES))
}

impl Workload for Cut {
    fn operations(&self) -> u64 {
        1
    }

    fn run(&mut self) -> u64 {
        self.content.cut(&mut self.writer) as u64
    }

    fn check(&mut self, result: u64) -> Result<()> {
        let table = BlockTable::verified(&self.content.slot[..result as usize])?;
        ensure!(table.files.iter().eq(self.content.files.iter().map(|(record, _)| record)), "the block does not hold the files");
        Ok(())
    }
}

struct Read {
    image: Vec<u8>,
    files: usize,
}

fn read(count: usize, bytes: usize) -> Box<dyn Workload> {
    let mut content = content(count, bytes);
    let length = content.cut(&mut BlockWriter::new(BLOCK_PAYLOAD_DEFAULT));
    content.slot.truncate(length);
    Box::new(Read { image: content.slot, files: count })
}

pub(crate) fn read_large() -> Result<Box<dyn Workload>> {
    Ok(read(1, BLOCK_PAYLOAD_DEFAULT))
}

pub(crate) fn read_small() -> Result<Box<dyn Workload>> {
    Ok(read(FILES, FILE_BYTES))
}

impl Workload for Read {
    fn operations(&self) -> u64 {
        1
    }

    fn run(&mut self) -> u64 {
        BlockTable::verified(black_box(&self.image)).map_or(0, |table| table.files.len() as u64)
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result == self.files as u64, "{result} of {} files were read", self.files);
        Ok(())
    }
}
