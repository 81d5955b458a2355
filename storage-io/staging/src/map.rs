//! Files as memory.
#![expect(unsafe_code, reason = "a mapping is as valid as the file is left alone, which the compiler cannot see")]

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::Mmap;

/// A whole file. Who cuts it short while this lives ends the process at the next access, so only files of a directory of our own are mapped.
pub(crate) fn file(file: &File) -> io::Result<Bytes> {
    // SAFETY: files of kept blocks are written by lanes of this engine alone, which has locked the directory; one that is recalled belongs to no
    // lane that writes, and removing it leaves what is mapped.
    let mapped = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(mapped))
}
