//! The vectors of `docs/spec/sealed-format.md`, read from that page. They come from `vectors.py`, which shares no code with this crate.

use std::collections::HashMap;
use std::io;

use tradewind_seal::{KdfParameters, KeyRing, MasterKey, Passphrase, Sealer, Unsealer, identity};
use zeroize::Zeroizing;

const FOX: &[u8] = b"The quick brown fox jumps over the lazy dog.\n";

fn vectors() -> HashMap<&'static str, &'static str> {
    let page = include_str!("../../../docs/spec/sealed-format.md");
    let block = page.split("```text").last().unwrap().split("```").next().unwrap();
    block.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = ")).collect()
}

fn range<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|index| from + index as u8)
}

fn master() -> MasterKey {
    MasterKey::from_bytes(&Zeroizing::new(range(0))).unwrap()
}

fn seal(master: &MasterKey, plain: &[u8]) -> Vec<u8> {
    let mut read = |offset: u64, into: &mut [u8]| -> io::Result<()> {
        into.copy_from_slice(&plain[offset as usize..][..into.len()]);
        Ok(())
    };
    let mut sealed = Vec::new();
    Sealer::new(master, &range(16), plain.len() as u64).unwrap().seal(&mut read, &mut sealed).unwrap();
    sealed
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[test]
fn a_small_file_by_key_file_and_by_passphrase() {
    assert_eq!(hex(&seal(&master(), FOX)), vectors()["fox"]);

    let passphrase = || Passphrase::new(b"correct horse battery staple".to_vec()).unwrap();
    let derived = MasterKey::from_passphrase(&passphrase(), &KdfParameters::RECOMMENDED, &range(32)).unwrap();
    assert_eq!(hex(&seal(&derived, FOX)), vectors()["fox-passphrase"]);

    // And back, with nothing but the passphrase.
    let sealed = data_encoding::HEXLOWER.decode(vectors()["fox-passphrase"].as_bytes()).unwrap();
    let (mut rest, mut plain) = (sealed.as_slice(), Vec::new());
    let unsealer = Unsealer::from_reader(&mut rest, &KeyRing::new().with_passphrase(passphrase())).unwrap();
    unsealer.unseal(&mut rest, &mut plain).unwrap();
    assert_eq!(plain, FOX);
}

#[test]
fn three_frames() {
    let plain: Vec<u8> = (0..131_073_u64).map(|at| (at * 31 % 251) as u8).collect();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &seal(&master(), &plain));
    assert_eq!(hex(hash.as_ref()), vectors()["pattern-sha256"]);
}

#[test]
fn a_name_and_an_identity() {
    let sealed = master().seal_name(b"films/day 1.mxf").unwrap();
    assert_eq!(str::from_utf8(&sealed).unwrap(), vectors()["name"]);
    assert_eq!(master().unseal_name(vectors()["name"].as_bytes()).unwrap(), b"films/day 1.mxf");
    assert_eq!(hex(&identity(b"films/day 1.mxf", 45, 1_700_000_000_000_000_005)), vectors()["identity"]);
}
