//! The salt of a user's passphrases, made once and kept, so that the same passphrase is the same key tomorrow.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use data_encoding::HEXLOWER;

use crate::error::SealError;
use crate::key::{SALT_BYTES, Salt, random_salt};
use crate::key_file::{write_new, wrong};

/// The salt in a file: 32 hexadecimal digits. If there is no such file it is made (mode 0600, its directory 0700), whole or not at all, and
/// of several that do so at once all get the same salt.
///
/// Losing it loses no file, for each sealed file tells its own salt; what is sealed afterwards has another key.
///
/// # Errors
/// [`SealError::KeyFile`] if it cannot be read or made, or is damaged; [`SealError::System`] without random numbers.
pub fn read_or_create_salt(path: &Path) -> Result<Salt, SealError> {
    if let Some(salt) = read(path)? {
        return Ok(salt);
    }
    let salt = random_salt()?;
    let failed = |error: io::Error| wrong(path, error.to_string());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    match write_new(path, format!("{}\n", HEXLOWER.encode(&salt)).as_bytes()) {
        Ok(()) => Ok(salt),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read(path)?.ok_or_else(|| wrong(path, "it comes and goes; see who else removes it"))
        }
        Err(error) => Err(failed(error)),
    }
}

fn read(path: &Path) -> Result<Option<Salt>, SealError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(path, error.to_string())),
    };
    let salt = HEXLOWER
        .decode(text.trim_ascii_end())
        .ok()
        .and_then(|bytes| bytes.first_chunk::<SALT_BYTES>().copied().filter(|_| bytes.len() == SALT_BYTES));
    salt.map(Some)
        .ok_or_else(|| wrong(path, "not the salt of a passphrase (32 hexadecimal digits); remove it, and the next use makes another"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_salt_is_made_once_whoever_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/tradewind/seal-salt");
        let salts: Vec<Salt> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| read_or_create_salt(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(salts.iter().all(|salt| *salt == salts[0]));
        assert_eq!(read_or_create_salt(&path).unwrap(), salts[0]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_damaged_salt_is_an_error_rather_than_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("salt");
        for text in ["", "00", &"0".repeat(31), &"0".repeat(34), &"x".repeat(32)] {
            fs::write(&path, text).unwrap();
            let error = read_or_create_salt(&path).unwrap_err().to_string();
            assert!(error.contains("salt") && error.contains("remove it"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, "000102030405060708090a0b0c0d0e0f\r\n").unwrap();
        assert_eq!(read_or_create_salt(&path).unwrap()[15], 15);
    }
}
