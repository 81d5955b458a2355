//! Servers met before, as ssh's `known_hosts`: one line `HOST:PORT SHA256:…` each.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Fingerprint, ServerAddress, probe_fingerprint};

const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file of known servers. It is replaced as a whole (mode 0600), never edited in place.
#[derive(Debug, Clone)]
pub struct KnownServers {
    path: PathBuf,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KnownServersError {
    /// Neither `XDG_CONFIG_HOME` nor `HOME` is set.
    #[error("no place to remember servers: set HOME or XDG_CONFIG_HOME, or give --fingerprint")]
    NoHome,
    /// Reading or writing failed.
    #[error("{}: {source}; give --fingerprint to do without it", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error("{}:{line}: expected HOST:PORT SHA256:…, found '{found}'; correct or delete the line", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// Its text.
        found: String,
    },
}

impl KnownServers {
    /// The user's file: `$XDG_CONFIG_HOME/tradewind/known_servers`, or `~/.config/tradewind/known_servers`.
    ///
    /// # Errors
    /// [`KnownServersError::NoHome`].
    pub fn of_user() -> Result<Self, KnownServersError> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        Ok(Self::at(config.ok_or(KnownServersError::NoHome)?.join("tradewind/known_servers")))
    }

    /// A file of one's own choice.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fingerprint remembered for a server. A missing file knows nobody.
    ///
    /// # Errors
    /// [`KnownServersError::Io`], [`KnownServersError::Line`]: a damaged file is an error, or it would forget a pin silently.
    pub fn lookup(&self, server: &ServerAddress) -> Result<Option<Fingerprint>, KnownServersError> {
        let entries = self.read()?;
        Ok(entries.iter().find_map(|entry| entry.server.as_ref().filter(|(known, _)| known == server).map(|(_, print)| *print)))
    }

    /// Remembers a server. Comments and other servers stay; an older entry of this server is replaced.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn remember(&self, server: &ServerAddress, fingerprint: Fingerprint) -> Result<(), KnownServersError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let io = |source| KnownServersError::Io { path: self.path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        // Two commands at once must not lose each other's entry.
        let lock = File::create(self.path.with_extension("lock")).map_err(io)?;
        lock.lock().map_err(io)?;

        let mut text = String::new();
        for entry in self.read()?.iter().filter(|e| e.server.as_ref().is_none_or(|(known, _)| known != server)) {
            text.push_str(&entry.line);
            text.push('\n');
        }
        text.push_str(&format!("{server} {fingerprint}\n"));
        // tempfile makes it with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(io)?;
        file.persist(&self.path).map_err(|e| io(e.error))?;
        Ok(())
    }

    fn read(&self) -> Result<Vec<Entry>, KnownServersError> {
        let io = |source| KnownServersError::Io { path: self.path.clone(), source };
        let text = match fs::metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io(e)),
            Ok(meta) if meta.len() > FILE_BYTES_MAX => return Err(io(io::Error::other("the file is larger than 1 MiB"))),
            Ok(_) => fs::read_to_string(&self.path).map_err(io)?,
        };
        text.lines().enumerate().map(|(index, line)| self.entry(index + 1, line)).collect()
    }

    fn entry(&self, number: usize, line: &str) -> Result<Entry, KnownServersError> {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            return Ok(Entry { line: line.to_owned(), server: None });
        }
        let wrong = || KnownServersError::Line { path: self.path.clone(), line: number, found: content.chars().take(120).collect() };
        let (server, fingerprint) = content.split_once(char::is_whitespace).ok_or_else(wrong)?;
        let server = server.parse().map_err(|_| wrong())?;
        let fingerprint = fingerprint.parse().map_err(|_| wrong())?;
        Ok(Entry { line: line.to_owned(), server: Some((server, fingerprint)) })
    }
}

struct Entry {
    line: String,
    server: Option<(ServerAddress, Fingerprint)>,
}

