//! What `tradewind send` keeps of files beside their bytes.

use clap::{Args, ValueEnum};
use tradewind_client::{Checksum, Keep};

/// What is kept of each file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct KeepOptions {
    /// Checksums of each file as it is stored, computed here before it is sent (which reads it twice), kept as metadata and in the manifest:
    /// sha256, blake3, sha1, md5, several with commas.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) checksum: Vec<Checksum>,
    /// What else of a file becomes metadata, several with commas; not of sealed files, whose metadata nothing hides. Size, modification time and permissions always do.
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',', conflicts_with = "seal")]
    pub(crate) preserve: Vec<PreserveOption>,
}

/// What of a file becomes metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PreserveOption {
    /// Times of last access, last change and creation.
    Times,
    /// Numbers of user and group.
    Owner,
    /// Extended attributes of users.
    Xattrs,
    /// POSIX access ACLs.
    Acls,
    /// All of these.
    All,
}

impl KeepOptions {
    /// As the sending end is told.
    pub(crate) fn for_sources(&self) -> Keep {
        let has = |wanted| self.preserve.iter().any(|option| *option == wanted || *option == PreserveOption::All);
        let mut checksums = self.checksum.clone();
        checksums.sort_unstable();
        checksums.dedup();
        Keep {
            checksums,
            times: has(PreserveOption::Times),
            owner: has(PreserveOption::Owner),
            xattrs: has(PreserveOption::Xattrs),
            acls: has(PreserveOption::Acls),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::options::{Command, Options};

    fn keep(line: &str) -> Result<Keep, clap::Error> {
        let words = format!("tradewind send a s3://bucket/ --server far {line}");
        Options::try_parse_from(words.split_whitespace()).map(|options| match options.command {
            Command::Send(options) => options.keep.for_sources(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn lists_with_commas_name_each_thing_once() {
        assert_eq!(keep("").unwrap(), Keep::default());
        let some = keep("--checksum sha256,md5,sha256 --preserve times,acls").unwrap();
        assert_eq!(some.checksums, [Checksum::Md5, Checksum::Sha256]);
        assert_eq!((some.times, some.owner, some.xattrs, some.acls), (true, false, false, true));
        let all = keep("--preserve all").unwrap();
        assert!(all.times && all.owner && all.xattrs && all.acls);
        for bad in ["--checksum crc32", "--preserve mtime"] {
            assert!(keep(bad).is_err(), "{bad}");
        }
    }
}
