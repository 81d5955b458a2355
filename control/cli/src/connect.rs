//! From options to a client that speaks to the right server.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tradewind_api::{Client, Credentials, KnownServers, SecretText, ServerAddress, Trust, establish_trust};

use crate::copy::{CopyOptions, ToOptions};
use crate::display;
use crate::failure::Failure;
use crate::options::{IdentityOptions, ServerOptions};

const SECRET_VARIABLE: &str = "TRADEWIND_SECRET";
const TO_SECRET_VARIABLE: &str = "TRADEWIND_TO_SECRET";
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// A client with credentials, its server's key pinned. `quiet` leaves out the line that tells of a server met for the first time.
pub(crate) async fn connect(options: &ServerOptions, quiet: bool) -> Result<Client, Failure> {
    connect_with(&options.server, &options.identity, SECRET_VARIABLE, quiet).await
}

async fn connect_with(server: &ServerAddress, identity: &IdentityOptions, variable: &str, quiet: bool) -> Result<Client, Failure> {
    let credentials = credentials_by(identity, variable)?
        .ok_or_else(|| Failure::Credentials { detail: format!("no access key was given for {server}") })?;
    let trusted = establish_trust(server, &trust(identity)?).await?;
    if trusted.first_use && !quiet {
        display::note(&format!(
            "{server} is met for the first time; remembering its key {}. Compare it with `tradewindd --fingerprint` on the server.",
            trusted.fingerprint
        ));
    }
    Ok(Client::new(server.clone(), trusted.fingerprint, Some(credentials))?)
}

/// The same for the server that takes what is copied, with the other server's credentials where it has none of its own: these go to no server
/// that is met for the first time.
pub(crate) async fn connect_to(server: &ServerAddress, options: &CopyOptions, quiet: bool) -> Result<Client, Failure> {
    let has_variable = std::env::var(TO_SECRET_VARIABLE).is_ok_and(|secret| !secret.is_empty());
    let (identity, variable) = identity_to(&options.server.identity, &options.to, has_variable);
    connect_with(server, &identity, variable, quiet).await
}

/// Who asks the server that takes what is copied, and the variable of the secret. The key is its own or that of the other server, and so is the
/// secret: from its file, its variable, the other's file, the other's variable.
fn identity_to(own: &IdentityOptions, to: &ToOptions, has_variable: bool) -> (IdentityOptions, &'static str) {
    let has_secret = to.secret_file.is_some() || has_variable;
    let identity = IdentityOptions {
        access_key: to.access_key.clone().or_else(|| own.access_key.clone()),
        secret_file: if has_secret { to.secret_file.clone() } else { own.secret_file.clone() },
        fingerprint: to.fingerprint,
        strict: to.fingerprint.is_none() && (own.strict || !has_secret),
    };
    (identity, if has_secret { TO_SECRET_VARIABLE } else { SECRET_VARIABLE })
}

/// Whom to trust.
pub(crate) fn trust(identity: &IdentityOptions) -> Result<Trust, Failure> {
    Ok(match identity.fingerprint {
        Some(fingerprint) => Trust::Pinned(fingerprint),
        None if identity.strict => Trust::KnownOnly(KnownServers::of_user()?),
        None => Trust::FirstUse(KnownServers::of_user()?),
    })
}

/// The credentials given, if any.
pub(crate) fn credentials(identity: &IdentityOptions) -> Result<Option<Credentials>, Failure> {
    credentials_by(identity, SECRET_VARIABLE)
}

fn credentials_by(identity: &IdentityOptions, variable: &str) -> Result<Option<Credentials>, Failure> {
    let Some(access_key) = identity.access_key.clone().filter(|key| !key.is_empty()) else {
        return Ok(None);
    };
    let secret = match &identity.secret_file {
        Some(path) => read_secret(path)?,
        None => std::env::var(variable)
            .ok()
            .filter(|secret| !secret.is_empty())
            .ok_or_else(|| Failure::Credentials { detail: format!("no secret was given for the access key '{access_key}'") })?,
    };
    Ok(Some(Credentials { access_key, secret: SecretText::new(secret) }))
}

