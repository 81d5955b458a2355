//! Every parser of the wire format on any bytes; what parses is written again and must parse to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_wire::control::CONTROL_BYTES_MAX;
use tradewind_wire::feedback::{Feedback, FeedbackWriter};
use tradewind_wire::limits::{FEEDBACK_SEGMENTS_MAX, FEEDBACK_TRAINS_MAX, HEADER_BYTES, SEGMENT_PACKETS};
use tradewind_wire::{Control, DataHeader, Header};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse(bytes) {
        assert_eq!(header.to_bytes(), bytes[..HEADER_BYTES]);
    }
    if let Ok(data) = DataHeader::parse(bytes) {
        let written = data.to_bytes();
        assert_eq!(written, bytes[HEADER_BYTES..HEADER_BYTES + written.len()]);
        assert!(DataHeader::payload_bytes(bytes.len()) > 0);
    }
    if let Ok(control) = Control::parse(bytes) {
        let mut out = [0; CONTROL_BYTES_MAX];
        let written = control.write(&mut out).expect("what was parsed fits");
        assert_eq!(Control::parse(&out[..written]), Ok(control));
    }
    feedback(bytes);
});

fn feedback(bytes: &[u8]) {
    let Ok(feedback) = Feedback::parse(bytes) else { return };
    assert!(feedback.trains().count() <= FEEDBACK_TRAINS_MAX);
    assert!(feedback.segments().count() <= FEEDBACK_SEGMENTS_MAX);
    let mut out = vec![0; bytes.len()];
    let mut writer = FeedbackWriter::new(&mut out, &feedback.summary).expect("as long as what was parsed");
    for train in feedback.trains() {
        assert!(writer.train(&train), "a parsed train fits");
    }
    for segment in feedback.segments() {
        assert!((1..=SEGMENT_PACKETS).contains(&usize::from(segment.verdicts)));
        assert!(writer.segment(segment.index, segment.verdicts, &segment.bitmap), "a parsed segment fits");
    }
    let written = writer.finish();
    let again = Feedback::parse(&out[..written]).expect("what was written parses");
    assert_eq!(again.summary, feedback.summary);
    assert!(again.trains().eq(feedback.trains()));
    assert!(again.segments().zip(feedback.segments()).all(|(a, b)| (a.index, a.verdicts) == (b.index, b.verdicts)));
}
