//! Which names a block table may carry.

use tradewind_wire::limits::PATH_BYTES_MAX;

/// Why a path is refused: stored below a destination it could leave it, or name nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No bytes.
    #[error("the path is empty")]
    Empty,
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// Contains a NUL byte.
    #[error("the path contains a NUL byte")]
    Nul,
    /// Starts with `/`.
    #[error("the path is absolute")]
    Absolute,
    /// A component is empty, `.` or `..`.
    #[error("the path has an empty, '.' or '..' component")]
    Component,
}

/// Checks a relative, `/`-separated path.
///
/// # Errors
/// [`PathError`] says which rule it breaks.
pub fn check_path(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    if path.contains(&0) {
        return Err(PathError::Nul);
    }
    if path.starts_with(b"/") {
        return Err(PathError::Absolute);
    }
    if path.split(|&byte| byte == b'/').any(|component| matches!(component, b"" | b"." | b"..")) {
        return Err(PathError::Component);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_refused_and_odd_ones_pass() {
        for (path, error) in [
            (&b""[..], PathError::Empty),
            (b"/etc/passwd", PathError::Absolute),
            (b"..", PathError::Component),
            (b"a/../b", PathError::Component),
            (b"a/./b", PathError::Component),
            (b"a//b", PathError::Component),
            (b"a/", PathError::Component),
            (b"a\0b", PathError::Nul),
        ] {
            assert_eq!(check_path(path), Err(error), "{}", path.escape_ascii());
        }
        assert_eq!(check_path(&[b'a'; PATH_BYTES_MAX + 1]), Err(PathError::TooLong));
        for path in [&b"a"[..], b"...", b"-rf", b"a\nb", b"\xff\xfe/x", b"a b/\\c", &[b'a'; PATH_BYTES_MAX]] {
            assert_eq!(check_path(path), Ok(()), "{}", path.escape_ascii());
        }
    }
}
