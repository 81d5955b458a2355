//! What HDFS tells of a file's contents: MD5 of the MD5 of the CRCs that DataNodes keep of every 512 bytes
//! (Hadoop 2.7, `DFSClient.getFileChecksum`, `MD5MD5CRC32FileChecksum`).
//!
//! A DataNode computes these CRCs of what it received. So they tell, without reading a file back, whether all of it arrived.

use bytes::Bytes;
use crc_fast::CrcAlgorithm::{self, Crc32Iscsi, Crc32IsoHdlc};
use md5::{Digest as _, Md5};
use serde::Deserialize;

use crate::checksum::{Crc64, RunningCrc64};

/// Bytes of which DataNodes keep a CRC (`dfs.bytes-per-checksum`), where nobody has set it otherwise.
pub(super) const CRC_BYTES_DEFAULT: u64 = 512;
/// Capacity with which Hadoop's buffer of blocks' MD5s begins, bytes. What it does not fill is part of the checksum.
const BUFFER_BYTES: usize = 32;
const MD5_BYTES: usize = 16;

/// The answer to GETFILECHECKSUM.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Told {
    file_checksum: FileChecksum,
}

#[derive(Deserialize)]
struct FileChecksum {
    algorithm: String,
    bytes: String,
}

/// How a cluster computes checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// Of CRC-32C or the CRC-32 of gzip.
    is_castagnoli: bool,
    /// Bytes of each CRC.
    crc_bytes: u64,
    /// Bytes of a block.
    block_bytes: u64,
}

impl Method {
    /// That of most clusters, of a file of one block.
    pub(super) const USUAL: Self = Self { is_castagnoli: true, crc_bytes: CRC_BYTES_DEFAULT, block_bytes: u64::MAX };

    const fn crc(self) -> CrcAlgorithm {
        if self.is_castagnoli { Crc32Iscsi } else { Crc32IsoHdlc }
    }
}

/// Least bytes of a CRC that are believed.
const CRC_BYTES_MIN: u64 = 16;
/// Least bytes of a block that are believed: the tests' clusters have such.
const BLOCK_BYTES_MIN: u64 = 1024;

/// The checksum of a whole file.
pub(super) type FileMd5 = [u8; MD5_BYTES];

impl Told {
    /// How it was computed, and what came out; `None` of a way that is not known.
    pub(super) fn checksum(&self) -> Option<(Method, FileMd5)> {
        let algorithm = &self.file_checksum.algorithm;
        let is_castagnoli = algorithm.ends_with("CRC32C");
        if !algorithm.starts_with("MD5-of-") || !(is_castagnoli || algorithm.ends_with("CRC32")) {
            return None;
        }
        // What follows is what a buffer had room for.
        let hex = self.file_checksum.bytes.as_bytes().chunks_exact(2);
        let bytes: Option<Vec<u8>> =
            hex.take(4 + 8 + MD5_BYTES).map(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok()).collect();
        let bytes = bytes.filter(|bytes| bytes.len() == 4 + 8 + MD5_BYTES)?;
        let crc_bytes = u64::from(u32::from_be_bytes(bytes[..4].try_into().ok()?));
        let block_bytes = match u64::from_be_bytes(bytes[4..12].try_into().ok()?) {
            // There is only one.
            0 => u64::MAX,
            crcs => crcs.checked_mul(crc_bytes)?,
        };
        // Smaller ones are nobody's, and would cost more memory than the file.
        (crc_bytes >= CRC_BYTES_MIN && block_bytes >= BLOCK_BYTES_MIN)
            .then_some((Method { is_castagnoli, crc_bytes, block_bytes }, bytes[12..].try_into().ok()?))
    }
}

/// What HDFS will tell of a file with these contents, and their CRC-64.
pub(super) fn checksum(chunks: &[Bytes], method: Method) -> (FileMd5, Crc64) {
    let mut crc64 = RunningCrc64::default();
    let mut blocks = Blocks::new(method);
    for chunk in chunks {
        crc64.update(chunk);
        blocks.update(chunk);
    }
    (blocks.finish(), crc64.finish())
}

/// A checksum under way.
struct Blocks {
    method: Method,
    /// Of the bytes since the last CRC.
    crc: crc_fast::Digest,
    crc_left: u64,
    /// Of the block's CRCs.
    block: Md5,
    block_left: u64,
    /// The blocks' MD5s.
    done: Vec<u8>,
}

impl Blocks {
    fn new(method: Method) -> Self {
        let Method { crc_bytes, block_bytes, .. } = method;
        let (crc, block) = (crc_fast::Digest::new(method.crc()), Md5::new());
        Self { method, crc, crc_left: crc_bytes, block, block_left: block_bytes, done: Vec::new() }
    }

