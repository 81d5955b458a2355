//! What NetStorage tells of files, as XML (Akamai TechDocs, NetStorage Usage API, "Parse XML responses").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::store::{Attributes, ObjectInfo};

/// Answer to the actions `stat`, `dir` and `list`.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    #[serde(default, rename = "file")]
    pub(super) files: Vec<File>,
    resume: Option<Resume>,
}

impl Answer {
    /// Where the listing goes on, if this was not all.
    pub(super) fn resume(&self) -> Option<String> {
        self.resume.as_ref().and_then(|resume| name_of(&resume.start, &resume.start_base64))
    }
}

#[derive(Debug, Deserialize)]
struct Resume {
    #[serde(default, rename = "@start")]
    start: String,
    #[serde(default, rename = "@start_base64")]
    start_base64: String,
}

/// A file, directory or symbolic link.
#[derive(Debug, Deserialize)]
pub(super) struct File {
    #[serde(rename = "@type")]
    kind: String,
    #[serde(default, rename = "@name")]
    name: String,
    /// Of names that XML cannot hold.
    #[serde(default, rename = "@name_base64")]
    name_base64: String,
    #[serde(default, rename = "@size")]
    pub(super) size: u64,
    #[serde(default, rename = "@md5")]
    md5: String,
    #[serde(rename = "@mtime")]
    mtime_s: Option<i64>,
}

/// What a [`File`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// Links, and what is not known.
    Other,
}

impl File {
    pub(super) fn kind(&self) -> Kind {
        match self.kind.as_str() {
            "file" => Kind::File,
            "dir" => Kind::Folder,
            _ => Kind::Other,
        }
    }

    /// Of a directory without slashes at its end; `None` if it is no text.
    pub(super) fn name(&self) -> Option<String> {
        let name = name_of(&self.name, &self.name_base64)?;
        Some(if self.kind() == Kind::Folder { name.trim_end_matches('/').to_owned() } else { name })
    }

    pub(super) fn etag(&self) -> Option<String> {
        Some(self.md5.to_ascii_lowercase()).filter(|md5| !md5.is_empty())
    }

    /// The time of the file itself, if it was sent with it; else when it was stored.
    pub(super) fn mtime_ns(&self) -> Option<i64> {
        self.mtime_s?.checked_mul(1_000_000_000)
    }

    pub(super) fn info(&self) -> ObjectInfo {
        let (size, etag, mtime_ns) = (self.size, self.etag(), self.mtime_ns());
        ObjectInfo { size, etag, crc: None, modified_ns: mtime_ns, mtime_ns, mode: None, attributes: Attributes::default() }
    }
}

fn name_of(text: &str, base64: &str) -> Option<String> {
    if !text.is_empty() {
        return Some(text.to_owned());
    }
    String::from_utf8(STANDARD.decode(base64).ok()?).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms of Akamai's examples.
    #[test]
    fn answers_as_akamai_shows_them() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <stat directory="/123456/dir1">
              <file type="file" name="a &amp; &quot;b&quot;" size="398421" md5="34E4e082ddbc76424d1e0ff08f485641" mtime="1524068379"/>
              <file type="symlink" name="link.html" target="a" mtime="1524110333"/>
              <file type="dir" name="dir2/" bytes="19873716" files="6" mtime="1524068415" implicit="true"/>
              <file type="file" name_base64="YQFi" size="3"/>
              <resume start="c.log"/>
            </stat>"#;
        let answer: Answer = quick_xml::de::from_str(text).unwrap();
        let names: Vec<_> = answer.files.iter().map(|file| (file.kind(), file.name().unwrap())).collect();
        let expected = [(Kind::File, "a & \"b\""), (Kind::Other, "link.html"), (Kind::Folder, "dir2"), (Kind::File, "a\u{1}b")];
        assert_eq!(names, expected.map(|(kind, name)| (kind, name.to_owned())));
        let info = answer.files[0].info();
        assert_eq!((info.size, info.etag.as_deref()), (398_421, Some("34e4e082ddbc76424d1e0ff08f485641")));
        assert_eq!(info.mtime_ns, Some(1_524_068_379_000_000_000));
        assert_eq!((answer.files[3].etag(), answer.files[3].mtime_ns()), (None, None));
        assert_eq!(answer.resume().as_deref(), Some("c.log"));
        let empty: Answer = quick_xml::de::from_str("<list></list>").unwrap();
        assert!(empty.files.is_empty() && empty.resume().is_none());
        let empty: Answer = quick_xml::de::from_str("<stat directory=\"/1\"/>").unwrap();
        assert!(empty.files.is_empty());
    }
}
