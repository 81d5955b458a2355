//! The block table on any bytes. Half of the inputs get a footer with a correct checksum, or no input would ever get past
//! it: a hostile peer computes it, too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_proto::block::{BlockTable, check_path, crc64_nvme};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // First byte: how much of the rest is payload.
    if let Some((&share, rest)) = bytes.split_first() {
        check(&with_footer(rest, rest.len() * usize::from(share) / 255));
    }
});

/// An image of `payload` bytes of payload, the rest as table, and the footer of docs/spec: written here a second time, so
/// that the format cannot change unnoticed.
fn with_footer(body: &[u8], payload: usize) -> Vec<u8> {
    let mut image = body.to_vec();
    image.extend((payload as u32).to_be_bytes());
    image.extend(((body.len() - payload) as u32).to_be_bytes());
    let crc = crc64_nvme(&image[payload..]);
    image.extend(crc.to_be_bytes());
    image.extend(3_u32.to_be_bytes());
    image.extend(b"TWBK");
    image
}

fn check(image: &[u8]) {
    let Ok(table) = BlockTable::parse(image) else { return };
    let mut payload = 0_u64;
    for extent in &table.extents {
        let record = table.record(extent.file).expect("every extent has its file's record");
        assert!(extent.file_offset + u64::from(extent.length) <= record.size, "an extent ends in its file");
        assert_eq!(u64::from(extent.payload_offset), payload, "extents lie one behind the other");
        payload += u64::from(extent.payload_bytes());
    }
    assert_eq!(payload, u64::from(table.payload_bytes));
    for file in &table.files {
        assert_eq!(check_path(&file.path), Ok(()));
    }
    // Right or wrong, but without a panic.
    let _ = table.verify_payload(image);
}
