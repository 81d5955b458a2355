//! The steering program and the parser of `tradewind-wire` must agree on what a packet is.

use tradewind_ebpf::layout::{KIND_MAX, KIND_MIN, LANE_ID_OFFSET, LANES_MAX, PAYLOAD_BYTES_MIN, WIRE_VERSION};
use tradewind_wire::{Header, LaneId, limits};

#[test]
fn what_steering_lets_through_is_what_the_parser_accepts() {
    for first in 0..=u8::MAX {
        let mut packet = vec![0; PAYLOAD_BYTES_MIN];
        packet[0] = first;
        let steered = first >> 4 == WIRE_VERSION && (KIND_MIN..=KIND_MAX).contains(&(first & 15));
        assert_eq!(Header::parse(&packet).is_ok(), steered, "first byte {first:#04x}");
    }
}

#[test]
fn the_shortest_packet_and_the_lane_id_are_where_the_parser_finds_them() {
    let lane = 0x0123_4567_89ab_cdef_u64;
    let mut packet = vec![0; PAYLOAD_BYTES_MIN];
    packet[0] = WIRE_VERSION << 4 | KIND_MIN;
    packet[LANE_ID_OFFSET..LANE_ID_OFFSET + 8].copy_from_slice(&lane.to_be_bytes());
    assert_eq!(Header::parse(&packet).expect("shortest packet").lane, LaneId(lane));
    assert!(Header::parse(&packet[..PAYLOAD_BYTES_MIN - 1]).is_err());
    assert_eq!((WIRE_VERSION, PAYLOAD_BYTES_MIN), (limits::VERSION, limits::DATAGRAM_BYTES_MIN));
    assert_eq!(LANES_MAX as usize, limits::LANES_MAX);
}
