//! Counter-based random numbers: each number is a function of (seed, direction, stage, packet index) and of nothing else.
//!
//! So every protocol that is compared over a scenario meets the same loss pattern by packet index, whatever its timing, and a
//! decision can be recomputed without replaying what came before it.

/// What a random number decides about a packet. Each stage has its own stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Independent loss, or the loss draw inside a Gilbert-Elliott state.
    Loss,
    /// Transition of the Gilbert-Elliott state.
    State,
    /// Jitter of the packet.
    Jitter,
    /// Whether the packet is reordered.
    Reorder,
    /// Whether the packet is duplicated.
    Duplicate,
    /// Jitter of the duplicate.
    DuplicateJitter,
}

/// The random streams of one direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomStreams {
    key: u64,
}

impl RandomStreams {
    /// Streams for `direction` (0 = forward, 1 = reverse) under `seed`.
    #[must_use]
    pub fn new(seed: u64, direction: u8) -> Self {
        Self { key: mix(seed ^ mix(u64::from(direction).wrapping_add(GOLDEN_GAMMA))) }
    }

    /// 64 uniform bits for `stage` of the packet with `index`.
    #[must_use]
    pub fn bits(&self, stage: Stage, index: u64) -> u64 {
        let stream = mix(self.key ^ (stage as u64 + 1).wrapping_mul(GOLDEN_GAMMA));
        mix(stream.wrapping_add(index.wrapping_mul(GOLDEN_GAMMA)))
    }

    /// A uniform number in [0, 1) with 53 significant bits.
    #[must_use]
    pub fn unit(&self, stage: Stage, index: u64) -> f64 {
        (self.bits(stage, index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Whether an event of `probability` (0..=1) happens to the packet with `index`.
    #[must_use]
    pub fn happens(&self, stage: Stage, index: u64, probability: f64) -> bool {
        probability > 0.0 && self.unit(stage, index) < probability
    }
}

/// Increment of SplitMix64: 2^64 over the golden ratio, odd (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Output function of SplitMix64 (the same paper; variant 13 of Stafford's mixers).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixer_gives_the_published_first_number_of_splitmix64() {
        // SplitMix64 with seed 0 puts out mix(GOLDEN_GAMMA) first; the value is in the reference implementation's test vectors.
        assert_eq!(mix(GOLDEN_GAMMA), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn streams_differ_by_seed_direction_and_stage() {
        let a = RandomStreams::new(1, 0);
        assert_eq!(a.bits(Stage::Loss, 7), RandomStreams::new(1, 0).bits(Stage::Loss, 7));
        assert_ne!(a.bits(Stage::Loss, 7), RandomStreams::new(2, 0).bits(Stage::Loss, 7));
        assert_ne!(a.bits(Stage::Loss, 7), RandomStreams::new(1, 1).bits(Stage::Loss, 7));
        assert_ne!(a.bits(Stage::Loss, 7), a.bits(Stage::Jitter, 7));
        assert_ne!(a.bits(Stage::Loss, 7), a.bits(Stage::Loss, 8));
    }

    #[test]
    fn numbers_fill_the_unit_interval_evenly() {
        let streams = RandomStreams::new(42, 1);
        let mut bins = [0u32; 16];
        let count = 160_000u64;
        for index in 0..count {
            bins[(streams.unit(Stage::Jitter, index) * 16.0) as usize] += 1;
        }
        // Chi-squared with 15 degrees of freedom stays below 37.7 with probability 0.999.
        let expected = count as f64 / 16.0;
        let chi_squared: f64 = bins.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        assert!(chi_squared < 37.7, "chi-squared {chi_squared}, bins {bins:?}");
    }

    #[test]
    fn certain_and_impossible_events() {
        let streams = RandomStreams::new(3, 0);
        assert!((0..1000).all(|i| streams.happens(Stage::Loss, i, 1.0)));
        assert!(!(0..1000).any(|i| streams.happens(Stage::Loss, i, 0.0)));
    }
}
