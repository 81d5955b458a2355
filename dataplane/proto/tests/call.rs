//! A receiver that speaks first, because its sender does not know where it is. Cannot see: sockets, several workers.

use tradewind_proto::block::{BlockWriter, crc64_nvme};
use tradewind_proto::block::{FileId, FileRecord};
use tradewind_proto::crypto::{CipherSuite, LaneSecret, Provider};
use tradewind_proto::rate::{Policy, RateConfig};
use tradewind_proto::receiver::{Receiver, ReceiverConfig, ReceiverEvent};
use tradewind_proto::sender::{Sender, SenderConfig, SenderEvent};
use tradewind_wire::LaneId;
use tradewind_wire::orders::{KBPS_NONE, Orders, policy};

const MS: u64 = 1_000_000;
const PAYLOAD: usize = 65_536;
const CHUNK: u16 = 1_200;

fn ends() -> (Sender<Vec<u8>>, Receiver<Vec<u8>>) {
    let (lane, secret, suite, provider) = (LaneId(9), LaneSecret([4; 32]), CipherSuite::Aes128Gcm, Provider::AwsLc);
    let rate = RateConfig {
        policy: Policy::Fair,
        target_bytes_per_s: u64::MAX,
        minimum_bytes_per_s: 0,
        packet_bytes: u32::from(CHUNK) + 73,
        seed: 1,
        initial_rtt_ns: 0,
    };
    let sender = SenderConfig {
        lane,
        secret: secret.clone(),
        suite,
        provider,
        chunk_bytes: CHUNK,
        // The receiver says how many.
        blocks_allowed: 0,
        rate,
        tail_copies: true,
        idle_timeout_ns: 30_000 * MS,
    };
    let receiver = ReceiverConfig {
        lane,
        secret,
        suite,
        provider,
        chunk_bytes: CHUNK,
        image_bytes_max: BlockWriter::image_bytes_max(PAYLOAD),
        blocks_allowed: 4,
        idle_timeout_ns: 30_000 * MS,
    };
    (Sender::new(sender, 0), Receiver::new(receiver))
}

fn block() -> Vec<u8> {
    let mut slot = vec![7; BlockWriter::image_bytes_max(PAYLOAD)];
    let mut writer = BlockWriter::new(PAYLOAD);
    let record = FileRecord { file: FileId(0), path: b"f".to_vec(), size: PAYLOAD as u64, mtime_ns: 1, mode: 0o644, attributes: [].into() };
    writer.add(&record, 0, PAYLOAD as u32, crc64_nvme(&slot[..PAYLOAD])).expect("it fits");
    let bytes = writer.finish(&mut slot);
    slot.truncate(bytes);
    slot
}

#[test]
fn a_receiver_is_silent_until_it_calls_and_a_lost_call_is_repeated() {
    let (_, mut receiver) = ends();
    let mut out = vec![0; 2_048];
    assert_eq!(receiver.poll_transmit(0, &mut out), 0);
    assert_eq!(receiver.poll_timeout(), u64::MAX);
    receiver.call(5 * MS);
    assert_eq!(receiver.poll_timeout(), 5 * MS);
    let mut calls = Vec::new();
    for now in (5 * MS..1_000 * MS).step_by(MS as usize) {
        while receiver.poll_transmit(now, &mut out) > 0 {
            calls.push(now);
        }
    }
    assert!((8..=11).contains(&calls.len()) && calls[0] == 5 * MS, "{calls:?}");
}

#[test]
fn a_call_begins_a_transfer_of_which_the_sender_learns_nothing_before() {
    let (mut sender, mut receiver) = ends();
    assert!(!sender.can_open_block(), "the receiver has not said that it takes any");
    receiver.call(0);
    let orders = Orders { number: 0, policy: policy::FAIR, target_kbps: 80_000, minimum_kbps: 0, lease_kbps: KBPS_NONE };
    let (mut out, mut blocks, mut opened, mut done) = (vec![0; 2_048], 0, 0, false);
    let mut heard = false;
    for now in (0..20_000 * MS).step_by(100_000) {
        while let bytes @ 1.. = receiver.poll_transmit(now, &mut out) {
            if now == 0 {
                // The first call is lost.
                continue;
            }
            let arrival = sender.handle_datagram(now, &out[..bytes]).expect("authentic");
            if !heard {
                assert!(arrival.newest && now >= 100 * MS);
                heard = true;
                sender.agree(now, &orders, None);
            }
        }
        if !heard {
            continue;
        }
        while opened < 10 && sender.can_open_block() {
            sender.open_block(now, block()).expect("room");
            opened += 1;
        }
        if opened == 10 {
            sender.finish();
        }
        while let bytes @ 1.. = sender.poll_transmit(now, &mut out) {
            let mut buffers = || Some(vec![0; BlockWriter::image_bytes_max(PAYLOAD)]);
            // The lane may have ended.
            let _ = receiver.handle_datagram(now, &out[..bytes], false, &mut buffers);
        }
        while let Some(event) = receiver.poll_event() {
            if let ReceiverEvent::Block { .. } = event {
                blocks += 1;
                receiver.set_blocks_allowed(now, blocks + 4);
                receiver.set_storage(now, blocks, 0, false);
                if blocks == 10 {
                    receiver.finish(now, 3);
                }
            }
        }
        while let Some(event) = sender.poll_event() {
            done |= matches!(event, SenderEvent::Done { receipt: 3 });
        }
        if done && receiver.is_closed() {
            break;
        }
    }
    assert!(done && receiver.is_closed() && blocks == 10, "{blocks} blocks, done {done}");
}
