//! Reading ranges of objects (Amazon S3 API Reference, "GetObject").

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;

use super::{Bucket, bare, described, full_object_crc, nanoseconds};
use crate::error::StoreError;
use crate::reading::{Reading, changed, ends_early};
use crate::store::{ObjectInfo, ObjectRange};

impl Bucket {
    /// See [`crate::Store::read`].
    pub(super) async fn read(&self, key: &str, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let request = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .range(format!("bytes={}-{}", range.start, range.end - 1))
            .set_if_match(expected.and_then(|expected| expected.etag.as_ref()).map(|etag| format!("\"{etag}\"")));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => {
                return Err(StoreError::ObjectGone { object: key.to_owned() });
            }
            Err(error) => {
                return Err(match error.raw_response().map(|answer| answer.status().as_u16()) {
                    Some(412) => changed(key, "its entity tag"),
                    Some(416) => ends_early(key),
                    _ => self.asked("read an object", key, 0).map(&error),
                });
            }
        };
        let mut reading = Reading::new(&self.place, key, range, info(&answer), expected)?;
        let mut body = answer.body;
        loop {
            match body.next().await {
                Some(Ok(chunk)) => reading.add(chunk)?,
                Some(Err(error)) => return Err(reading.broken(&error.to_string())),
                None => return reading.end(),
            }
        }
    }
}

fn info(answer: &GetObjectOutput) -> ObjectInfo {
    // "bytes 0-9/100"; a server that ignores ranges answers with the whole.
    let whole = answer.content_range().and_then(|range| range.rsplit_once('/')?.1.parse().ok());
    let length = || answer.content_length().and_then(|length| u64::try_from(length).ok());
    ObjectInfo {
        size: whole.or_else(length).unwrap_or(0),
        etag: answer.e_tag().map(bare),
        crc: full_object_crc(answer.checksum_type(), answer.checksum_crc64_nvme()),
        modified_ns: nanoseconds(answer.last_modified()),
        ..described(answer.metadata())
    }
}