/// First line of a file. The limit keeps a wrong name (a disk image) from filling the memory.
fn read_secret(path: &Path) -> Result<String, Failure> {
    let fail = |what: String| Failure::Credentials { detail: format!("the secret file {}: {what}", path.display()) };
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(SECRET_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| fail(error.to_string()))?;
    let line = text.lines().next().unwrap_or_default().trim_end();
    if line.is_empty() { Err(fail("its first line is empty".to_owned())) } else { Ok(line.to_owned()) }
}

/// Where the server is. `None` for a name that does not resolve: the next request tells why.
pub(crate) async fn resolve(server: &ServerAddress) -> Option<SocketAddr> {
    tokio::net::lookup_host((server.host(), server.port())).await.ok()?.next()
}

/// Round-trip time to the server as the faster of two TCP connections shows it. Two, because a lost SYN costs a second;
/// they are closed at once, which the server takes for a port check.
pub(crate) async fn tcp_round_trip(address: SocketAddr) -> Option<Duration> {
    tokio::select! {
        Some(time) = connect_time(address) => Some(time),
        Some(time) = connect_time(address) => Some(time),
        else => None,
    }
}

async fn connect_time(address: SocketAddr) -> Option<Duration> {
    let started = Instant::now();
    TcpStream::connect(address).await.ok()?;
    Some(started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(access_key: Option<&str>, secret_file: Option<&Path>) -> IdentityOptions {
        IdentityOptions {
            access_key: access_key.map(str::to_owned),
            secret_file: secret_file.map(Path::to_owned),
            fingerprint: None,
            strict: false,
        }
    }

    #[test]
    fn a_secret_file_gives_its_first_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        fs::write(&file, "s3cret \r\nsecond line\n").unwrap();
        let found = credentials(&identity(Some("key"), Some(&file))).unwrap().unwrap();
        assert_eq!((found.access_key.as_str(), found.secret.expose()), ("key", "s3cret"));
        assert!(!format!("{found:?}").contains("s3cret"));
        fs::write(&file, "\nsecond line\n").unwrap();
        let error = credentials(&identity(Some("key"), Some(&file))).unwrap_err();
        assert_eq!(error.exit_code(), tradewind_api::exit::AUTH);
        assert!(error.to_string().contains("secret: its first line"), "{error}");
        assert!(credentials(&identity(Some("key"), Some(&directory.path().join("none")))).is_err());
        assert!(credentials(&identity(None, Some(&file))).unwrap().is_none());
    }

    #[test]
    fn a_secret_of_its_own_keeps_the_other_servers_at_home() {
        let own = identity(Some("own"), Some(Path::new("/own/secret")));
        let to = |access_key: Option<&str>, secret_file: Option<&str>| ToOptions {
            server: None,
            access_key: access_key.map(str::to_owned),
            secret_file: secret_file.map(Into::into),
            fingerprint: None,
            policy: None,
            rate: None,
        };
        let chosen = |options: &ToOptions, has_variable| {
            let (identity, variable) = identity_to(&own, options, has_variable);
            let file = identity.secret_file.map(|path| path.display().to_string());
            (identity.access_key.unwrap(), file, variable, identity.strict)
        };
        let file = |path: &str| Some(path.to_owned());
        assert_eq!(chosen(&to(None, None), false), ("own".into(), file("/own/secret"), SECRET_VARIABLE, true));
        assert_eq!(chosen(&to(Some("to"), None), false), ("to".into(), file("/own/secret"), SECRET_VARIABLE, true));
        assert_eq!(chosen(&to(None, None), true), ("own".into(), None, TO_SECRET_VARIABLE, false));
        assert_eq!(chosen(&to(None, Some("/to")), false), ("own".into(), file("/to"), TO_SECRET_VARIABLE, false));
        assert_eq!(chosen(&to(Some("to"), Some("/to")), true), ("to".into(), file("/to"), TO_SECRET_VARIABLE, false));
    }

    #[tokio::test]
    async fn round_trip_on_loopback() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // A machine that stands still for a moment makes one of them slow.
        let mut least = Duration::MAX;
        for _ in 0..4 {
            least = least.min(tcp_round_trip(address).await.unwrap());
        }
        assert!(least < Duration::from_secs(1), "{least:?}");
        drop(listener);
        assert_eq!(tcp_round_trip(address).await, None);
    }
}
