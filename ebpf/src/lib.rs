//! The eBPF steering program: its compiled object, and the layout of its maps.
//!
//! The program decides for every frame of an interface whether it is a Tradewind packet of a known lane (redirected to
//! an AF_XDP socket), one that must not reach user space (dropped), or none of our business (passed to the kernel).
//! `tradewind-xdp` loads it; the fixtures in `tests/` run it in the kernel through `BPF_PROG_TEST_RUN`.
#![forbid(unsafe_code)]

pub mod layout;

pub use layout::Verdict;

#[repr(C, align(16))]
struct Aligned<Bytes: ?Sized>(Bytes);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o")));

/// The compiled ELF object with both programs ([`layout::PROGRAM`], [`layout::PROGRAM_FRAGS`]) and the maps, aligned
/// as an ELF parser wants it.
#[must_use]
pub fn object() -> &'static [u8] {
    &OBJECT.0
}

#[cfg(test)]
mod tests {
    use super::layout::{QUEUES_MAX, SOCKETS_MAX, WORKERS_MAX, socket_slot, worker_row};

    #[test]
    fn object_is_an_aligned_elf_file_for_bpf() {
        let object = super::object();
        assert_eq!(&object[..4], b"\x7fELF");
        assert_eq!(object.as_ptr() as usize % 16, 0);
        let machine = u16::from_ne_bytes([object[18], object[19]]);
        assert_eq!(machine, 247, "EM_BPF");
    }

    #[test]
    fn slots_stay_inside_the_socket_map() {
        assert_eq!(socket_slot(0, 0), Some(0));
        let last = worker_row(WORKERS_MAX - 1).and_then(|row| socket_slot(row, QUEUES_MAX - 1));
        assert_eq!(last, Some(SOCKETS_MAX - 1));
        assert_eq!(worker_row(WORKERS_MAX), None);
        assert_eq!(socket_slot(0, QUEUES_MAX), None);
        assert_eq!(socket_slot(WORKERS_MAX + 1, 0), None);
    }
}