/// How to decide whether a server is the right one.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Only the server with this fingerprint.
    Pinned(Fingerprint),
    /// The fingerprint remembered from the first use. An unknown server is remembered now.
    FirstUse(KnownServers),
    /// The fingerprint remembered from the first use. An unknown server is refused.
    KnownOnly(KnownServers),
}

/// A fingerprint to pin, and whether it was only now learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted {
    /// Fingerprint to pin.
    pub fingerprint: Fingerprint,
    /// True for a server met for the first time: tell the user.
    pub first_use: bool,
}

/// No decision could be made, or it is no.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of known servers cannot be used.
    #[error(transparent)]
    Store(#[from] KnownServersError),
    /// The server could not be asked for its key.
    #[error("cannot reach {server}: {source}")]
    Unreachable {
        /// The server.
        server: ServerAddress,
        /// What failed.
        source: io::Error,
    },
    /// The server is unknown and unknown ones are refused.
    #[error(
        "{server} is not a known server; it presents {presented}. If `tradewindd --fingerprint` on the server prints the same, \
         run again with --fingerprint {presented}, or once without --strict"
    )]
    Unknown {
        /// The server.
        server: ServerAddress,
        /// What it presents.
        presented: Fingerprint,
    },
}

/// Finds the fingerprint to pin for a server: given, remembered, or learnt now in a handshake that sends no credentials.
///
/// # Errors
/// [`TrustError`].
pub async fn establish_trust(server: &ServerAddress, trust: &Trust) -> Result<Trusted, TrustError> {
    let (known, strict) = match trust {
        Trust::Pinned(fingerprint) => return Ok(Trusted { fingerprint: *fingerprint, first_use: false }),
        Trust::FirstUse(known) => (known, false),
        Trust::KnownOnly(known) => (known, true),
    };
    if let Some(fingerprint) = known.lookup(server)? {
        return Ok(Trusted { fingerprint, first_use: false });
    }
    let probe = probe_fingerprint(server, PROBE_TIMEOUT).await;
    let presented = probe.map_err(|source| TrustError::Unreachable { server: server.clone(), source })?;
    if strict {
        return Err(TrustError::Unknown { server: server.clone(), presented });
    }
    known.remember(server, presented)?;
    Ok(Trusted { fingerprint: presented, first_use: true })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn server(text: &str) -> ServerAddress {
        text.parse().unwrap()
    }

    #[test]
    fn remembers_replaces_and_keeps_comments() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownServers::at(folder.path().join("a/b/known_servers"));
        assert_eq!(known.lookup(&server("one")).unwrap(), None);
        let (first, second) = (Fingerprint::of_public_key(b"1"), Fingerprint::of_public_key(b"2"));
        known.remember(&server("one"), first).unwrap();
        fs::write(known.path(), format!("# mine\n{}", fs::read_to_string(known.path()).unwrap())).unwrap();
        known.remember(&server("two:1"), second).unwrap();
        known.remember(&server("one"), second).unwrap();

        assert_eq!(known.lookup(&server("ONE:33000")).unwrap(), Some(second));
        assert_eq!(known.lookup(&server("two:1")).unwrap(), Some(second));
        assert_eq!(known.lookup(&server("two:2")).unwrap(), None);
        assert_eq!(fs::read_to_string(known.path()).unwrap(), format!("# mine\ntwo:1 {second}\none:33000 {second}\n"));
        assert_eq!(fs::metadata(known.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path().join("a/b")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_damaged_line_is_an_error_with_its_number_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownServers::at(folder.path().join("known_servers"));
        fs::write(known.path(), "# fine\none SHA256:short\n").unwrap();
        for error in
            [known.lookup(&server("two")).unwrap_err(), known.remember(&server("two"), Fingerprint::of_public_key(b"")).unwrap_err()]
        {
            assert!(matches!(error, KnownServersError::Line { line: 2, .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(known.path()).unwrap(), "# fine\none SHA256:short\n");
    }
}
