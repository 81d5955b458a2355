//! The golden vectors in `vectors/`, which `vectors/vectors.py` writes without any code of ours.

use std::collections::BTreeMap;

use tradewind_wire::control::Control;
use tradewind_wire::feedback::{Feedback, FeedbackWriter, Summary, Train};
use tradewind_wire::header::FLAG_LAST_CHUNK;
use tradewind_wire::limits::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, DATAGRAM_BYTES_MIN, HEADER_BYTES};
use tradewind_wire::{BlockId, DataHeader, Group, Header, Kind, Orders, ParseError, State};

type Vector = BTreeMap<String, String>;

fn sections(text: &str) -> Vec<Vector> {
    let mut all = vec![Vector::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(" = ") {
            Some((key, value)) => drop(all.last_mut().expect("never empty").insert(key.to_owned(), value.to_owned())),
            None => all.push(Vector::new()),
        }
    }
    all.retain(|section| !section.is_empty());
    all
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex digits")).collect()
}

fn number<T: std::str::FromStr>(vector: &Vector, key: &str) -> T {
    vector[key].parse().unwrap_or_else(|_| panic!("{key} is no number"))
}

fn plain(name: &str) -> Vector {
    sections(include_str!("vectors/plain.txt")).into_iter().find(|vector| vector["name"] == name).expect("a vector of this name")
}

fn parse(parser: &str, bytes: &[u8]) -> Result<(), ParseError> {
    match parser {
        "header" => Header::parse(bytes).map(drop),
        "data" => DataHeader::parse(bytes).map(drop),
        "control" => Control::parse(bytes).map(drop),
        "feedback" => Feedback::parse(bytes).map(drop),
        other => panic!("no parser {other}"),
    }
}

#[test]
fn headers_of_golden_packets_are_read_and_written() {
    let mut kinds = Vec::new();
    for vector in sections(include_str!("vectors/sealed.txt")) {
        let datagram = unhex(&vector["datagram"]);
        let header = Header::parse(&datagram).expect("a packet");
        kinds.push(header.kind as u8);
        assert_eq!(header.packet_number.get(), number::<u64>(&vector, "packet_number"));
        assert_eq!(format!("{}", header.lane), vector["lane_id"]);
        assert_eq!(header.to_bytes(), datagram[..HEADER_BYTES]);
        if header.kind == Kind::Data {
            let data = DataHeader::parse(&datagram).expect("a DATA packet");
            assert_eq!(data.to_bytes(), datagram[HEADER_BYTES..HEADER_BYTES + DATA_HEADER_BYTES]);
            assert_eq!(header.flags == FLAG_LAST_CHUNK, vector["name"].contains("last chunk"));
            assert_eq!(DataHeader::payload_bytes(datagram.len()), unhex(&vector["plaintext"]).len());
        }
        for length in 0..datagram.len() {
            let parsed = Header::parse(&datagram[..length]);
            assert_eq!(parsed.is_ok(), length >= DATAGRAM_BYTES_MIN, "{length}");
            let data = DataHeader::parse(&datagram[..length]);
            assert_eq!(data.is_ok(), length > DATA_OVERHEAD_BYTES, "{length}");
        }
    }
    assert!((1..=4).all(|kind| kinds.contains(&kind)), "a kind has no vector");
}

