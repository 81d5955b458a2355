//! Reading objects (Akamai TechDocs, NetStorage Usage API, "Usage details for \"download\"").

use std::ops::Range;

use reqwest::{Method, Response, StatusCode};

use super::Group;
use crate::checksum::{Crc64, RunningCrc64};
use crate::error::StoreError;
use crate::reading::{Reading, changed, ends_early};
use crate::rest::{bare, plain, text_of};
use crate::store::{ObjectInfo, ObjectRange};

const DOWNLOAD: &str = "version=1&action=download";

impl Group {
    /// See [`crate::Store::read`]. An answer is known to be of the object that was looked at by its MD5, which is an entity tag of it; one without is
    /// believed only if the object is the same after it.
    pub(super) async fn read(&self, key: &str, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let gone = || StoreError::ObjectGone { object: key.to_owned() };
        let info = match expected {
            // A listing's time is that of the file.
            Some(expected) => ObjectInfo { mtime_ns: expected.mtime_ns.or(expected.modified_ns), ..expected.clone() },
            None => self.look(key).await?.ok_or_else(gone)?,
        };
        if range.end > info.size {
            // If it is longer by now, it has changed all the same.
            return Err(ends_early(key));
        }
        let request = self.client.request(self.asked("read an object", key, 0), Method::GET, Some(key));
        let request = request.header("range", &format!("bytes={}-{}", range.start, range.end - 1));
        let mut answer = match self.client.send(request, DOWNLOAD).await {
            Ok(answer) => answer,
            Err(StoreError::Rejected { code, .. }) if code == "HTTP 416" => return Err(ends_early(key)),
            Err(error) => return Err(error),
        };
        let is_known = is_of(key, &answer, &info)?;
        let size = info.size;
        let mut reading = Reading::new(&self.client.place, key, range.clone(), info, None)?;
        let mut before = match part_of(&answer) {
            Some((from, to, whole)) if (from, to) == (range.start, range.end - 1) && whole.is_none_or(|whole| whole == size) => 0,
            Some((_, _, Some(whole))) if whole != size => return Err(changed(key, "its size")),
            Some(_) => return Err(reading.broken("another range than the one that was asked for")),
            // The range was ignored: this is all of it, from the beginning.
            None => range.start,
        };
        let mut left = range.end - range.start;
        while left > 0 {
            let chunk = match answer.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Err(reading.broken(&plain(&error))),
            };
            let skipped = before.min(chunk.len() as u64);
            before -= skipped;
            let wanted = left.min(chunk.len() as u64 - skipped);
            left -= wanted;
            reading.add(chunk.slice(skipped as usize..(skipped + wanted) as usize))?;
        }
        let read = reading.end()?;
        if !is_known && !self.look(key).await?.is_some_and(|now| now.is_same(&read.info)) {
            return Err(changed(key, "its size, time or MD5"));
        }
        Ok(read)
    }

    /// CRC-64 of an object that was looked at.
    pub(super) async fn contents_crc(&self, key: &str, info: &ObjectInfo) -> Result<Crc64, StoreError> {
        let request = self.client.request(self.asked("read an object", key, 0), Method::GET, Some(key));
        let mut answer = self.client.send(request, DOWNLOAD).await?;
        is_of(key, &answer, info)?;
        let (mut crc, mut bytes) = (RunningCrc64::default(), 0);
        let broken = |what: &str| self.asked("read an object", key, 0).broken(what);
        while let Some(chunk) = answer.chunk().await.map_err(|error| broken(&plain(&error)))? {
            crc.update(&chunk);
            bytes += chunk.len() as u64;
        }
        if bytes == info.size { Ok(crc.finish()) } else { Err(broken("the answer has another length than the object")) }
    }
}

/// Whether an answer says that it is of that object; an error if it is of another.
fn is_of(key: &str, answer: &Response, info: &ObjectInfo) -> Result<bool, StoreError> {
    if answer.status() == StatusCode::OK && answer.content_length().is_some_and(|bytes| bytes != info.size) {
        return Err(changed(key, "its size"));
    }
    // There may be several, and only some of them MD5.
    let tags = answer.headers().get_all("etag").iter().filter_map(|tag| tag.to_str().ok());
    let mut digests = tags.map(|tag| bare(tag).to_ascii_lowercase()).filter(|tag| is_md5(tag)).peekable();
    match &info.etag {
        Some(etag) if digests.peek().is_some() => {
            if digests.any(|digest| digest == *etag) {
                Ok(true)
            } else {
                Err(changed(key, "its MD5"))
            }
        }
        _ => Ok(false),
    }
}

fn is_md5(tag: &str) -> bool {
    tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// First and last byte of a partial answer, and how many the object has, if it says.
fn part_of(answer: &Response) -> Option<(u64, u64, Option<u64>)> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    // One that cannot be read is no range that anybody asked for.
    let unknown = (u64::MAX, u64::MAX, None);
    let parse = |text: &str| {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (from, to) = range.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()?, size.parse().ok()))
    };
    Some(text_of(answer.headers(), "content-range").and_then(parse).unwrap_or(unknown))
}
