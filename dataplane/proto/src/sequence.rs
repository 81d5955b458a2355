//! Wrapping 32-bit microsecond clocks, as packets carry them.

/// The low 32 bits of a time in microseconds.
pub(crate) fn micros(now_ns: u64) -> u32 {
    (now_ns / 1000) as u32
}
