//! How an object is cut into parts, and how many blocks of memory that takes. A crate of its own, so that who only plans (the micro-benches)
//! need not build the stores' clients.
#![forbid(unsafe_code)]

use std::ops::Range;

/// What a store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Smallest part but the last, bytes.
    pub part_bytes_min: u64,
    /// Largest part, bytes.
    pub part_bytes_max: u64,
    /// Part size that suits the store when nobody asks for another, bytes.
    pub part_bytes_default: u64,
    /// Most parts of one object.
    pub parts_max: u32,
    /// Largest object, bytes.
    pub object_bytes_max: u64,
}

const MIB: u64 = 1 << 20;

/// What Amazon S3 takes ("Amazon S3 multipart upload limits").
pub const S3_LIMITS: Limits = Limits {
    part_bytes_min: 5 * MIB,
    part_bytes_max: 5 * 1024 * MIB,
    part_bytes_default: 16 * MIB,
    parts_max: 10_000,
    object_bytes_max: 10_000 * 5 * 1024 * MIB,
};

/// Why an object cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The object is larger than the store takes.
    #[error("{object} of {size_bytes} bytes is larger than the {max_bytes} bytes this store takes; split it")]
    TooLarge {
        /// The object.
        object: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// No part is a whole number of blocks.
    #[error("no part of {part_bytes_min}..={part_bytes_max} bytes is a multiple of a block of {block_bytes} bytes")]
    Block {
        /// Smallest part in whole blocks, bytes.
        part_bytes_min: u64,
        /// Largest part that the store takes, bytes.
        part_bytes_max: u64,
        /// A block's payload, bytes.
        block_bytes: u64,
    },
}

/// The cut of one object: all parts have the same size but the last, which has what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPlan {
    object_bytes: u64,
    part_bytes: u64,
    count: u32,
}

impl PartPlan {
    /// Plans an object of `object_bytes` bytes that arrives in blocks of `block_bytes` bytes of payload.
    ///
    /// The part size is `preferred_bytes` (the store's default if `None`), forced into the store's limits, raised until
    /// `limits.parts_max` parts suffice, and rounded up to whole blocks, so that no block of a large file straddles two parts.
    /// An empty object has one empty part.
    ///
    /// # Errors
    /// [`PlanError::TooLarge`] when no such part size exists (`object` names it in the message);
    /// [`PlanError::Block`] when `block_bytes` is zero or no multiple of it is a legal part.
    pub fn new(
        object: &str,
        object_bytes: u64,
        block_bytes: u64,
        preferred_bytes: Option<u64>,
        limits: &Limits,
    ) -> Result<Self, PlanError> {
        let floor = |bytes: u64| bytes.checked_div(block_bytes).map_or(0, |blocks| blocks * block_bytes);
        let part_max = floor(limits.part_bytes_max);
        let part_min = limits.part_bytes_min.max(1).checked_next_multiple_of(block_bytes.max(1)).unwrap_or(u64::MAX);
        if part_min > part_max || limits.parts_max == 0 {
            return Err(PlanError::Block { part_bytes_min: part_min, part_bytes_max: limits.part_bytes_max, block_bytes });
        }
        let max_bytes = limits.object_bytes_max.min(part_max.saturating_mul(u64::from(limits.parts_max)));
        if object_bytes > max_bytes {
            return Err(PlanError::TooLarge { object: object.to_owned(), size_bytes: object_bytes, max_bytes });
        }
        let needed = object_bytes.div_ceil(u64::from(limits.parts_max));
        let wanted = preferred_bytes.unwrap_or(limits.part_bytes_default).max(needed);
        let part_bytes = wanted.checked_next_multiple_of(block_bytes).unwrap_or(part_max).clamp(part_min, part_max);
        let count = u32::try_from(object_bytes.div_ceil(part_bytes).max(1)).unwrap_or(u32::MAX);
        Ok(Self { object_bytes, part_bytes, count })
    }

    /// Size of the object, bytes.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        self.object_bytes
    }

    /// Size of every part but the last, bytes.
    #[must_use]
    pub fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// How many parts, at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether the object goes to the store in a single request.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.count == 1
    }

    /// Number of the part, from 1, that holds the byte at `offset`; `None` behind the end.
    #[must_use]
    pub fn part_of(&self, offset: u64) -> Option<u32> {
        (offset < self.object_bytes).then(|| u32::try_from(offset / self.part_bytes).unwrap_or(u32::MAX) + 1)
    }

    /// The bytes of part `number`, counted from 1; `None` when there is no such part.
    #[must_use]
    pub fn range(&self, number: u32) -> Option<Range<u64>> {
        let index = number.checked_sub(1).filter(|&index| index < self.count)?;
        let start = u64::from(index) * self.part_bytes;
        Some(start..start.saturating_add(self.part_bytes).min(self.object_bytes))
    }
}