#[test]
fn feedback_is_read_and_written() {
    let vector = plain("feedback");
    let bytes = unhex(&vector["bytes"]);
    let feedback = Feedback::parse(&bytes).expect("a feedback");
    let summary = Summary {
        flags: number(&vector, "flags"),
        now_us: number(&vector, "now_us"),
        hold_us: number(&vector, "hold_us"),
        echo_us: number(&vector, "echo_us"),
        largest: number(&vector, "largest"),
        closed: number(&vector, "closed"),
        blocks_allowed: number(&vector, "blocks_allowed"),
        blocks_completed: number(&vector, "blocks_completed"),
        blocks_durable: number(&vector, "blocks_durable"),
        storage_kbps: number(&vector, "storage_kbps"),
        received: number(&vector, "received"),
        congestion_experienced: number(&vector, "congestion_experienced"),
        dropped_locally: number(&vector, "dropped_locally"),
        interval_us: number(&vector, "interval_us"),
    };
    assert_eq!(feedback.summary, summary);
    let train = Train {
        train: number(&vector, "train_train"),
        received: number(&vector, "train_received"),
        first_packet: number(&vector, "train_first_packet"),
        last_packet: number(&vector, "train_last_packet"),
        first_sent_us: number(&vector, "train_first_sent_us"),
        last_sent_us: number(&vector, "train_last_sent_us"),
        first_arrival_us: number(&vector, "train_first_arrival_us"),
        last_arrival_us: number(&vector, "train_last_arrival_us"),
        least_one_way_us: number(&vector, "train_least_one_way_us"),
    };
    let second = Train { train: 18, received: 0x00ff_ffff, ..train };
    assert_eq!(feedback.trains().collect::<Vec<_>>(), [train, second]);
    let segments: Vec<_> = feedback.segments().collect();
    let bit = |segment: usize, i: usize| segments[segment].bitmap[i / 64] >> (63 - i % 64) & 1 == 1;
    assert_eq!((segments[0].index, segments[0].verdicts), (4_882_811, 1024));
    assert!((0..1024).all(|i| bit(0, i) != [0, 63, 64, 1023].contains(&i)));
    assert_eq!((segments[1].index, segments[1].verdicts), (4_882_812, 100));
    assert!((0..100).all(|i| bit(1, i) == (i % 7 != 3)));
    let mut out = vec![0; bytes.len()];
    let mut writer = FeedbackWriter::new(&mut out, &summary).expect("it fits");
    assert!(writer.train(&train) && writer.train(&Train { received: u32::MAX, ..second }));
    assert!(segments.iter().all(|segment| writer.segment(segment.index, segment.verdicts, &segment.bitmap)));
    assert!(!writer.segment(0, 1, &[0; 16]), "there is no room for another");
    assert_eq!(writer.finish(), bytes.len());
    assert_eq!(out, bytes);
    for length in 0..bytes.len() {
        assert_eq!(Feedback::parse(&bytes[..length]).err(), Some(ParseError::Truncated), "{length}");
    }
}

#[test]
fn control_messages_are_read_and_written() {
    let (close, state, orders, group) = (plain("close"), plain("state"), plain("orders"), plain("group"));
    let state = State {
        round_trip_us: number(&state, "round_trip_us"),
        rate_kbps: number(&state, "rate_kbps"),
        sent_kbps: number(&state, "sent_kbps"),
        wanted_kbps: number(&state, "wanted_kbps"),
        orders: number(&state, "orders"),
        limiter: number(&state, "limiter"),
    };
    let orders = Orders {
        number: number(&orders, "number"),
        policy: number(&orders, "policy"),
        target_kbps: number(&orders, "target_kbps"),
        minimum_kbps: number(&orders, "minimum_kbps"),
        lease_kbps: number(&orders, "lease_kbps"),
    };
    let group = Group { number: number(&group, "number"), share_kbps: number(&group, "share_kbps"), lanes: number(&group, "lanes") };
    for (name, message) in [
        ("fin", Control::Fin { blocks: number(&plain("fin"), "blocks") }),
        ("done", Control::Done { receipt: number(&plain("done"), "receipt") }),
        ("close", Control::Close { code: number(&close, "code"), text: close["text"].as_bytes() }),
        ("state", Control::State(state)),
        ("orders", Control::Orders(orders)),
        ("group", Control::Group(group)),
    ] {
        let bytes = unhex(&plain(name)["bytes"]);
        assert_eq!(Control::parse(&bytes), Ok(message), "{name}");
        let mut out = vec![0; bytes.len()];
        assert_eq!(message.write(&mut out), Some(bytes.len()));
        assert_eq!(out, bytes, "{name}");
        assert_eq!(message.write(&mut out[1..]), None, "{name} does not fit");
        for length in 0..bytes.len() {
            assert_eq!(Control::parse(&bytes[..length]), Err(ParseError::Truncated), "{name} at {length}");
        }
    }
}

#[test]
fn the_data_header_means_what_the_vector_says() {
    let vector = plain("data");
    let bytes = unhex(&vector["bytes"]);
    let data = DataHeader {
        sent_us: number(&vector, "sent_us"),
        train: number(&vector, "train"),
        floor_segment: number(&vector, "floor_segment"),
        block: BlockId(number(&vector, "block")),
        chunk: number(&vector, "chunk"),
    };
    assert_eq!(data.to_bytes()[..], bytes);
    let datagram = [&[0; HEADER_BYTES][..], &bytes, &[0; 17]].concat();
    assert_eq!(DataHeader::parse(&datagram), Ok(data));
}

#[test]
fn hostile_input_is_refused_for_the_right_reason() {
    let vectors = sections(include_str!("vectors/hostile.txt"));
    assert!(vectors.len() >= 15);
    for vector in vectors {
        let expected = match vector["error"].as_str() {
            "truncated" => ParseError::Truncated,
            "version" => ParseError::Version,
            "kind" => ParseError::Kind,
            "limit" => ParseError::Limit,
            other => panic!("no error {other}"),
        };
        let bytes = vector.get("bytes").map_or_else(Vec::new, |text| unhex(text));
        assert_eq!(parse(&vector["parser"], &bytes), Err(expected), "{}", vector["name"]);
    }
}
