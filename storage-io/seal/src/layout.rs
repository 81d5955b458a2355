//! Where things are in a sealed file. All of it follows from the size of the contents.

use std::ops::Range;

/// Contents of a frame, bytes; the last frame may have fewer.
pub const FRAME_BYTES: usize = 64 * 1024;
/// Authentication tag behind each frame's contents, bytes.
pub const TAG_BYTES: usize = 16;
/// A full frame with its tag, bytes.
pub const SEALED_FRAME_BYTES: usize = FRAME_BYTES + TAG_BYTES;
/// The header, bytes.
pub const HEADER_BYTES: usize = 144;
/// Contents of a sealed file at most, bytes: 4 EiB, so that no size or offset overflows.
pub const PLAIN_BYTES_MAX: u64 = 1 << 62;

const FRAME: u64 = FRAME_BYTES as u64;
const TAG: u64 = TAG_BYTES as u64;
const SEALED_FRAME: u64 = SEALED_FRAME_BYTES as u64;
const HEADER: u64 = HEADER_BYTES as u64;

const _: () = assert!(PLAIN_BYTES_MAX / FRAME < (u64::MAX - PLAIN_BYTES_MAX - HEADER) / TAG);

/// Size of the sealed file of so many bytes, bytes; `None` above [`PLAIN_BYTES_MAX`].
#[must_use]
pub const fn sealed_size(plain_bytes: u64) -> Option<u64> {
    if plain_bytes > PLAIN_BYTES_MAX {
        return None;
    }
    Some(HEADER + plain_bytes + TAG * frames(plain_bytes))
}

/// Size of the contents of a sealed file of so many bytes, bytes; `None` if no sealed file has that size.
#[must_use]
pub const fn plain_size(sealed_bytes: u64) -> Option<u64> {
    let Some(body) = sealed_bytes.checked_sub(HEADER) else { return None };
    let frames = body.div_ceil(SEALED_FRAME);
    let Some(plain) = body.checked_sub(TAG * frames) else { return None };
    match sealed_size(plain) {
        Some(size) if size == sealed_bytes => Some(plain),
        _ => None,
    }
}

/// Frames of so many bytes of contents: nothing has one, an empty one.
pub(crate) const fn frames(plain_bytes: u64) -> u64 {
    if plain_bytes == 0 { 1 } else { plain_bytes.div_ceil(FRAME) }
}

/// The bytes of the contents that are in a frame.
pub(crate) fn plain_range(frame: u64, plain_bytes: u64) -> Range<u64> {
    let start = frame * FRAME;
    start..plain_bytes.min(start + FRAME)
}

/// The bytes of the sealed file that are a frame with its tag.
pub(crate) fn sealed_range(frame: u64, plain_bytes: u64) -> Range<u64> {
    let plain = plain_range(frame, plain_bytes);
    let start = HEADER + frame * SEALED_FRAME;
    start..start + (plain.end - plain.start) + TAG
}

/// The frame that a byte of the sealed file behind the header is in.
pub(crate) const fn frame_at(sealed_offset: u64) -> u64 {
    (sealed_offset - HEADER) / SEALED_FRAME
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_at_the_edges() {
        let frame = FRAME;
        for (plain, sealed) in [
            (0, 160),
            (1, 161),
            (frame - 1, 144 + frame + 15),
            (frame, 144 + frame + 16),
            (frame + 1, 144 + frame + 33),
            (3 * frame + 1, 144 + 3 * frame + 65),
        ] {
            assert_eq!(sealed_size(plain), Some(sealed));
            assert_eq!(plain_size(sealed), Some(plain));
        }
        assert!(sealed_size(PLAIN_BYTES_MAX).is_some());
        assert_eq!(sealed_size(PLAIN_BYTES_MAX + 1), None);
        // Shorter than an empty file; a second frame of nothing; larger than the largest.
        for none in [0, 143, 144, 159, 144 + frame + 17, 144 + frame + 32, u64::MAX] {
            assert_eq!(plain_size(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn plain_size_is_the_inverse(plain in prop_oneof![0..1u64 << 20, 0..=PLAIN_BYTES_MAX]) {
            let sealed = sealed_size(plain).unwrap();
            prop_assert_eq!(plain_size(sealed), Some(plain));
            let last = frames(plain) - 1;
            prop_assert_eq!(sealed_range(last, plain).end, sealed);
            prop_assert_eq!(plain_range(last, plain).end, plain);
            prop_assert_eq!(frame_at(sealed - 1), last);
        }

        #[test]
        fn every_size_is_that_of_at_most_one(sealed in 0..1u64 << 20) {
            prop_assert!(plain_size(sealed).is_none_or(|plain| sealed_size(plain) == Some(sealed)));
        }
    }
}
