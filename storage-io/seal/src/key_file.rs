//! Key files: one line that says what it is, one line with 32 random bytes in Base64 (RFC 4648).

use std::io::{self, Read, Write};
use std::path::Path;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::error::SealError;
use crate::key::{KEY_BYTES, KeyId, MasterKey, random};

const FIRST_LINE: &str = "tradewind-seal-key-1";
/// A wrong name (a disk image) must not fill the memory.
const FILE_BYTES_MAX: u64 = 4096;

/// Makes a new key and writes it to a new file that only its owner may read (mode 0600). On disk when this returns.
///
/// # Errors
/// [`SealError::KeyFile`] if the file exists or cannot be written, [`SealError::System`] without random numbers.
pub fn create_key_file(path: &Path) -> Result<KeyId, SealError> {
    let secret = Zeroizing::new(random::<KEY_BYTES>()?);
    let text = Zeroizing::new(format!("{FIRST_LINE}\n{}\n", Zeroizing::new(BASE64.encode(secret.as_slice())).as_str()));
    write_new(path, text.as_bytes()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => wrong(path, "it exists already; choose another name, for what it opens would be lost"),
        _ => wrong(path, error.to_string()),
    })?;
    Ok(MasterKey::from_bytes(&secret)?.id())
}

/// Reads a key file.
///
/// # Errors
/// [`SealError::KeyFile`] if it cannot be read or is none.
pub fn read_key_file(path: &Path) -> Result<MasterKey, SealError> {
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| wrong(path, error.to_string()))?;
    let secret = parse(&text).ok_or_else(|| wrong(path, format!("not a key file ('{FIRST_LINE}', then 44 characters of Base64)")))?;
    MasterKey::from_bytes(&secret)
}

fn parse(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut lines = text.lines();
    if lines.next()?.trim_end() != FIRST_LINE {
        return None;
    }
    let bytes = Zeroizing::new(BASE64.decode(lines.next()?.trim_end().as_bytes()).ok()?);
    let only = lines.all(|line| line.trim().is_empty());
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    if !only || bytes.len() != secret.len() {
        return None;
    }
    secret.copy_from_slice(&bytes);
    Some(secret)
}

/// Writes a new file of mode 0600, whole and on disk or not at all; an error of the kind `AlreadyExists` if something has the name.
pub(crate) fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // tempfile makes it with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    std::fs::File::open(folder)?.sync_all()
}

pub(crate) fn wrong(path: &Path, reason: impl Into<String>) -> SealError {
    SealError::KeyFile { path: path.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_key_file_is_its_owners_alone_and_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let id = create_key_file(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_key_file(&path).unwrap().id(), id);
        let before = std::fs::read(&path).unwrap();
        let again = create_key_file(&path).unwrap_err().to_string();
        assert!(again.contains("exists") && again.contains("key"), "{again}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_ne!(create_key_file(&folder.path().join("other")).unwrap(), id);
        assert!(create_key_file(&folder.path().join("none/key")).is_err());
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let base64 = BASE64.encode(&[1; 32]);
        for good in [format!("{FIRST_LINE}\n{base64}\n"), format!("{FIRST_LINE}\r\n{base64}\r\n\r\n"), format!("{FIRST_LINE}\n{base64}")] {
            assert_eq!(parse(&good).unwrap().as_slice(), [1; 32]);
        }
        let (short, long) = (BASE64.encode(&[1; 31]), BASE64.encode(&[1; 33]));
        for bad in [
            String::new(),
            base64.clone(),
            format!("{FIRST_LINE}\n"),
            format!("{FIRST_LINE}\n{short}\n"),
            format!("{FIRST_LINE}\n{long}\n"),
            format!("{FIRST_LINE}\n{}\n", &base64[1..]),
            format!("{FIRST_LINE}\n{base64}\n{base64}\n"),
            format!("tradewind-seal-key-2\n{base64}\n"),
        ] {
            assert!(parse(&bad).is_none(), "{bad:?}");
        }
    }
}
