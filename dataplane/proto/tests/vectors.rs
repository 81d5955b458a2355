//! Key derivation and sealed packets against the golden vectors in `dataplane/wire/tests/vectors`.
//!
//! `vectors.py` beside them wrote them with another AES-GCM and another HKDF.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tradewind_proto::block::{Attributes, BlockTable, BlockWriter, FileId, FileRecord, crc64_nvme};
use tradewind_proto::crypto::{CipherSuite, Direction, LaneSecret, OpenKeys, Provider, SealKeys};
use tradewind_wire::limits::{DATA_HEADER_BYTES, HEADER_BYTES};
use tradewind_wire::{Header, Kind, LaneId, PacketNumber};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/vectors").join(name)
}

/// Sections of `name = value` lines, separated by blank lines; `#` starts a comment.
fn sections(name: &str) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path(name)).expect("the vectors are part of the repository");
    let mut all = vec![BTreeMap::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(" = ") {
            Some((key, value)) => {
                all.last_mut().expect("never empty").insert(key.to_owned(), value.to_owned());
            }
            None => all.push(BTreeMap::new()),
        }
    }
    all.retain(|section| !section.is_empty());
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex digits")).collect()
}

fn suite(text: &str) -> CipherSuite {
    match text {
        "aes-128-gcm" => CipherSuite::Aes128Gcm,
        "aes-256-gcm" => CipherSuite::Aes256Gcm,
        other => panic!("no suite {other}"),
    }
}

fn direction(text: &str) -> Direction {
    match text {
        "forward" => Direction::Forward,
        "reverse" => Direction::Reverse,
        other => panic!("no direction {other}"),
    }
}

#[test]
fn sealed_packets_are_the_golden_ones_with_both_providers() {
    let sections = sections("sealed.txt");
    assert!(sections.len() >= 8, "{} vectors", sections.len());
    for vector in sections {
        let name = &vector["name"];
        let secret: [u8; 32] = unhex(&vector["lane_secret"]).try_into().expect("32 bytes");
        let lane = LaneId(u64::from_str_radix(&vector["lane_id"], 16).expect("hex"));
        let (suite, direction) = (suite(&vector["suite"]), direction(&vector["direction"]));
        let number = PacketNumber::new(vector["packet_number"].parse().expect("a number")).expect("48 bits");
        let (clear, plain, datagram) = (unhex(&vector["clear"]), unhex(&vector["plaintext"]), unhex(&vector["datagram"]));
        let header = Header::parse(&datagram).expect("a packet");
        assert_eq!((header.lane, header.packet_number), (lane, number), "{name}");
        assert_eq!(clear.len(), if header.kind == Kind::Data { HEADER_BYTES + DATA_HEADER_BYTES } else { HEADER_BYTES }, "{name}");
        for provider in [Provider::AwsLc, Provider::RustCrypto] {
            let mut sealed = vec![0; plain.len() + 16];
            SealKeys::new(&LaneSecret(secret), lane, direction, suite, provider)
                .seal(number, &clear, &plain, &mut sealed)
                .expect("lengths fit");
            assert_eq!(hex(&[clear.clone(), sealed].concat()), vector["datagram"], "{name} by {provider:?}");
            let mut open = OpenKeys::new(&LaneSecret(secret), lane, direction, suite, provider);
            let mut out = vec![0; plain.len()];
            // A receiver walks through the epochs; vectors use the first two.
            open.open(number, &clear, &datagram[clear.len()..], &mut out).expect("authentic");
            assert_eq!(out, plain, "{name}");
            let mut forged = datagram.clone();
            *forged.last_mut().expect("not empty") ^= 1;
            assert!(open.open(number, &clear, &forged[clear.len()..], &mut out).is_err(), "{name}: a forged tag passes");
        }
    }
}

#[test]
fn the_golden_block_is_cut_and_read() {
    let vector = &sections("block.txt")[0];
    let mut slot = vec![0; BlockWriter::image_bytes_max(65_536)];
    let mut writer = BlockWriter::new(65_536);
    for (file, name, text) in [(0, "hello.txt", "Hello"), (1, "empty", ""), (2, "dir/world", "World!")] {
        let at = writer.payload_bytes();
        slot[at..at + text.len()].copy_from_slice(text.as_bytes());
        let attributes: Attributes = if text.is_empty() { Attributes::default() } else { [("uid".to_owned(), "1000".to_owned())].into() };
        let (file, size, mtime_ns) = (FileId(file), text.len() as u64, 1_700_000_000_000_000_000);
        let record = FileRecord { file, path: name.into(), size, mtime_ns, mode: 0o644, attributes };
        writer.add(&record, 0, text.len() as u32, crc64_nvme(text.as_bytes())).expect("it fits");
    }
    let length = writer.finish(&mut slot);
    assert_eq!(hex(&slot[..length]), vector["image"]);
    let table = BlockTable::parse(&unhex(&vector["image"])).expect("a block");
    table.verify_payload(&slot[..length]).expect("intact");
    assert_eq!(table.extents.len(), 3);
}
