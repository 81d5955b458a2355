//! A peer that holds the key and wants to hurt us: nothing it can put into authentic packets makes either end panic, or
//! hold more memory than its limits allow. Nor do random bytes.

mod common;
#[path = "common/counting.rs"]
mod counting;

use common::{MS, Random};
use tradewind_proto::crypto::Direction;
use tradewind_wire::feedback::{FeedbackWriter, Summary, Train};
use tradewind_wire::limits::{BLOCKS_OPEN_MAX, SEGMENTS_OPEN_MAX};
use tradewind_wire::{BlockId, Control, DataHeader, Group, Kind, Orders, State};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const CHUNK: u16 = 496;
const IMAGE_BYTES: usize = 16 * 1024;
const WINDOW: u32 = 8;
const PACKETS: u32 = 60_000;

/// Bytes that the receiver may hold besides its block buffers: the window's segments (4,096 of 160 bytes, twice while the
/// queue grows), block slots, and change.
const RECEIVER_BYTES_MAX: i64 = (SEGMENTS_OPEN_MAX * 160 * 3 + BLOCKS_OPEN_MAX * 16 + 256 * 1024) as i64;
const SENDER_BYTES_MAX: i64 = 2 * 1024 * 1024;

fn edge(random: &mut Random) -> u64 {
    let wide = u64::from(random.bits()) << 32 | u64::from(random.bits());
    match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => wide,
        3 => wide >> 16,
        4 => wide >> 32,
        5 => u64::from(u32::MAX) - wide % 4,
        _ => wide % 5_000,
    }
}

fn control(random: &mut Random, plain: &mut [u8]) -> usize {
    let text = [0xff; 512];
    let message = match random.below(7) {
        0 => Control::Fin { blocks: edge(random) as u32 },
        1 => Control::Done { receipt: edge(random) },
        2 if random.below(20) == 0 => Control::Close { code: edge(random) as u16, text: &text[..random.below(513) as usize] },
        4 => Control::Group(Group { number: edge(random) as u32, share_kbps: edge(random) as u32, lanes: edge(random) as u16 }),
        3 => Control::Orders(Orders {
            number: edge(random) as u32,
            policy: random.bits() as u8 % 8,
            target_kbps: edge(random) as u32,
            minimum_kbps: edge(random) as u32,
            lease_kbps: edge(random) as u32,
        }),
        _ => Control::State(State {
            round_trip_us: edge(random) as u32,
            rate_kbps: edge(random) as u32,
            sent_kbps: edge(random) as u32,
            wanted_kbps: edge(random) as u32,
            orders: edge(random) as u32,
            limiter: random.bits() as u8,
        }),
    };
    message.write(plain).expect("it fits")
}

fn feedback(random: &mut Random, plain: &mut [u8]) -> usize {
    let summary = Summary {
        flags: random.bits() as u8,
        now_us: edge(random) as u32,
        hold_us: edge(random) as u32,
        echo_us: edge(random) as u32,
        largest: edge(random) & 0xffff_ffff_ffff,
        closed: edge(random) & 0xffff_ffff_ffff,
        blocks_allowed: edge(random) as u32,
        blocks_completed: edge(random) as u32,
        blocks_durable: edge(random) as u32,
        storage_kbps: edge(random) as u32,
        received: edge(random) & 0xffff_ffff_ffff,
        congestion_experienced: edge(random) as u16,
        dropped_locally: edge(random) as u32,
        interval_us: edge(random) as u32,
    };
    let mut writer = FeedbackWriter::new(plain, &summary).expect("it fits");
    for _ in 0..random.below(9) {
        writer.train(&Train {
            train: random.bits() as u8,
            received: edge(random) as u32,
            first_packet: edge(random) as u32,
            last_packet: edge(random) as u32,
            first_sent_us: edge(random) as u32,
            last_sent_us: edge(random) as u32,
            first_arrival_us: edge(random) as u32,
            last_arrival_us: edge(random) as u32,
            least_one_way_us: edge(random) as u32,
        });
    }
    for _ in 0..random.below(7) {
        let mut bitmap = [0; 16];
        bitmap.fill_with(|| edge(random));
        writer.segment(edge(random) as u32, 1 + random.below(1024) as u16, &bitmap);
    }
    writer.finish()
}

