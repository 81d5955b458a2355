//! The plan of an object's parts.

use std::hint::black_box;

use anyhow::{Result, ensure};
use tradewind_parts::{PartPlan, S3_LIMITS};

use crate::Workload;
use crate::random::Random;

const OBJECTS: usize = 256;
const OFFSETS: usize = 16;
const BLOCK_BYTES: u64 = 1 << 20;

/// Objects of 1 byte to 32 TiB, as many of each order of magnitude, and offsets in them.
struct Plan {
    objects: Vec<(u64, [u64; OFFSETS])>,
    expected: u64,
}

pub(crate) fn plan() -> Result<Box<dyn Workload>> {
    let mut random = Random(5);
    let mut objects = Vec::new();
    let mut expected = 0u64;
    for index in 0..OBJECTS {
        let most = 1u64 << (1 + index % 45);
        let bytes = most / 2 + random.below(most - most / 2) + 1;
        let mut offsets = [0; OFFSETS];
        for offset in &mut offsets {
            *offset = ((u128::from(bytes) * u128::from(random.bits())) >> 32) as u64;
        }
        // The rule, said in another way: 16 MiB, or as many whole MiB as make 10,000 parts of it.
        let part_bytes = bytes.div_ceil(10_000).max(16 << 20).next_multiple_of(BLOCK_BYTES);
        for offset in offsets {
            expected = expected.wrapping_add(bytes.min((offset / part_bytes + 1) * part_bytes) ^ (offset / part_bytes + 1));
        }
        objects.push((bytes, offsets));
    }
    Ok(Box::new(Plan { objects, expected }))
}

impl Workload for Plan {
    fn operations(&self) -> u64 {
        OBJECTS as u64
    }

    fn run(&mut self) -> u64 {
        let mut sum = 0u64;
        for (bytes, offsets) in black_box(self.objects.as_slice()) {
            let Ok(plan) = PartPlan::new("film/reel-0001.mxf", *bytes, BLOCK_BYTES, None, &S3_LIMITS) else { continue };
            for offset in offsets {
                let Some(number) = plan.part_of(*offset) else { continue };
                let end = plan.range(number).map_or(0, |range| range.end);
                sum = sum.wrapping_add(end ^ u64::from(number));
            }
        }
        sum
    }

    fn check(&mut self, result: u64) -> Result<()> {
        ensure!(result == self.expected, "the parts are not those that the rule gives");
        Ok(())
    }
}
