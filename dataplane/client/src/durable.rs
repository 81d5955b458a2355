//! What the destination has already: only the rest is sent.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tradewind_proto::block::{FileRecord, Fingerprint, fingerprint};

use crate::source::{self, Source};

/// Files of at most so many bytes are compared as a whole, bytes.
const WHOLE_BYTES_MAX: u64 = 4 << 20;
/// Parts of a file that are compared where samples are enough.
const PARTS_SAMPLED: usize = 8;

/// How much of a source is read to believe that what is durable is what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compare {
    /// Nothing: size and modification time are enough.
    #[default]
    Attributes,
    /// Files of at most 4 MiB and those of which no samples are known as a whole; else the samples. Of a file that is not whole yet at most eight
    /// of its durable parts: the first, the last, and some evenly between.
    Samples,
    /// All that is durable.
    All,
}

/// A range of a file and its CRC-64/NVME, if that is known.
type Known = (Range<u64>, Option<u64>);

/// What earlier transfers to the same destination have left there.
#[derive(Clone, Debug, Default)]
pub struct Durable {
    files: HashSet<Fingerprint>,
    /// Ranges of bytes, in order, by the file's fingerprint.
    parts: HashMap<Fingerprint, Vec<Range<u64>>>,
    compare: Compare,
    /// CRC-64/NVME of whole files, and of ranges by where they begin, if contents are to be compared.
    checksums: HashMap<(Fingerprint, Option<u64>), u64>,
    /// Ranges of whole files and their CRC-64/NVME, if these are to be compared.
    samples: HashMap<Fingerprint, Vec<Known>>,
}

/// What of a source has to have the checksums that are known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ToCompare {
    /// Ranges and their CRC-64/NVME; without one a range is not the same.
    pub(crate) ranges: Vec<Known>,
    /// The file is durable as a whole if they have.
    pub(crate) is_whole: bool,
}

impl Durable {
    /// One that is only believed where the contents of a source have the same checksums.
    #[must_use]
    pub fn compared(compare: Compare) -> Self {
        Self { compare, ..Self::default() }
    }

    /// A whole file, by what [`fingerprint`] makes of its name at the destination, size and time, and the CRC-64/NVME of its contents, if known.
    /// `samples`: ranges of it and their CRC-64/NVME.
    pub fn add_file(&mut self, file: Fingerprint, crc64: Option<u64>, samples: impl Iterator<Item = (Range<u64>, Option<u64>)>) {
        if self.compare != Compare::Attributes {
            // Nothing to compare with.
            let Some(crc64) = crc64 else { return };
            self.checksums.insert((file, None), crc64);
        }
        if self.compare == Compare::Samples {
            let samples: Vec<_> = samples.filter(|(range, _)| range.start < range.end).collect();
            if !samples.is_empty() {
                self.samples.insert(file, samples);
            }
        }
        self.files.insert(file);
    }

    /// Bytes of a file that is not whole yet, and their CRC-64/NVME, if known.
    pub fn add_part(&mut self, file: Fingerprint, range: Range<u64>, crc64: Option<u64>) {
        if let (true, Some(crc64)) = (self.compare != Compare::Attributes, crc64) {
            self.checksums.insert((file, Some(range.start)), crc64);
        }
        self.parts.entry(file).or_default().push(range);
    }

    /// What of a file is durable has to be compared first; `None`: nothing has to.
    pub(crate) fn to_compare(&self, record: &FileRecord) -> Option<ToCompare> {
        if self.compare == Compare::Attributes {
            return None;
        }
        let file = fingerprint(&record.path, record.size, record.mtime_ns);
        if self.files.contains(&file) {
            let samples = self.samples.get(&file).filter(|_| record.size > WHOLE_BYTES_MAX);
            // A list may come from anybody: what lies behind the file is no sample of it.
            let samples = samples.filter(|samples| samples.iter().all(|(range, _)| range.end <= record.size));
            let whole = || vec![(0..record.size, self.checksums.get(&(file, None)).copied())];
            return Some(ToCompare { ranges: samples.cloned().unwrap_or_else(whole), is_whole: true });
        }
        let parts = self.parts.get(&file)?;
        let mut ranges: Vec<_> =
            parts.iter().map(|range| (range.clone(), self.checksums.get(&(file, Some(range.start))).copied())).collect();
        if self.compare == Compare::Samples && ranges.len() > PARTS_SAMPLED {
            ranges.sort_by_key(|(range, _)| range.start);
            let last = ranges.len() - 1;
            ranges = (0..PARTS_SAMPLED).map(|sample| ranges[last * sample / (PARTS_SAMPLED - 1)].clone()).collect();
        }
        Some(ToCompare { ranges, is_whole: false })
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.parts.is_empty()
    }

    /// What is sent of a source, bytes, if it is durable as a whole and has not changed. `sent` makes that of the source's size.
    pub(crate) fn has(&self, source: &Source, sent: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        if self.files.is_empty() || self.compare != Compare::Attributes {
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
    fn samples_are_compared_of_large_files_and_of_parts() {
        let record =
            |size| FileRecord { file: FileId(0), path: b"f".to_vec(), size, mtime_ns: 5, mode: 0, attributes: Attributes::default() };
        let of = |size| fingerprint(b"f", size, 5);
        let (small, large) = (WHOLE_BYTES_MAX, WHOLE_BYTES_MAX + 1);
        let samples = || [(0..10, Some(1)), (large - 20..large - 10, Some(2))].into_iter();
        let compared = |compare| {
            let mut durable = Durable::compared(compare);
            durable.add_file(of(small), Some(7), samples());
            durable.add_file(of(large), Some(8), samples());
            durable.add_file(of(large + 1), Some(9), [].into_iter());
            durable.add_file(of(large + 2), None, samples());
            durable.add_file(of(2 * large), Some(6), [(0..u64::MAX, Some(1))].into_iter());
            (0..100).for_each(|part| durable.add_part(of(1000), part * 10..part * 10 + 10, Some(part)));
            durable
        };
        let whole = |size, crc| Some(ToCompare { ranges: vec![(0..size, Some(crc))], is_whole: true });
        let durable = compared(Compare::Samples);
        assert_eq!(durable.to_compare(&record(small)), whole(small, 7));
        assert_eq!(durable.to_compare(&record(large)), Some(ToCompare { ranges: samples().collect(), is_whole: true }));
        assert_eq!(durable.to_compare(&record(large + 1)), whole(large + 1, 9));
        assert_eq!(durable.to_compare(&record(large + 2)), None, "nothing to compare with");
        assert_eq!(durable.to_compare(&record(2 * large)), whole(2 * large, 6), "a sample that is none");
        let parts = durable.to_compare(&record(1000)).unwrap();
        let starts: Vec<u64> = parts.ranges.iter().map(|(range, _)| range.start).collect();
        assert_eq!((starts, parts.is_whole), (vec![0, 140, 280, 420, 560, 700, 840, 990], false));
        let durable = compared(Compare::All);
        assert_eq!(durable.to_compare(&record(large)), whole(large, 8));
        assert_eq!(durable.to_compare(&record(1000)).unwrap().ranges.len(), 100);
        assert_eq!(compared(Compare::Attributes).to_compare(&record(large)), None);
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
