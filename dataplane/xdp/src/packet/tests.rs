use super::*;
use proptest::prelude::*;

const LINK: LinkLayer = LinkLayer { local: [2, 0, 0, 0, 0, 1], remote: [2, 0, 0, 0, 0, 2], vlan: None };

fn path(local: &str, remote: &str, vlan: Option<u16>) -> Path {
    Path { local: local.parse().expect("address"), remote: remote.parse().expect("address"), link: Some(LinkLayer { vlan, ..LINK }) }
}

/// The frame as the peer would receive it.
fn frame(path: &Path, outer: Option<OuterTag>, payload: &[u8]) -> Vec<u8> {
    let headers = Headers::new(path, outer).expect("path");
    let mut packet = vec![0; headers.bytes()];
    packet.extend(payload);
    headers.write(&mut packet);
    packet
}

fn sum_of(bytes: &[u8]) -> u16 {
    Sum::default().add(bytes).finish()
}

#[test]
fn known_ipv4_frame() {
    let written = frame(&path("192.168.0.1:33001", "192.168.0.199:5001", None), None, b"tradewind");
    // Written by hand from RFC 791 and RFC 768; checksums computed with Python's integers.
    let expected: [u8; 51] = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
        0x45, 0, 0, 37, 0, 0, 0x40, 0, 64, 17, 0xb8, 0xaf, 192, 168, 0, 1, 192, 168, 0, 199, // IPv4
        0x80, 0xe9, 0x13, 0x89, 0, 17, 0xe0, 0x83, // UDP
        b't', b'r', b'a', b'd', b'e', b'w', b'i', b'n', b'd',
    ];
    assert_eq!(written, expected);
}

#[test]
fn checksums_verify_to_zero() {
    for payload in [&b"x"[..], &[0xff; 63], &[7; 1472], &[0; 8000]] {
        let v4 = frame(&path("10.1.2.3:1", "10.4.5.6:65535", Some(0x2064)), None, payload);
        assert_eq!(sum_of(&v4[18..38]), 0, "IPv4 header");
        let udp = Sum::default().add_field(17).add_field(8 + payload.len() as u16).add(&v4[30..38]).add(&v4[38..]);
        assert_eq!(udp.finish(), 0, "UDP over IPv4");
        let v6 = frame(&path("[2001:db8::1]:1", "[2001:db8::2]:2", None), None, payload);
        let udp = Sum::default().add_field(17).add_field(8 + payload.len() as u16).add(&v6[22..54]).add(&v6[54..]);
        assert_eq!(udp.finish(), 0, "UDP over IPv6");
    }
}

#[test]
fn what_we_write_is_what_the_peer_reads() {
    let outer = Some(OuterTag { protocol: 0x88a8, control: 0x0123 });
    for (path, outer) in [
        (path("10.0.0.1:33001", "10.0.0.2:40000", None), None),
        (path("10.0.0.1:33001", "10.0.0.2:40000", Some(0xe00a)), None),
        (path("10.0.0.1:33001", "10.0.0.2:40000", Some(10)), outer),
        (path("[fd00::1]:33001", "[fd00::2]:40000", None), None),
        (path("[fd00::1]:33001", "[fd00::2]:40000", Some(10)), outer),
    ] {
        let mut written = frame(&path, outer, b"payload");
        written.extend([0; 9]); // padding of a short Ethernet frame
        let parsed = parse(&written).expect("our own frame");
        assert_eq!(&written[parsed.payload.clone()], b"payload");
        assert_eq!(parsed.outer, outer);
        assert_eq!((parsed.path.local, parsed.path.remote), (path.remote, path.local));
        let link = parsed.path.link.expect("link layer");
        assert_eq!((link.local, link.remote, link.vlan), (LINK.remote, LINK.local, path.link.expect("link layer").vlan));
        assert_eq!(parsed.ecn, Ecn::NotEct);
    }
}

#[test]
fn congestion_marks_are_read() {
    let mut v4 = frame(&path("10.0.0.1:1", "10.0.0.2:2", None), None, b"x");
    v4[15] = 0b1010_1111;
    assert_eq!(parse(&v4).expect("frame").ecn, Ecn::Ce);
    let mut v6 = frame(&path("[fd00::1]:1", "[fd00::2]:2", None), None, b"x");
    v6[15] = 0x20;
    assert_eq!(parse(&v6).expect("frame").ecn, Ecn::Ect0);
}

#[test]
fn every_cut_and_every_lie_about_a_length_is_unfit() {
    for path in [path("10.0.0.1:1", "10.0.0.2:2", Some(7)), path("[fd00::1]:1", "[fd00::2]:2", Some(7))] {
        let whole = frame(&path, None, &[9; 40]);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Err(Unfit), "cut to {length}");
        }
        let udp_length_at = whole.len() - 40 - 4;
        for (length, fits) in [(0, false), (7, false), (8, true), (47, true), (48, true), (49, false), (u16::MAX, false)] {
            let mut bytes = whole.clone();
            bytes[udp_length_at..udp_length_at + 2].copy_from_slice(&length.to_be_bytes());
            assert_eq!(parse(&bytes).is_ok(), fits, "UDP length {length}");
        }
    }
}

#[test]
fn options_fragments_and_extensions_are_unfit() {
    let whole = frame(&path("10.0.0.1:1", "10.0.0.2:2", None), None, &[9; 40]);
    for (at, value) in [(14, 0x46), (14, 0x44), (14, 0x65), (20, 0x20), (21, 1), (23, 6), (12, 0x09)] {
        let mut bytes = whole.clone();
        bytes[at] = value;
        assert_eq!(parse(&bytes), Err(Unfit), "byte {at} = {value:#x}");
    }
    let mut extension = frame(&path("[fd00::1]:1", "[fd00::2]:2", None), None, &[9; 40]);
    extension[20] = 0;
    assert_eq!(parse(&extension), Err(Unfit));
}

#[test]
fn a_path_that_cannot_be_answered_has_no_headers() {
    let good = path("10.0.0.1:1", "10.0.0.2:2", None);
    assert!(Headers::new(&good, None).is_some());
    assert!(Headers::new(&Path { link: None, ..good }, None).is_none());
    assert!(Headers::new(&Path { local: "0.0.0.0:1".parse().expect("address"), ..good }, None).is_none());
    assert!(Headers::new(&Path { remote: "[::1]:1".parse().expect("address"), ..good }, None).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_spoiled_frame_panics_or_escapes(
        v6: bool, vlan in proptest::option::of(any::<u16>()), payload in proptest::collection::vec(any::<u8>(), 1..100),
        spoil in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let path = if v6 { path("[fd00::1]:1", "[fd00::2]:2", vlan) } else { path("10.0.0.1:1", "10.0.0.2:2", vlan) };
        let mut bytes = frame(&path, None, &payload);
        for (at, value) in spoil {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(parsed) = parse(&bytes) {
            prop_assert!(parsed.payload.start <= parsed.payload.end && parsed.payload.end <= bytes.len());
        }
    }
}