    fn update(&mut self, chunk: &Bytes) {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let wanted = usize::try_from(self.crc_left.min(self.block_left)).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(wanted.min(rest.len()));
            rest = later;
            self.crc.update(now);
            self.crc_left -= now.len() as u64;
            self.block_left -= now.len() as u64;
            if self.crc_left == 0 || self.block_left == 0 {
                self.end_crc();
            }
            if self.block_left == 0 {
                self.end_block();
            }
        }
    }

    fn end_crc(&mut self) {
        // The lower half: a CRC of 32 bits.
        self.block.update(&self.crc.finalize().to_be_bytes()[4..]);
        self.crc.reset();
        self.crc_left = self.method.crc_bytes;
    }

    fn end_block(&mut self) {
        self.done.extend_from_slice(&std::mem::take(&mut self.block).finalize());
        self.block_left = self.method.block_bytes;
    }

    fn finish(mut self) -> FileMd5 {
        if self.crc_left < self.method.crc_bytes {
            self.end_crc();
        }
        if self.block_left < self.method.block_bytes {
            self.end_block();
        }
        let capacity = self.done.len().next_power_of_two().max(BUFFER_BYTES);
        self.done.resize(capacity, 0);
        Md5::digest(&self.done).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Body;

    fn told(algorithm: &str, bytes: &str) -> Option<(Method, FileMd5)> {
        let text = serde_json::json!({"FileChecksum": {"algorithm": algorithm, "bytes": bytes, "length": 28}}).to_string();
        serde_json::from_str::<Told>(&text).unwrap().checksum()
    }

    /// As Hadoop 2.7.3 answered for files of these contents in blocks of 1 MiB.
    #[test]
    fn checksums_are_those_that_hadoop_tells() {
        let data: Vec<u8> = (0..(3 << 20) + 300).map(|at| (at % 251) as u8).collect();
        for (len, algorithm, bytes) in [
            (700, "MD5-of-0MD5-of-512CRC32C", "0000020000000000000000009fa2b3b956bb218996e0a1cf665005b100000000"),
            ((1 << 20) + 300, "MD5-of-2048MD5-of-512CRC32C", "0000020000000000000008002cc0d4f621f045cee90d6d5d6db6210200000000"),
            ((3 << 20) + 300, "MD5-of-2048MD5-of-512CRC32C", "0000020000000000000008007bf2bdb03bcaec8187635086f3a8c23200000000"),
        ] {
            let (method, theirs) = told(algorithm, bytes).unwrap();
            assert_eq!(method.block_bytes, if len == 700 { u64::MAX } else { 1 << 20 });
            for chunk_bytes in [1, 511, 512, 70_001, len] {
                let chunks = if chunk_bytes == 1 { data[..700].chunks(1) } else { data[..len].chunks(chunk_bytes) };
                let body = Body::new(chunks.map(Bytes::copy_from_slice).collect(), Crc64::of(&data[..len]));
                let (ours, crc) = checksum(body.chunks(), method);
                assert_eq!(
                    (ours == theirs, crc == body.crc()),
                    (body.len() == len as u64, body.len() == len as u64),
                    "{len} in {chunk_bytes}"
                );
            }
        }
        assert_eq!(Method::USUAL, told("MD5-of-0MD5-of-512CRC32C", &format!("00000200{}", "0".repeat(48))).unwrap().0);
    }

    #[test]
    fn checksums_that_are_none_of_these_are_not_compared() {
        let good = format!("00000200{}", "0".repeat(48));
        assert!(told("MD5-of-0MD5-of-512CRC32", &good).is_some_and(|(method, _)| !method.is_castagnoli));
        for (algorithm, bytes) in [
            ("COMPOSITE-CRC32C", good.as_str()),
            ("MD5-of-0MD5-of-512SHA", &good),
            ("", ""),
            ("MD5-of-0MD5-of-0CRC32", &"0".repeat(56)),
            ("MD5-of-0MD5-of-512CRC32C", &good[1..]),
            ("MD5-of-0MD5-of-512CRC32C", &good[2..]),
            ("MD5-of-0MD5-of-512CRC32C", &format!("é{}", &good[2..])),
            ("MD5-of-0MD5-of-512CRC32C", &format!("ffffffff{}{}", "f".repeat(16), "0".repeat(32))),
        ] {
            assert!(told(algorithm, bytes).is_none(), "{algorithm} {bytes}");
        }
    }
}
