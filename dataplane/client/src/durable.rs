//! What the destination has already: only the rest is sent.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tradewind_proto::block::{FileRecord, Fingerprint, fingerprint};

use crate::source::{self, Source};

/// What earlier transfers to the same destination have left there.
#[derive(Clone, Debug, Default)]
pub struct Durable {
    files: HashSet<Fingerprint>,
    /// Ranges of bytes, in order, by the file's fingerprint.
    parts: HashMap<Fingerprint, Vec<Range<u64>>>,
    /// CRC-64/NVME of whole files, and of ranges by where they begin, if contents are to be compared.
    checksums: Option<HashMap<(Fingerprint, Option<u64>), u64>>,
}

impl Durable {
    /// One that is only believed where the contents of a source have the same checksum.
    #[must_use]
    pub fn compared() -> Self {
        Self { checksums: Some(HashMap::new()), ..Self::default() }
    }

    /// A whole file, by what [`fingerprint`] makes of its name at the destination, size and time, and the CRC-64/NVME of its contents, if known.
    pub fn add_file(&mut self, file: Fingerprint, crc64: Option<u64>) {
        match (&mut self.checksums, crc64) {
            (None, _) => drop(self.files.insert(file)),
            (Some(checksums), Some(crc64)) => {
                self.files.insert(file);
                checksums.insert((file, None), crc64);
            }
            // Nothing to compare with.
            (Some(_), None) => {}
        }
    }

    /// Bytes of a file that is not whole yet, and their CRC-64/NVME, if known.
    pub fn add_part(&mut self, file: Fingerprint, range: Range<u64>, crc64: Option<u64>) {
        if let (Some(checksums), Some(crc64)) = (&mut self.checksums, crc64) {
            checksums.insert((file, Some(range.start)), crc64);
        }
        self.parts.entry(file).or_default().push(range);
    }

    /// What of a file is durable has to be compared first: ranges and their checksums; `None`: nothing has to.
    pub(crate) fn to_compare(&self, record: &FileRecord) -> Option<Vec<(Range<u64>, Option<u64>)>> {
        let checksums = self.checksums.as_ref()?;
        let file = fingerprint(&record.path, record.size, record.mtime_ns);
        if self.files.contains(&file) {
            return Some(vec![(0..record.size, checksums.get(&(file, None)).copied())]);
        }
        let ranges = self.parts.get(&file)?;
        Some(ranges.iter().map(|range| (range.clone(), checksums.get(&(file, Some(range.start))).copied())).collect())
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.parts.is_empty()
    }

    /// What is sent of a source, bytes, if it is durable as a whole and has not changed. `sent` makes that of the source's size.
    pub(crate) fn has(&self, source: &Source, sent: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        if self.files.is_empty() || self.checksums.is_some() {
            return None;
        }
        // A source that cannot be looked at is found out when it is opened.
        let (size, mtime_ns) = source::size_and_time(source).ok()?;
        let size = sent(size)?;
        self.files.contains(&fingerprint(&source.name, size, mtime_ns)).then_some(size)
    }

    /// The ranges of a file that are still to be sent; one empty range for an empty file.
    pub(crate) fn missing(&self, record: &FileRecord) -> Vec<Range<u64>> {
        self.missing_of(&record.path, record.size, record.mtime_ns)
    }

    /// The ranges that are still to be sent of a file of this name, size and time: none if it is durable as a whole.
    #[must_use]
    pub fn wanted(&self, path: &[u8], size: u64, mtime_ns: i64) -> Vec<Range<u64>> {
        if self.files.contains(&fingerprint(path, size, mtime_ns)) { Vec::new() } else { self.missing_of(path, size, mtime_ns) }
    }

    fn missing_of(&self, path: &[u8], size: u64, mtime_ns: i64) -> Vec<Range<u64>> {
        let mut there = Vec::new();
        if !self.parts.is_empty()
            && let Some(ranges) = self.parts.get(&fingerprint(path, size, mtime_ns))
        {
            there.clone_from(ranges);
            // A list may come from anybody.
            there.retain(|range| range.start < range.end);
            there.sort_by_key(|range| range.start);
        }
        let mut missing = Vec::new();
        let mut from = 0;
        for range in there {
            let start = range.start.min(size);
            if start > from {
                missing.push(from..start);
            }
            from = from.max(range.end);
        }
        if from < size || size == 0 {
            missing.push(from.min(size)..size);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use tradewind_proto::block::{Attributes, FileId};

    use super::*;

    #[test]
    fn only_what_is_missing_of_the_same_file_is_sent() {
        let record =
            FileRecord { file: FileId(0), path: b"d/f".to_vec(), size: 100, mtime_ns: 5, mode: 0, attributes: Attributes::default() };
        let mut durable = Durable::default();
        let missing = |durable: &Durable, record: &FileRecord| -> Vec<(u64, u64)> {
            durable.missing(record).into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(missing(&durable, &record), [(0, 100)]);
        let of = |record: &FileRecord| fingerprint(&record.path, record.size, record.mtime_ns);
        durable.add_part(of(&record), 60..80, None);
        durable.add_part(of(&record), 0..10, None);
        durable.add_part(of(&record), 10..20, None);
        assert_eq!(missing(&durable, &record), [(20, 60), (80, 100)]);
        durable.add_part(of(&record), 80..100, None);
        assert_eq!(missing(&durable, &record), [(20, 60)]);
        for other in [
            FileRecord { path: b"d/g".to_vec(), ..record.clone() },
            FileRecord { size: 101, ..record.clone() },
            FileRecord { mtime_ns: 6, ..record.clone() },
        ] {
            assert_eq!(missing(&durable, &other), [(0, other.size)], "another file, or the same one changed");
        }
        let empty = FileRecord { size: 0, ..record };
        assert_eq!(missing(&durable, &empty), [(0, 0)]);
    }

    #[test]
    fn a_list_that_makes_no_sense_asks_for_nothing_that_is_not_there() {
        let mut durable = Durable::default();
        let file = |size| fingerprint(b"f", size, 5);
        for range in [200..300, 400..500, Range { start: 7, end: 3 }, u64::MAX - 1..u64::MAX] {
            durable.add_part(file(100), range.clone(), None);
            durable.add_part(file(0), range, None);
        }
        for size in [0, 100] {
            let wanted = durable.wanted(b"f", size, 5);
            assert!(wanted.iter().all(|range| range.start <= range.end && range.end <= size), "{wanted:?}");
        }
        assert_eq!(durable.wanted(b"f", 100, 5).iter().map(|range| range.end - range.start).sum::<u64>(), 100);
    }
}
