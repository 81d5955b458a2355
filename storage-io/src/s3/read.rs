//! Reading ranges of objects (Amazon S3 API Reference, "GetObject").

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;

use super::{Bucket, bare, described, full_object_crc, nanoseconds};
use crate::error::StoreError;
use crate::store::{ObjectInfo, ObjectRange};

impl Bucket {
    /// See [`crate::Store::read`].
    pub(super) async fn read(&self, key: &str, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let object = || key.to_owned();
        let changed = |what| StoreError::ObjectChanged { object: object(), what };
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
                return Err(StoreError::ObjectGone { object: object() });
            }
            Err(error) => {
                return Err(match error.raw_response().map(|answer| answer.status().as_u16()) {
                    Some(412) => changed("its entity tag"),
                    Some(416) => changed("it ends early"),
                    _ => self.asked("read an object", key, 0).map(&error),
                });
            }
        };
        let info = info(&answer);
        if expected.is_some_and(|expected| !expected.is_same(&info)) {
            return Err(changed("its size, time or entity tag"));
        }
        let mut body = answer.body;
        let (mut bytes, mut left) = (Vec::new(), range.end - range.start);
        loop {
            match body.next().await {
                Some(Ok(chunk)) if chunk.len() as u64 <= left => {
                    left -= chunk.len() as u64;
                    bytes.push(chunk);
                }
                Some(Ok(_)) => return Err(self.broken(key, "more bytes than were asked for")),
                Some(Err(error)) => return Err(self.broken(key, &error.to_string())),
                None if left == 0 => return Ok(ObjectRange { info, bytes }),
                None if info.size < range.end => return Err(changed("it ends early")),
                None => return Err(self.broken(key, "the answer ended early")),
            }
        }
    }

    fn broken(&self, key: &str, what: &str) -> StoreError {
        StoreError::Unavailable { place: self.place.clone(), detail: format!("while {key} was read: {what}") }
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
