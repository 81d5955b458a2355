//! Whole files and ranges of them, whole and damaged. What this cannot see: what a transfer makes of it.

use std::io;
use std::sync::LazyLock;

use proptest::prelude::*;
use tradewind_seal::{
    FRAME_BYTES, HEADER_BYTES, KdfParameters, KeyRing, MasterKey, Passphrase, SEALED_FRAME_BYTES, SealError, Sealer, Unsealer, plain_size,
    sealed_size,
};
use zeroize::Zeroizing;

const SIZES: [usize; 6] = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 1];

fn key(byte: u8) -> MasterKey {
    MasterKey::from_bytes(&Zeroizing::new([byte; 32])).unwrap()
}

fn ring(byte: u8) -> KeyRing {
    KeyRing::new().with_key(key(byte))
}

/// No two frames are alike.
fn contents(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn reader(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> io::Result<()> {
    |offset, into| {
        let start = offset as usize;
        into.copy_from_slice(bytes.get(start..start + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn seal(master: &MasterKey, identity: u8, plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    Sealer::new(master, &[identity; 16], plain.len() as u64).unwrap().seal(&mut reader(plain), &mut sealed).unwrap();
    sealed
}

fn unseal(sealed: &[u8], ring: &KeyRing) -> Result<Vec<u8>, SealError> {
    let mut plain = Vec::new();
    let mut rest = sealed;
    let unsealer = Unsealer::from_reader(&mut rest, ring)?;
    unsealer.unseal(&mut rest, &mut plain)?;
    Ok(plain)
}

#[test]
fn sealers_and_unsealers_go_to_other_threads() {
    fn check<T: Send + Sync>(_: &T) {}
    let plain = contents(2 * FRAME_BYTES, 1);
    let sealer = Sealer::new(&key(1), &[1; 16], plain.len() as u64).unwrap();
    let sealed = seal(&key(1), 1, &plain);
    check(&ring(1));
    check(&Unsealer::open(&sealed, &ring(1)).unwrap());
    let half = sealed.len() / 2;
    let part = |offset: usize, length: usize| {
        let (mut sealer, plain) = (sealer.clone(), plain.clone());
        std::thread::spawn(move || {
            let mut part = vec![0; length];
            sealer.read_at(offset as u64, &mut part, &mut reader(&plain)).unwrap();
            part
        })
    };
    let (first, second) = (part(0, half), part(half, sealed.len() - half));
    assert!([first.join().unwrap(), second.join().unwrap()].concat() == sealed);
}

#[test]
fn every_size_comes_back_and_is_as_long_as_foretold() {
    for size in SIZES {
        let plain = contents(size, 1);
        let sealed = seal(&key(1), 1, &plain);
        assert_eq!((sealed_size(size as u64), plain_size(sealed.len() as u64)), (Some(sealed.len() as u64), Some(size as u64)));
        assert_eq!(unseal(&sealed, &ring(1)).unwrap(), plain, "{size}");
        assert_eq!(seal(&key(1), 1, &plain), sealed, "the same again");
        let unsealer = Unsealer::open(&sealed, &ring(1)).unwrap();
        for frame in 0..unsealer.frames() {
            let (from, to) = (unsealer.sealed_range(frame).unwrap(), unsealer.plain_range(frame).unwrap());
            let mut bytes = sealed[from.start as usize..from.end as usize].to_vec();
            assert_eq!(unsealer.unseal_frame(frame, &mut bytes).unwrap(), &plain[to.start as usize..to.end as usize]);
        }
        assert!(matches!(unsealer.sealed_range(unsealer.frames()), Err(SealError::Range { .. })));
        assert!(matches!(unsealer.unseal_frame(u64::MAX, &mut [0; 16]), Err(SealError::Range { .. })));
    }
}

#[test]
fn nothing_of_the_contents_and_nothing_twice_is_in_the_sealed_file() {
    let plain = vec![0; 3 * FRAME_BYTES];
    let sealed = seal(&key(1), 1, &plain);
    assert!(sealed[HEADER_BYTES..].windows(8).all(|window| window != [0; 8]));
    let frame = |sealed: &[u8], index: usize| sealed[HEADER_BYTES + index * SEALED_FRAME_BYTES..][..SEALED_FRAME_BYTES].to_vec();
    assert_ne!(frame(&sealed, 0), frame(&sealed, 1));
    for other in [seal(&key(1), 2, &plain), seal(&key(2), 1, &plain), seal(&key(1), 1, &plain[1..])] {
        assert_ne!(frame(&sealed, 0), frame(&other, 0));
        assert_ne!(sealed[64..76], other[64..76], "the nonces of the wrap");
    }
    // The one thing that is leaked: which frames did not change, where name, size and time are the same.
    let mut changed = plain;
    changed[FRAME_BYTES] = 1;
    let changed = seal(&key(1), 1, &changed);
    assert_eq!((frame(&sealed, 0), frame(&sealed, 2)), (frame(&changed, 0), frame(&changed, 2)));
    let equal_bytes = frame(&sealed, 1).iter().zip(frame(&changed, 1)).filter(|(one, other)| **one == *other).count();
    assert!(equal_bytes < FRAME_BYTES / 100, "{equal_bytes} of a changed frame");
}

#[test]
fn ranges_outside_the_file_are_refused() {
    let plain = contents(100, 1);
    let mut sealer = Sealer::new(&key(1), &[1; 16], 100).unwrap();
    let size = sealer.sealed_size();
    let mut at = |offset, length| sealer.read_at(offset, &mut vec![0; length], &mut reader(&plain));
    at(size, 0).unwrap();
    at(size - 1, 1).unwrap();
    for (offset, length) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX, 0)] {
        assert!(matches!(at(offset, length), Err(SealError::Range { .. })), "{offset} {length}");
    }
    let sealed = seal(&key(1), 1, &plain);
    let unsealer = Unsealer::open(&sealed, &ring(1)).unwrap();
    let at = |offset, length| unsealer.unseal_range(offset, &mut vec![0; length], &mut reader(&sealed));
    at(100, 0).unwrap();
    at(99, 1).unwrap();
    for (offset, length) in [(100, 1), (99, 2), (u64::MAX, 1)] {
        assert!(matches!(at(offset, length), Err(SealError::Range { .. })), "{offset} {length}");
    }
}

#[test]
fn a_read_that_fails_leaves_nothing_wrong_behind() {
    let plain = contents(FRAME_BYTES + 9, 1);
    let whole = seal(&key(1), 1, &plain);
    let mut sealer = Sealer::new(&key(1), &[1; 16], plain.len() as u64).unwrap();
    let mut part = [0; 100];
    let mut fail = |_: u64, into: &mut [u8]| {
        into.fill(7);
        Err(io::Error::other("the disk is gone"))
    };
    let error = sealer.read_at(300, &mut part, &mut fail).unwrap_err();
    assert!(matches!(&error, SealError::Io(_)) && error.to_string().contains("disk is gone"), "{error}");
    sealer.read_at(300, &mut part, &mut reader(&plain)).unwrap();
    assert_eq!(part, whole[300..400]);
}

#[test]
fn parts_of_one_frame_are_read_and_sealed_once() {
    let plain = contents(2 * FRAME_BYTES, 1);
    let mut sealer = Sealer::new(&key(1), &[1; 16], plain.len() as u64).unwrap();
    let (mut reads, mut read) = (0, reader(&plain));
    for offset in (0..sealer.sealed_size() as usize).step_by(1400) {
        let mut part = vec![0; 1400.min(sealer.sealed_size() as usize - offset)];
        let mut counted = |offset, into: &mut [u8]| {
            reads += 1;
            read(offset, into)
        };
        sealer.read_at(offset as u64, &mut part, &mut counted).unwrap();
    }
    assert_eq!(reads, 2);
}

#[test]
fn a_wrong_key_is_told_from_damage_before_a_byte_comes_out() {
    let cost = KdfParameters::new(8, 1, 1).unwrap();
    let pass = |text: &str| Passphrase::new(text.as_bytes().to_vec()).unwrap();
    let sealed = seal(&MasterKey::from_passphrase(&pass("right"), &cost, &[4; 16]).unwrap(), 1, b"contents");
    let with = |text| KeyRing::new().with_passphrase(pass(text));
    assert_eq!(unseal(&sealed, &with("right")).unwrap(), b"contents");
    let wrong = unseal(&sealed, &with("wrong")).unwrap_err();
    assert!(matches!(wrong, SealError::WrongPassphrase) && wrong.is_key(), "{wrong}");
    // A flip in the salt would be another key; it is told as what it is.
    let mut damaged = sealed.clone();
    damaged[40] ^= 1;
    let damage = unseal(&damaged, &with("right")).unwrap_err();
    assert!(matches!(damage, SealError::HeaderDamaged(_)) && !damage.is_key(), "{damage}");
    let mut damaged = sealed;
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(unseal(&damaged, &with("right")), Err(SealError::FrameDamaged { frame: 0, frames: 1 })));
    assert!(matches!(unseal(&damaged, &ring(1)), Err(SealError::PassphraseNeeded)));
}

#[test]
fn each_flipped_bit_of_a_small_file_is_found() {
    let sealed = seal(&key(1), 1, b"contents");
    for bit in 0..sealed.len() * 8 {
        let mut damaged = sealed.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = unseal(&damaged, &ring(1));
        assert!(found.as_ref().is_err_and(|error| !error.is_key()), "bit {bit}: {found:?}");
    }
}

#[test]
fn a_frame_that_does_not_open_leaves_no_contents_in_the_buffer() {
    let plain = contents(1000, 1);
    let sealed = seal(&key(1), 1, &plain);
    let unsealer = Unsealer::open(&sealed, &ring(1)).unwrap();
    let mut frame = sealed[HEADER_BYTES..].to_vec();
    frame[500] ^= 1;
    assert!(unsealer.unseal_frame(0, &mut frame).is_err());
    assert!(!frame.windows(8).any(|window| plain.windows(8).any(|secret| secret == window)));
}

/// Frames moved, left out, added, or taken from elsewhere.
#[test]
fn frames_that_are_not_where_they_belong_are_found() {
    let plain = contents(3 * FRAME_BYTES, 1);
    let sealed = seal(&key(1), 1, &plain);
    let (header, body) = sealed.split_at(HEADER_BYTES);
    let frames: Vec<&[u8]> = body.chunks(SEALED_FRAME_BYTES).collect();
    let other = seal(&key(1), 2, &plain);
    let foreign = &other[HEADER_BYTES + SEALED_FRAME_BYTES..][..SEALED_FRAME_BYTES];
    let longer = seal(&key(1), 1, &contents(4 * FRAME_BYTES, 1));

    let with = |frames: &[&[u8]]| unseal(&[header, &frames.concat()].concat(), &ring(1));
    assert_eq!(with(&frames).unwrap(), plain);
    let damaged_at = |result: Result<Vec<u8>, SealError>| match result {
        Err(SealError::FrameDamaged { frame, frames: 3 }) => frame,
        other => panic!("{other:?}"),
    };
    assert_eq!(damaged_at(with(&[frames[1], frames[0], frames[2]])), 0, "swapped");
    assert_eq!(damaged_at(with(&[frames[0], frames[2], frames[1]])), 1, "the last too early");
    assert_eq!(damaged_at(with(&[frames[0], frames[0], frames[2]])), 1, "twice");
    assert_eq!(damaged_at(with(&[frames[0], foreign, frames[2]])), 1, "of another file");
    assert_eq!(damaged_at(with(&[frames[0], &longer[HEADER_BYTES + SEALED_FRAME_BYTES..][..SEALED_FRAME_BYTES], frames[2]])), 1);
    for cut in [HEADER_BYTES, HEADER_BYTES + SEALED_FRAME_BYTES, HEADER_BYTES + 2 * SEALED_FRAME_BYTES, sealed.len() - 1] {
        assert!(matches!(unseal(&sealed[..cut], &ring(1)), Err(SealError::WrongSize { .. })), "cut at {cut}");
    }
    assert!(matches!(with(&[frames[0], frames[1], frames[2], frames[2]]), Err(SealError::WrongSize { .. })));
    assert!(matches!(unseal(&[sealed.as_slice(), &[0]].concat(), &ring(1)), Err(SealError::WrongSize { .. })));
    // A header that tells of fewer frames, with a right checksum and the wrap of a file of that size: another file's key.
    let shorter = seal(&key(1), 1, &plain[..FRAME_BYTES]);
    assert_eq!(unseal(&[&shorter[..HEADER_BYTES], frames[0]].concat(), &ring(1)).map_err(|error| error.to_string()).unwrap_err(), {
        "frame 0 of 1 is damaged; take another copy of the file"
    });
}

static WHOLE: LazyLock<Vec<(Vec<u8>, Vec<u8>)>> = LazyLock::new(|| {
    let of = |size| {
        let plain = contents(size, 2);
        let sealed = seal(&key(1), 1, &plain);
        (plain, sealed)
    };
    SIZES.into_iter().map(of).collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_range_of_the_sealed_file_is_that_of_the_whole(
        file in 0..SIZES.len(),
        reads in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
    ) {
        let (plain, whole) = &WHOLE[file];
        let mut sealer = Sealer::new(&key(1), &[1; 16], plain.len() as u64).unwrap();
        for (one, other) in reads {
            let (one, other) = (one.index(whole.len() + 1), other.index(whole.len() + 1));
            let range = one.min(other)..one.max(other);
            let mut part = vec![0; range.len()];
            sealer.read_at(range.start as u64, &mut part, &mut reader(plain)).unwrap();
            prop_assert!(part == whole[range]);
        }
    }

    #[test]
    fn every_range_of_the_contents_comes_back(
        file in 0..SIZES.len(),
        ends in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let (plain, whole) = &WHOLE[file];
        let unsealer = Unsealer::open(whole, &ring(1)).unwrap();
        let (one, other) = (ends.0.index(plain.len() + 1), ends.1.index(plain.len() + 1));
        let range = one.min(other)..one.max(other);
        let mut part = vec![0; range.len()];
        unsealer.unseal_range(range.start as u64, &mut part, &mut reader(whole)).unwrap();
        prop_assert!(part == plain[range]);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found(file in 0..SIZES.len(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut damaged = WHOLE[file].1.clone();
        let at = at.index(damaged.len());
        damaged[at] ^= 1u8 << bit;
        match unseal(&damaged, &ring(1)) {
            Err(SealError::FrameDamaged { frame, .. }) => {
                prop_assert_eq!(frame, ((at - HEADER_BYTES) / SEALED_FRAME_BYTES) as u64);
            }
            Err(SealError::NotSealed | SealError::HeaderDamaged(_)) => prop_assert!(at < HEADER_BYTES),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn no_bytes_whatever_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let bytes = if magic { [b"tradewind-sealed".as_slice(), &bytes].concat() } else { bytes };
        prop_assert!(unseal(&bytes, &ring(1)).is_err());
    }
}
