//! What both ends need: wrapping 32-bit microsecond clocks as packets carry them, and the sizes of short packets.

use tradewind_wire::limits::{CHUNK_BYTES_MIN, CLOSE_TEXT_MAX, DATA_HEADER_BYTES};

/// The low 32 bits of a time in microseconds.
pub(crate) fn micros(now_ns: u64) -> u32 {
    (now_ns / 1000) as u32
}

/// Largest payload of a packet that is not DATA: with it, the packet is as large as the largest DATA packet of the lane.
pub(crate) fn short_bytes_max(chunk_bytes: u16) -> usize {
    usize::from(chunk_bytes).max(CHUNK_BYTES_MIN) + DATA_HEADER_BYTES
}

/// Longest CLOSE text in such a packet, bytes.
pub(crate) fn close_text_max(chunk_bytes: u16) -> usize {
    short_bytes_max(chunk_bytes).saturating_sub(5).min(CLOSE_TEXT_MAX)
}

/// The longest start of `text` of at most `bytes_max` bytes.
pub(crate) fn truncated(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(truncated("aöö", 2), "a");
        assert_eq!(truncated("aöö", 3), "aö");
        assert_eq!(truncated("aöö", 99), "aöö");
        assert_eq!(truncated("ö", 0), "");
    }

    #[test]
    fn short_packets_fit_where_data_fits() {
        assert_eq!(short_bytes_max(496), 509);
        assert_eq!(close_text_max(496), 504);
        assert_eq!(close_text_max(1427), CLOSE_TEXT_MAX);
    }
}
