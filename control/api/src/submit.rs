//! From the bytes of a `POST /v1/transfers` body to a request that makes sense. Used by the server and by a fuzz target.

use crate::limits::REQUEST_BODY_BYTES_MAX;
use crate::problem::{ApiCode, Problem};
use crate::rates::check_rate;
use crate::types::SubmitRequest;
use crate::{DestinationUrl, ErrorCode};

/// A [`SubmitRequest`] whose values are in range and whose destination is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The request.
    pub request: SubmitRequest,
    /// Its destination, unless it is a download.
    pub destination: Option<DestinationUrl>,
    /// Where the objects of a download or copy are.
    pub source: Option<DestinationUrl>,
}

/// Parses and checks a body. Whether its store exists and is allowed is not decided here.
///
/// # Errors
/// [`ApiCode::BodyTooLarge`], [`ApiCode::Malformed`] with line and column, [`ApiCode::Invalid`] or
/// [`ErrorCode::DestinationInvalid`], each with a detail that names the value.
pub fn parse_submit(body: &[u8]) -> Result<Submission, Problem> {
    if body.len() > REQUEST_BODY_BYTES_MAX {
        let detail = format!("the body has more than {REQUEST_BODY_BYTES_MAX} bytes");
        return Err(Problem::new(ApiCode::BodyTooLarge, detail));
    }
    let request: SubmitRequest = serde_json::from_slice(body).map_err(|e| Problem::new(ApiCode::Malformed, format!("the body: {e}")))?;
    check_rate(request.rate)?;
    let place = |text: &Option<String>| {
        let parsed = text.as_deref().map(DestinationUrl::parse).transpose();
        parsed.map_err(|e| Problem::new(ErrorCode::DestinationInvalid, e.to_string()))
    };
    let (destination, source) = (place(&request.destination)?, place(&request.source)?);
    if destination.is_none() && source.is_none() {
        let detail = "the request names neither a destination nor a source";
        return Err(
            Problem::new(ApiCode::Invalid, detail).with_hint("give a destination to send to, a source to get from, or both to copy")
        );
    }
    if let Some(destination) = destination.as_ref().filter(|destination| destination.names_one_file())
        && source.is_none()
        && request.from.is_none()
        && request.files != Some(1)
    {
        let detail = format!("'{destination}' names one file, but the number of files is not given as 1");
        return Err(Problem::new(ApiCode::Invalid, detail).with_hint("end the destination with '/' to put several files below it"));
    }
    if request.from.is_some() && (destination.is_none() || source.is_some()) {
        return Err(Problem::new(ApiCode::Invalid, "files that come from another server need a destination here, and no source here"));
    }
    if source.is_none() && !request.select.is_everything() {
        return Err(Problem::new(ApiCode::Invalid, "only of what the server reads can objects be selected; who sends selects the files"));
    }
    if request.files == Some(0) {
        return Err(Problem::new(ApiCode::Invalid, "a transfer of no files"));
    }
    Ok(Submission { request, destination, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{RATE_BPS_MAX, RATE_BPS_MIN};
    use crate::problem::ProblemCode;
    use crate::types::{RatePolicy, RateRequest};

    fn code_of(body: &str) -> ProblemCode {
        parse_submit(body.as_bytes()).unwrap_err().code
    }

    #[test]
    fn a_short_request_has_the_documented_defaults() {
        let submission = parse_submit(br#"{"destination":"s3://bucket/in/"}"#).unwrap();
        assert!(!submission.request.overwrite);
        assert_eq!(submission.request.rate, RateRequest { policy: RatePolicy::Fair, target_rate_bps: None, minimum_rate_bps: None });
        assert_eq!(submission.request.cipher, tradewind_ipc::Cipher::Aes128Gcm);
    }

    #[test]
    fn misspelt_and_malformed_bodies_say_where() {
        let problem = parse_submit(b"{\"destination\":\"s3://bucket/\",\n \"overwrit\":true}").unwrap_err();
        assert_eq!(problem.code, ApiCode::Malformed.into());
        assert!(problem.detail.contains("overwrit") && problem.detail.contains("line 2"), "{}", problem.detail);
        for body in ["", "{", "null", r#"{"destination":7}"#, r#"{"destination":"s3://bucket/","files":-1}"#] {
            assert_eq!(code_of(body), ApiCode::Malformed.into(), "{body}");
        }
    }

    #[test]
    fn size_limit_passes_at_the_limit() {
        let mut body = br#"{"destination":"s3://bucket/in/"}"#.to_vec();
        body.resize(REQUEST_BODY_BYTES_MAX, b' ');
        assert!(parse_submit(&body).is_ok());
        body.push(b' ');
        assert_eq!(parse_submit(&body).unwrap_err().code, ApiCode::BodyTooLarge.into());
    }

    #[test]
    fn files_from_another_server_go_to_a_destination_only() {
        let secret = tradewind_ipc::LaneSecret::new([7; 32]);
        let address = "192.0.2.1:33001".parse().unwrap();
        let from = Some(crate::RemoteLane { lane_id: 5, secret, address, block_bytes: 1 << 20, chunk_bytes: 1400 });
        let with = |destination: Option<&str>, source: Option<&str>| {
            let (destination, source) = (destination.map(str::to_owned), source.map(str::to_owned));
            serde_json::to_vec(&SubmitRequest { destination, source, from: from.clone(), ..SubmitRequest::default() }).unwrap()
        };
        let parsed = parse_submit(&with(Some("s3://bucket/one-file"), None)).unwrap();
        assert_eq!(parsed.request.from, from, "also to one name: the other server knows how many there are");
        for (destination, source) in [(None, Some("s3://bucket/in/")), (Some("s3://bucket/out/"), Some("s3://bucket/in/")), (None, None)] {
            assert_eq!(parse_submit(&with(destination, source)).unwrap_err().code, ApiCode::Invalid.into());
        }
    }

    #[test]
    fn rates_and_counts_are_checked() {
        let with = |rest: &str| format!(r#"{{"destination":"s3://bucket/in/",{rest}}}"#);
        for good in [
            format!(r#""rate":{{"target_rate_bps":{RATE_BPS_MIN}}}"#),
            format!(r#""rate":{{"target_rate_bps":{RATE_BPS_MAX},"minimum_rate_bps":{RATE_BPS_MAX}}}"#),
            r#""rate":{"policy":"fixed","target_rate_bps":1000000}"#.to_owned(),
        ] {
            assert!(parse_submit(with(&good).as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            format!(r#""rate":{{"target_rate_bps":{}}}"#, RATE_BPS_MIN - 1),
            format!(r#""rate":{{"target_rate_bps":{}}}"#, RATE_BPS_MAX + 1),
            r#""rate":{"policy":"fixed"}"#.to_owned(),
            r#""rate":{"target_rate_bps":1000000,"minimum_rate_bps":1000001}"#.to_owned(),
            r#""files":0"#.to_owned(),
        ] {
            assert_eq!(code_of(&with(&bad)), ApiCode::Invalid.into(), "{bad}");
        }
    }

    #[test]
    fn one_name_is_for_one_file() {
        assert!(parse_submit(br#"{"destination":"s3://bucket/name","files":1}"#).is_ok());
        assert_eq!(code_of(r#"{"destination":"s3://bucket/name","files":2}"#), ApiCode::Invalid.into());
        assert_eq!(code_of(r#"{"destination":"s3://bucket/name"}"#), ApiCode::Invalid.into());
        assert_eq!(code_of(r#"{"destination":"s3://bucket/../name","files":1}"#), ErrorCode::DestinationInvalid.into());
    }

    #[test]
    fn a_download_has_a_source_and_a_copy_both() {
        let download = parse_submit(br#"{"source":"s3://bucket/in/"}"#).unwrap();
        assert!(download.destination.is_none() && download.source.is_some());
        let copy = parse_submit(br#"{"source":"s3://bucket/a","destination":"s3://bucket/b"}"#).unwrap();
        assert!(copy.destination.is_some() && copy.source.is_some());
        assert_eq!(code_of("{}"), ApiCode::Invalid.into());
        let selected = |place: &str| format!(r#"{{"{place}":"s3://bucket/in/","select":{{"exclude":["*.tmp"]}}}}"#);
        assert_eq!(parse_submit(selected("source").as_bytes()).unwrap().request.select.exclude, ["*.tmp"]);
        assert_eq!(code_of(&selected("destination")), ApiCode::Invalid.into());
        assert_eq!(code_of(r#"{"source":"s3://bucket/../a"}"#), ErrorCode::DestinationInvalid.into());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
            let _ = parse_submit(&body);
        }
    }
}
