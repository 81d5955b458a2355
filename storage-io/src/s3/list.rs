//! Listing a bucket (Amazon S3 API Reference, "ListObjectsV2").

use std::borrow::Cow;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object};
use percent_encoding::percent_decode_str;

use super::{Bucket, bare, nanoseconds};
use crate::error::StoreError;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry, ListedObject, Listing};
use crate::store::ObjectKey;

/// The largest character: behind a folder's path, it stands for the folder's end.
const LAST: char = char::MAX;

impl Bucket {
    /// One page, see [`crate::Store::list`].
    pub(super) async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        let after = after.map(|after| String::from_utf8_lossy(after).into_owned());
        // A server that takes "a/" for a key like others would begin with the keys below it and name the folder again.
        let start = after
            .clone()
            .map(|after| if depth == Depth::OneLevel && after.ends_with('/') { after + LAST.encode_utf8(&mut [0; 4]) } else { after });
        let answer = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(prefix)
            .set_start_after(start)
            .max_keys(i32::try_from(limit.clamp(1, LIST_ENTRIES_MAX)).unwrap_or(1))
            .set_delimiter((depth == Depth::OneLevel).then(|| "/".to_owned()))
            // XML has no way to write some characters that keys may have.
            .encoding_type(EncodingType::Url)
            .send()
            .await
            .map_err(|error| self.asked("list objects", "", 0).map(&error))?;
        let page = page(&answer, after.as_deref(), limit.clamp(1, LIST_ENTRIES_MAX));
        if page.next.is_some() && page.next.as_deref() == after.as_deref().map(str::as_bytes) {
            let detail = "its listing does not get any further".to_owned();
            return Err(StoreError::Rejected {
                place: self.place.clone(),
                action: "list objects",
                code: "ListObjectsV2".to_owned(),
                detail,
            });
        }
        Ok(page)
    }
}

/// Keys that are no names for files ("directory markers" that end in '/', above all) are passed over.
fn page(answer: &ListObjectsV2Output, after: Option<&str>, limit: usize) -> Listing {
    let decodes = answer.encoding_type() == Some(&EncodingType::Url);
    let plain = |text: &str| if decodes { decode(text) } else { text.to_owned() };
    let objects: Vec<(String, &Object)> = answer.contents().iter().filter_map(|object| Some((plain(object.key()?), object))).collect();
    let folders: Vec<String> = answer.common_prefixes().iter().filter_map(|folder| folder.prefix().map(plain)).collect();
    let last = || {
        // SeaweedFS sorts by the names of directories and not by keys, so the largest key need not be the last: its token tells.
        // Amazon's tells nothing, but there the largest is.
        let token = answer.next_continuation_token().map(str::to_owned);
        let listed = |token: &String| objects.iter().any(|(key, _)| key == token) || folders.contains(token);
        token.filter(listed).or_else(|| objects.iter().map(|(key, _)| key).chain(&folders).max().cloned())
    };
    let next = match answer.is_truncated() {
        Some(true) => last(),
        // SeaweedFS (4.48) says that this is the end also of a page that a directory marker fills. Then the last in its own order counts.
        _ if folders.is_empty() && objects.len() >= limit => objects.last().map(|(key, _)| key.clone()),
        _ => None,
    };
    let next = next.map(String::into_bytes);
    let mut entries: Vec<ListEntry> = objects.into_iter().filter_map(|(key, object)| listed(&key, object)).map(ListEntry::Object).collect();
    if !folders.is_empty() {
        let folders = folders.into_iter().filter(|folder| after.is_none_or(|after| !after.starts_with(folder.as_str())));
        entries.extend(folders.map(|folder| ListEntry::Folder(folder.into_bytes())));
        entries.sort_by(|one, other| one.key().cmp(other.key()));
    }
    Listing { entries, next }
}

fn listed(key: &str, object: &Object) -> Option<ListedObject> {
    Some(ListedObject {
        key: ObjectKey::new(key.as_bytes()).ok()?,
        size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        modified_ns: nanoseconds(object.last_modified()),
        etag: object.e_tag().map(bare),
    })
}

/// Undoes what a server does to keys for `encoding-type=url`: percent signs, and '+' for a blank.
fn decode(text: &str) -> String {
    let blanks = text.replace('+', " ");
    percent_decode_str(&blanks).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::CommonPrefix;

    use super::*;

    fn keys(page: &Listing) -> Vec<&str> {
        page.entries.iter().map(|entry| std::str::from_utf8(entry.key()).unwrap()).collect()
    }

    #[test]
    fn keys_are_decoded_only_where_the_server_says_so() {
        assert_eq!(decode("sp+ace%2Bplus"), "sp ace+plus");
        assert_eq!(decode("%C3%BC/%c3%9F%01"), "ü/ß\u{1}");
        for odd in ["%", "%4", "%zz", "a%FFb"] {
            assert_eq!(decode(odd), odd);
        }
        let answer = ListObjectsV2Output::builder().contents(Object::builder().key("a+b%41").size(3).build());
        assert_eq!(keys(&page(&answer.clone().build(), None, 1000)), ["a+b%41"]);
        assert_eq!(keys(&page(&answer.encoding_type(EncodingType::Url).build(), None, 1000)), ["a bA"]);
    }

    #[test]
    fn what_is_no_name_is_passed_over_but_the_listing_goes_on_behind_it() {
        let object = |key: &str| Object::builder().key(key).size(1).build();
        let answer =
            ListObjectsV2Output::builder().is_truncated(true).contents(object("a")).contents(object("b/")).contents(object("b//c"));
        let page = page(&answer.build(), None, 1000);
        assert_eq!(keys(&page), ["a"]);
        assert_eq!(page.next.as_deref(), Some(&b"b//c"[..]));
    }

    #[test]
    fn a_full_page_is_not_taken_for_the_end() {
        let object = |key: &str| Object::builder().key(key).size(1).build();
        let marker = ListObjectsV2Output::builder().is_truncated(false).contents(object("d/"));
        assert_eq!(page(&marker.clone().build(), None, 1), Listing { entries: Vec::new(), next: Some(b"d/".to_vec()) });
        assert_eq!(page(&marker.clone().build(), None, 2).next, None);
        let two = marker.contents(object("d&"));
        assert_eq!(page(&two.build(), None, 2).next.as_deref(), Some(&b"d&"[..]), "the last in the server's order");
    }

    #[test]
    fn the_token_tells_the_last_where_it_is_a_key_and_the_largest_where_it_is_not() {
        let folder = |prefix: &str| CommonPrefix::builder().prefix(prefix).build();
        let object = |key: &str| Object::builder().key(key).size(1).build();
        let answer = ListObjectsV2Output::builder().is_truncated(true).common_prefixes(folder("a/")).contents(object("a&b"));
        let encoded = answer.clone().contents(object("a%2541")).encoding_type(EncodingType::Url).next_continuation_token("a%41");
        assert_eq!(page(&encoded.build(), None, 1000).next.as_deref(), Some(&b"a%41"[..]), "a token is not encoded");
        let seaweed = page(&answer.clone().next_continuation_token("a&b").build(), None, 1000);
        assert_eq!((keys(&seaweed), seaweed.next.as_deref()), (vec!["a&b", "a/"], Some(&b"a&b"[..])));
        let amazon = page(&answer.clone().next_continuation_token("1ueGcxLPRx1Tr").build(), None, 1000);
        assert_eq!(amazon.next.as_deref(), Some(&b"a/"[..]));
        assert_eq!(keys(&page(&answer.build(), Some("a/"), 1000)), ["a&b"], "a folder that was listed is not listed again");
    }
}
