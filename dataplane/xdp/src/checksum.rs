//! The Internet checksum (RFC 1071), in software: AF_XDP computes none for us.

/// Running sum of 16-bit words in the machine's byte order; the byte order is put right at the end (RFC 1071 section 2 B).
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset of the checksummed data. An odd last byte counts as if a zero followed it,
    /// so only the last piece may have an odd length.
    #[must_use]
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let Self(mut sum) = self;
        // Four independent lanes of 32-bit halves: the compiler makes SIMD of it, and 2^31 words fit before a lane overflows.
        let mut lanes = [0_u64; 4];
        let mut blocks = bytes.chunks_exact(16);
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
                *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        let mut pairs = blocks.remainder().chunks_exact(2);
        for pair in &mut pairs {
            sum += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
        }
        if let [last] = pairs.remainder() {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        for lane in lanes {
            sum += (lane & 0xffff_ffff) + (lane >> 32);
        }
        Self(sum)
    }

    /// Adds a 16-bit field by its value.
    #[must_use]
    pub(crate) fn add_field(self, value: u16) -> Self {
        Self(self.0 + u64::from(value.to_be()))
    }

    /// The checksum field, as its value (store it big-endian).
    #[must_use]
    pub(crate) fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(!(sum as u16))
    }

    /// The same for UDP, where 0 means "no checksum" and is sent as 0xffff (RFC 768).
    #[must_use]
    pub(crate) fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;
    use proptest::prelude::*;

    /// RFC 1071 word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn known_vectors() {
        // RFC 1071 section 3: the sum of these bytes is ddf2.
        assert_eq!(Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).finish(), !0xddf2);
        // An IPv4 header whose checksum is known to be b861 (192.168.0.1 to 192.168.0.199, UDP, 115 bytes).
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(Sum::default().add(&header).finish(), 0xb861);
        assert_eq!(Sum::default().finish(), 0xffff);
        assert_eq!(Sum::default().add(&[0xff; 64]).finish(), 0);
        assert_eq!(Sum::default().add(&[0xff; 64]).finish_udp(), 0xffff);
    }

    proptest! {
        #[test]
        fn equals_the_reference(bytes in proptest::collection::vec(any::<u8>(), 0..4000), field: u16) {
            prop_assert_eq!(Sum::default().add(&bytes).finish(), reference(&bytes));
            let mut longer = field.to_be_bytes().to_vec();
            longer.extend(&bytes);
            prop_assert_eq!(Sum::default().add_field(field).add(&bytes).finish(), reference(&longer));
        }
    }
}
