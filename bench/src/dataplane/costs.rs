//! What a receiver cannot do without, alone on a core: opening a packet, copying it, the checksum of its bytes.

use std::fmt;
use std::hint::black_box;

use serde::Serialize;
use tradewind_proto::block::crc64_nvme;
use tradewind_proto::crypto::{CipherSuite, Direction, LaneSecret, OpenKeys, Provider, SealKeys};
use tradewind_wire::limits::{TAG_BYTES, chunk_bytes_for_mtu};
use tradewind_wire::{LaneId, PacketNumber};

use crate::time_of_call_ns;

/// What is worked on lies in so many bytes, more than the second-level cache holds.
const AROUND_BYTES: usize = 8 << 20;

/// Nanoseconds a packet of this MTU.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    mtu_bytes: usize,
    chunk_bytes: usize,
    open_ns: f64,
    copy_ns: f64,
    crc_ns: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mtu_bytes, open_ns, copy_ns, crc_ns, .. } = self;
        write!(
            f,
            "MTU {mtu_bytes}: a packet is opened in {open_ns:.0} ns, copied in {copy_ns:.0} ns, its CRC-64 computed in {crc_ns:.0} ns"
        )
    }
}

pub(super) fn measure() -> Vec<Cost> {
    [1500, 3400, 9000].into_iter().map(cost).collect()
}

fn cost(mtu_bytes: usize) -> Cost {
    let chunk_bytes = chunk_bytes_for_mtu(mtu_bytes, false);
    let secret = LaneSecret([3; 32]);
    let mut seal = SealKeys::new(&secret, LaneId(1), Direction::Forward, CipherSuite::Aes128Gcm, Provider::AwsLc);
    let mut open = OpenKeys::new(&secret, LaneId(1), Direction::Forward, CipherSuite::Aes128Gcm, Provider::AwsLc);
    let (aad, plain) = ([0; 29], vec![7; chunk_bytes]);
    let (mut around, places, sealed_bytes) = (vec![0; AROUND_BYTES], AROUND_BYTES / chunk_bytes, chunk_bytes + TAG_BYTES);
    let place = |count: usize| count % places * chunk_bytes..(count % places + 1) * chunk_bytes;
    let mut sealed = vec![0; places * sealed_bytes];
    let number = |count: usize| PacketNumber::new((count % places) as u64).unwrap_or(PacketNumber::ZERO);
    let mut failed = 0;
    for (count, into) in sealed.chunks_exact_mut(sealed_bytes).enumerate() {
        failed += u64::from(seal.seal(number(count), &aad, &plain, into).is_err());
    }
    let open_ns = time_of_call_ns(|count| {
        let from = &sealed[count % places * sealed_bytes..(count % places + 1) * sealed_bytes];
        failed += u64::from(open.open(number(count), &aad, black_box(from), &mut around[place(count)]).is_err());
    });
    // What fails is quick.
    let open_ns = if failed == 0 { open_ns } else { f64::NAN };
    let copy_ns = time_of_call_ns(|count| black_box(&mut around[place(count)]).copy_from_slice(black_box(&plain)));
    let crc_ns = time_of_call_ns(|count| {
        black_box(crc64_nvme(black_box(&around[place(count)])));
    });
    Cost { mtu_bytes, chunk_bytes, open_ns, copy_ns, crc_ns }
}