/// How many pool blocks an upload must be allowed to hold.
///
/// The engine lets a lane open blocks up to a credit, and a block comes back only when the store has all its bytes. Blocks are
/// opened in the order of their numbers, so at any time at most one part is *partly* opened for each file that the sender
/// reads at the same time; every other opened part will fill up without further credit. The numbers below follow from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolNeed {
    /// With fewer blocks than this the transfer can stop for good: each of the files that the sender interleaves may hold a
    /// part that lacks one block, and one more block is needed to go on.
    pub blocks_min: u64,
    /// With this many the store never waits for blocks: all requests in flight are full, one part is complete and waits for
    /// a request to end, and one is being filled.
    pub blocks_wanted: u64,
}

impl PoolNeed {
    /// For parts of `part_bytes` out of blocks of `block_bytes`, `parts_in_flight` requests, and a sender that reads
    /// `files_interleaved` large files at a time (1 for ours).
    #[must_use]
    pub fn new(part_bytes: u64, block_bytes: u64, parts_in_flight: u32, files_interleaved: u32) -> Self {
        let per_part = part_bytes.div_ceil(block_bytes.max(1)).max(1);
        let blocks_min = (per_part - 1).saturating_mul(u64::from(files_interleaved.max(1))).saturating_add(1);
        let blocks_wanted = per_part.saturating_mul(u64::from(parts_in_flight) + 2).max(blocks_min);
        Self { blocks_min, blocks_wanted }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;
    const GIB: u64 = 1024 * MIB;
    const S3: Limits = S3_LIMITS;

    fn plan(size: u64) -> PartPlan {
        PartPlan::new("o", size, MIB, None, &S3).unwrap()
    }

    #[test]
    fn sizes_around_the_edges() {
        assert_eq!((plan(0).count(), plan(0).range(1)), (1, Some(0..0)));
        assert_eq!((plan(1).count(), plan(1).part_of(0), plan(1).part_of(1)), (1, Some(1), None));
        assert!(plan(16 * MIB).is_single());
        assert_eq!(plan(16 * MIB + 1).range(2), Some(16 * MIB..16 * MIB + 1));
        assert_eq!(plan(160_000 * MIB).part_bytes(), 16 * MIB);
        assert_eq!(plan(160_000 * MIB).count(), 10_000);
        assert_eq!(plan(160_000 * MIB + 1).part_bytes(), 17 * MIB);
        let largest = 10_000 * 5 * GIB;
        assert_eq!(plan(largest).count(), 10_000);
        assert!(matches!(PartPlan::new("o", largest + 1, MIB, None, &S3), Err(PlanError::TooLarge { .. })));
        assert_eq!(PartPlan::new("o", GIB, MIB, Some(1), &S3).unwrap().part_bytes(), 5 * MIB);
        assert_eq!(PartPlan::new("o", GIB, MIB, Some(u64::MAX), &S3).unwrap().part_bytes(), 5 * GIB);
        assert!(matches!(PartPlan::new("o", 1, 0, None, &S3), Err(PlanError::Block { .. })));
        assert!(matches!(PartPlan::new("o", 1, 6 * GIB, None, &S3), Err(PlanError::Block { .. })));
    }

    #[test]
    fn pool_needs() {
        assert_eq!(PoolNeed::new(16 * MIB, MIB, 8, 1), PoolNeed { blocks_min: 16, blocks_wanted: 160 });
        assert_eq!(PoolNeed::new(MIB, MIB, 4, 1), PoolNeed { blocks_min: 1, blocks_wanted: 6 });
        assert_eq!(PoolNeed::new(16 * MIB, MIB, 1, 10).blocks_min, 151);
    }

    proptest! {
        /// Against the simplest model there is: walk the object part by part.
        #[test]
        fn parts_cover_the_object_exactly_and_keep_the_limits(
            size in prop_oneof![0..3 * MIB, 0..200 * GIB, (0..=10_000 * 5 * GIB)],
            block in prop_oneof![Just(64 * KIB), Just(MIB), Just(4 * MIB), 1..8 * MIB],
            preferred in prop::option::of(0..8 * GIB),
        ) {
            let plan = match PartPlan::new("o", size, block, preferred, &S3) {
                Ok(plan) => plan,
                Err(error) => {
                    // Only when even the largest whole-block part is too small.
                    prop_assert!(matches!(error, PlanError::TooLarge { .. }), "{}", error);
                    prop_assert!((S3.part_bytes_max / block * block) * u64::from(S3.parts_max) < size);
                    return Ok(());
                }
            };
            prop_assert!(plan.count() >= 1 && plan.count() <= S3.parts_max);
            prop_assert_eq!(plan.part_bytes() % block, 0);
            let (mut at, mut number) = (0, 0);
            while at < size || number == 0 {
                number += 1;
                let range = plan.range(number).unwrap();
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end - range.start <= S3.part_bytes_max);
                prop_assert!(range.end == size || range.end - range.start >= S3.part_bytes_min);
                if size > 0 {
                    prop_assert!(range.end > range.start);
                    prop_assert_eq!(plan.part_of(range.start), Some(number));
                    prop_assert_eq!(plan.part_of(range.end - 1), Some(number));
                }
                at = range.end;
            }
            prop_assert_eq!(at, size);
            prop_assert_eq!(number, plan.count());
            prop_assert_eq!(plan.range(number + 1), None);
            prop_assert_eq!(plan.range(0), None);
            prop_assert_eq!(plan.part_of(size), None);
        }
    }
}
