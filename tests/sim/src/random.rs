//! Random numbers of a world: a stream for each purpose, so that one more draw in one place changes nothing in another.

use tradewind_netem::random::{RandomStreams, Stage};

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    streams: RandomStreams,
    index: u64,
}

impl Random {
    /// The stream `purpose` of a seed.
    pub(crate) fn new(seed: u64, purpose: u8) -> Self {
        Self { streams: RandomStreams::new(seed, purpose), index: 0 }
    }

    /// 64 uniform bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.index += 1;
        self.streams.bits(Stage::Loss, self.index)
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        self.index += 1;
        self.streams.unit(Stage::Loss, self.index)
    }

    /// Whether an event of this probability happens.
    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// Uniform in `least..=most`.
    pub(crate) fn within(&mut self, least: u64, most: u64) -> u64 {
        least + (self.unit() * (most - least + 1) as f64) as u64
    }

    /// Uniform in the logarithm: every order of magnitude is as likely as the next.
    pub(crate) fn magnitude(&mut self, least: f64, most: f64) -> f64 {
        least * (most / least).powf(self.unit())
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[(self.unit() * options.len() as f64) as usize]
    }

    /// Fills a slice.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(8) {
            let bits = self.bits().to_le_bytes();
            piece.copy_from_slice(&bits[..piece.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_bounds_and_repeat() {
        let (mut a, mut b) = (Random::new(3, 1), Random::new(3, 1));
        for _ in 0..1000 {
            assert_eq!(a.bits(), b.bits());
            assert!((5..=7).contains(&a.within(5, 7)));
            b.within(5, 7);
            assert!((0.1..=1000.0).contains(&a.magnitude(0.1, 1000.0)));
            b.magnitude(0.1, 1000.0);
        }
        assert_ne!(Random::new(3, 1).bits(), Random::new(3, 2).bits());
    }
}