fn kind(random: &mut Random) -> Kind {
    [Kind::Data, Kind::Feedback, Kind::Control, Kind::Probe][random.below(4) as usize]
}

#[test]
fn a_malicious_sender_cannot_hurt_the_receiver() {
    let mut keys = common::seal_keys(Direction::Forward);
    let mut out = vec![0; 2048];
    let mut plain = vec![0u8; 4096];
    for seed in 0..12 {
        let mut random = Random(seed);
        let mut receiver = common::receiver(CHUNK, IMAGE_BYTES, WINDOW);
        let before = counting::live_bytes();
        let (mut now_ns, mut number, mut buffers, mut most) = (0, 0u64, 0u32, 0);
        for _ in 0..PACKETS / 12 {
            number = match random.below(200) {
                0 => edge(&mut random) & 0x3f_ffff,
                1 => number.saturating_sub(u64::from(random.below(5000))),
                2 => number + u64::from(random.below(100_000)),
                _ => number + 1,
            };
            let random_bytes = random.below(600) as usize;
            plain.iter_mut().for_each(|byte| *byte = random.bits() as u8);
            let datagram = match kind(&mut random) {
                Kind::Data => {
                    let data = DataHeader {
                        sent_us: edge(&mut random) as u32,
                        train: random.bits() as u8,
                        floor_segment: edge(&mut random) as u16,
                        block: BlockId(edge(&mut random) as u32 % (WINDOW * 2).max(random.below(1000) + 1)),
                        chunk: edge(&mut random) as u16 % 40,
                    };
                    let bytes = if random.below(4) > 0 { usize::from(CHUNK) } else { random_bytes };
                    common::packet(&mut keys, Kind::Data, random.bits() as u8, number, &data.to_bytes(), &plain[..bytes])
                }
                Kind::Control if random.below(2) == 0 => {
                    let bytes = control(&mut random, &mut plain);
                    common::packet(&mut keys, Kind::Control, random.bits() as u8, number, &[], &plain[..bytes])
                }
                other => common::packet(&mut keys, other, random.bits() as u8, number, &[], &plain[..random_bytes]),
            };
            now_ns += edge(&mut random) % (20 * MS);
            let mut take = || {
                buffers += 1;
                Some(vec![0; IMAGE_BYTES])
            };
            let _ = receiver.handle_datagram(now_ns, &datagram, random.below(2) == 0, &mut take);
            let mut sent = 0;
            while receiver.poll_transmit(now_ns, &mut out) > 0 {
                sent += 1;
                assert!(sent <= 32, "one packet made it send {sent}");
            }
            let _ = receiver.poll_timeout();
            drop(datagram);
            most = most.max(counting::live_bytes() - before);
            if random.below(8) == 0 {
                // An owner that forgets events now and then, but never gives more credit.
                while let Some(event) = receiver.poll_event() {
                    drop(event);
                }
            }
        }
        assert!(buffers <= WINDOW, "{buffers} buffers with a credit of {WINDOW}");
        let limit = RECEIVER_BYTES_MAX + i64::from(WINDOW) * IMAGE_BYTES as i64;
        assert!(most <= limit, "seed {seed}: {most} bytes, {limit} allowed");
    }
}

