//! Samples of large files: ranges whose checksums are kept, so that a source can be compared with what is stored without reading all of it.

use tradewind_parts::PartPlan;

use crate::checksum::Crc64;

/// Samples of a file. The first and the last part have one each, and others that lie evenly between.
const SAMPLES_MAX: u32 = 8;

/// A range of a file and the checksum of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Where it begins, bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// CRC-64/NVME of them.
    pub crc: Crc64,
}

/// Whether a part gives a sample.
pub(super) fn is_sampled(plan: &PartPlan, number: u32) -> bool {
    let (count, last) = (plan.count(), SAMPLES_MAX.min(plan.count()) - 1);
    if last == 0 {
        return false;
    }
    // The part that the n-th sample of so many comes from; both ends included.
    let part_of = |sample: u32| 1 + (u64::from(count - 1) * u64::from(sample) / u64::from(last)) as u32;
    let near = (u64::from(number - 1) * u64::from(last) / u64::from(count - 1)) as u32;
    number == part_of(near) || number == part_of((near + 1).min(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Limits;

    #[test]
    fn samples_are_of_both_ends_and_evenly_between() {
        let limits =
            Limits { part_bytes_min: 1, part_bytes_max: 100, part_bytes_default: 10, parts_max: u32::MAX, object_bytes_max: u64::MAX };
        let sampled = |bytes: u64| {
            let plan = PartPlan::new("f", bytes, 10, None, &limits).unwrap();
            (1..=plan.count()).filter(|&number| is_sampled(&plan, number)).collect::<Vec<_>>()
        };
        assert_eq!(sampled(10), [0; 0]);
        assert_eq!(sampled(25), [1, 2, 3]);
        assert_eq!(sampled(80), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(sampled(90), [1, 2, 3, 4, 5, 6, 7, 9]);
        assert_eq!(sampled(10_000), [1, 143, 286, 429, 571, 714, 857, 1000]);
        for parts in 2..200 {
            let sampled = sampled(parts * 10);
            assert_eq!(sampled.len() as u64, parts.min(u64::from(SAMPLES_MAX)), "{parts}");
            assert!(sampled.first() == Some(&1) && sampled.last() == Some(&(parts as u32)), "{sampled:?}");
        }
    }
}
