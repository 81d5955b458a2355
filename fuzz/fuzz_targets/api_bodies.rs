//! Bodies of control requests, and the names in them, on any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tradewind_api::limits::{RATE_BPS_MAX, RATE_BPS_MIN};
use tradewind_api::{DestinationUrl, RateChange, RateRequest, check_relative_name, parse_submit};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(submission) = parse_submit(bytes) {
        let request = &submission.request;
        for rate in [request.rate.target_rate_bps, request.rate.minimum_rate_bps].into_iter().flatten() {
            assert!((RATE_BPS_MIN..=RATE_BPS_MAX).contains(&rate));
        }
        assert_ne!(request.files, Some(0));
        assert_eq!(DestinationUrl::parse(&request.destination).ok().as_ref(), Some(&submission.destination));
    }
    if let Ok(rate) = RateChange::parse(bytes).and_then(|change| change.applied_to(RateRequest::default())) {
        for rate in [rate.target_rate_bps, rate.minimum_rate_bps].into_iter().flatten() {
            assert!((RATE_BPS_MIN..=RATE_BPS_MAX).contains(&rate));
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(destination) = DestinationUrl::parse(text) {
        assert_eq!(DestinationUrl::parse(&destination.to_string()).as_ref(), Ok(&destination), "{destination}");
    }
    if check_relative_name(text).is_ok() {
        assert!(!text.starts_with('/') && !text.split('/').any(|part| part == ".."), "{text:?} leaves the destination");
    }
});
