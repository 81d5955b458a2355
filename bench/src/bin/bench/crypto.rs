//! What sealing and opening packets costs on this machine.

use std::hint::black_box;

use tradewind_bench::time_of_call_ns;
use tradewind_proto::crypto::{CipherSuite, Direction, LaneSecret, OpenKeys, Provider, SealKeys};
use tradewind_wire::{LaneId, PacketNumber};

/// Measures and prints.
pub(crate) fn run() {
    println!("{:<12} {:>7} {:>10} {:>10} {:>10} {:>10}", "provider", "bytes", "seal ns", "GB/s", "open ns", "GB/s");
    let secret = LaneSecret([3; 32]);
    let aad = [0; 29];
    for provider in [Provider::AwsLc, Provider::RustCrypto] {
        for bytes in [1427, 3327, 8927] {
            let mut seal = SealKeys::new(&secret, LaneId(1), Direction::Forward, CipherSuite::Aes128Gcm, provider);
            let mut open = OpenKeys::new(&secret, LaneId(1), Direction::Forward, CipherSuite::Aes128Gcm, provider);
            let plain = vec![7; bytes];
            let mut sealed = vec![0; bytes + 16];
            let mut opened = vec![0; bytes];
            // Stay within one epoch: deriving keys is not what is measured.
            let number = |count: usize| PacketNumber::new(count as u64 % (1 << 22)).unwrap_or(PacketNumber::ZERO);
            let seal_ns = time_of_call_ns(|count| {
                black_box(seal.seal(number(count), &aad, black_box(&plain), &mut sealed)).ok();
            });
            seal.seal(PacketNumber::ZERO, &aad, &plain, &mut sealed).ok();
            let open_ns = time_of_call_ns(|_| {
                black_box(open.open(PacketNumber::ZERO, &aad, black_box(&sealed), &mut opened)).ok();
            });
            let rate = |ns: f64| bytes as f64 / ns;
            let name = format!("{provider:?}");
            println!("{name:<12} {bytes:>7} {seal_ns:>10.0} {:>10.2} {open_ns:>10.0} {:>10.2}", rate(seal_ns), rate(open_ns));
        }
    }
}
