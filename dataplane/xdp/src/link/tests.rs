use super::*;

#[test]
fn fragments_are_put_together_in_order() {
    let mut assembly = Assembly::new(10);
    assert!(assembly.add(b"abc", true).is_none());
    assert!(assembly.add(b"defg", true).is_none());
    assert_eq!(assembly.add(b"hij", false), Some(Ok(&mut b"abcdefghij"[..].to_vec()[..])));
    assert!(assembly.state == AssemblyState::Idle);
    assert_eq!(assembly.add(b"xyz", false), Some(Ok(&mut b"xyz"[..].to_vec()[..])));
}

#[test]
fn a_packet_one_byte_too_long_is_thrown_away_whole() {
    let mut assembly = Assembly::new(10);
    assert!(assembly.add(b"abcdefgh", true).is_none());
    assert!(assembly.add(b"ijk", true).is_none());
    assert!(assembly.add(b"l", true).is_none(), "though it alone would fit");
    assert_eq!(assembly.add(b"m", false), Some(Err(())));
    assert_eq!(assembly.add(b"next", false), Some(Ok(&mut b"next"[..].to_vec()[..])));
    let mut none = Assembly::new(0);
    assert!(none.add(b"a", true).is_none());
    assert_eq!(none.add(b"b", false), Some(Err(())), "a fragmented packet without multi-buffer");
}

#[test]
fn outer_tags_are_remembered_by_neighbour_up_to_a_limit() {
    let neighbour = |last| LinkLayer { local: [2; 6], remote: [2, 0, 0, 0, 0, last], vlan: Some(7) };
    let outer = |control| OuterTag { protocol: 0x88a8, control };
    let mut tags = OuterTags::default();
    assert_eq!(tags.get(Some(neighbour(0))), None);
    for index in 0..OUTER_TAGS_MAX as u8 {
        tags.learn(neighbour(index), outer(u16::from(index)));
    }
    tags.learn(neighbour(3), outer(99));
    assert_eq!(tags.get(Some(neighbour(3))), Some(outer(99)), "the newest counts");
    assert_eq!(tags.get(Some(LinkLayer { vlan: Some(8), ..neighbour(3) })), None, "another inner tag");
    tags.learn(neighbour(200), outer(5));
    assert_eq!(tags.get(Some(neighbour(200))), Some(outer(5)));
    assert_eq!(tags.get(Some(neighbour(0))), None, "the oldest made room");
    assert_eq!(tags.known.len(), OUTER_TAGS_MAX);
    assert_eq!(tags.get(None), None);
}