#[test]
fn a_malicious_receiver_cannot_hurt_the_sender() {
    let mut keys = common::seal_keys(Direction::Reverse);
    let mut out = vec![0; 2048];
    let mut plain = vec![0u8; 4096];
    for seed in 0..12 {
        let mut random = Random(seed);
        let mut sender = common::sender(CHUNK, WINDOW, 20_000_000);
        let before = counting::live_bytes();
        let (mut now_ns, mut number, mut most, mut opened) = (0, 0u64, 0, 0u32);
        for _ in 0..PACKETS / 24 {
            // The owner opens a block or two at a time and no more than it has memory for.
            while sender.wants_block() && opened < 64 {
                sender.open_block(now_ns, vec![3; IMAGE_BYTES]).expect("it asked for one");
                opened += 1;
            }
            let mut sent = 0;
            while sender.poll_transmit(now_ns, &mut out) > 0 {
                sent += 1;
                assert!(sent < 5_000, "it never stops sending");
            }
            let _ = sender.poll_timeout(now_ns);
            number = if random.below(50) == 0 { edge(&mut random) & 0x3f_ffff } else { number + 1 };
            let random_bytes = random.below(1200) as usize;
            plain.iter_mut().for_each(|byte| *byte = random.bits() as u8);
            let datagram = match kind(&mut random) {
                Kind::Feedback | Kind::Data if random.below(5) > 0 => {
                    let bytes = feedback(&mut random, &mut plain);
                    common::packet(&mut keys, Kind::Feedback, random.bits() as u8, number, &[], &plain[..bytes])
                }
                Kind::Control if random.below(40) == 0 => {
                    let bytes = control(&mut random, &mut plain);
                    common::packet(&mut keys, Kind::Control, 0, number, &[], &plain[..bytes])
                }
                other => common::packet(&mut keys, other, random.bits() as u8, number, &[], &plain[..random_bytes]),
            };
            now_ns += edge(&mut random) % (20 * MS);
            let _ = sender.handle_datagram(now_ns, &datagram);
            drop(datagram);
            let statistics = sender.statistics();
            assert!(statistics.random_loss.is_finite());
            most = most.max(counting::live_bytes() - before);
            while let Some(event) = sender.poll_event() {
                drop(event);
            }
        }
        let limit = SENDER_BYTES_MAX + i64::from(opened) * IMAGE_BYTES as i64;
        assert!(most <= limit, "seed {seed}: {most} bytes, {limit} allowed");
    }
}

#[test]
fn random_bytes_are_counted_and_nothing_else() {
    let mut random = Random(99);
    let mut receiver = common::receiver(CHUNK, IMAGE_BYTES, WINDOW);
    let mut sender = common::sender(CHUNK, WINDOW, 20_000_000);
    let mut out = vec![0; 2048];
    let mut bytes = vec![0u8; 1600];
    let mut genuine = vec![0; 2048];
    sender.open_block(0, vec![1; 4000]).expect("it has credit");
    let genuine_bytes = sender.poll_transmit(0, &mut genuine);
    let before = counting::live_bytes();
    for i in 0..PACKETS {
        let length = random.below(1600) as usize;
        bytes[..length].iter_mut().for_each(|byte| *byte = random.bits() as u8);
        if i % 2 == 0 && length > 29 {
            // A genuine clear part with random ciphertext comes further.
            bytes[..16].copy_from_slice(&genuine[..16]);
            bytes[0] = 0x11 + (i % 4) as u8;
            bytes[5..8].copy_from_slice(&[0, 0, random.bits() as u8]);
        }
        let mut length = length;
        if i % 4 == 0 {
            // And a DATA header that is all right: only the tag says that it is forged.
            let data = DataHeader { sent_us: i, train: 0, floor_segment: 0, block: BlockId(i % WINDOW), chunk: (i % 9) as u16 };
            bytes[..16].copy_from_slice(&genuine[..16]);
            (bytes[0], bytes[1]) = (0x11, random.bits() as u8);
            bytes[16..29].copy_from_slice(&data.to_bytes());
            length = if random.below(2) == 0 { usize::from(CHUNK) + 45 } else { 46 + random.below(495) as usize };
        }
        let now_ns = u64::from(i) * MS / 100;
        assert!(
            receiver
                .handle_datagram(now_ns, &bytes[..length], false, &mut || -> Option<Vec<u8>> { panic!("a forged packet took a buffer") })
                .is_err()
        );
        assert!(sender.handle_datagram(now_ns, &bytes[..length]).is_err());
        assert_eq!(receiver.poll_transmit(now_ns, &mut out), 0, "it answered a forged packet");
    }
    assert!(genuine_bytes > 0);
    assert!(receiver.poll_event().is_none());
    assert!(counting::live_bytes() - before < 4096);
    assert_eq!(receiver.statistics().packets_received, 0);
}
