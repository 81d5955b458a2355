//! `HOST[:PORT]` of a server.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Port of the REST interface (TCP) when none is given. The data port is UDP 33001.
pub const DEFAULT_PORT: u16 = 33000;

/// A server's host and REST port. Hosts compare in lower case, so one server has one entry among the known ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    host: String,
    port: u16,
}

/// A text that is no `HOST[:PORT]`.
#[derive(Debug, thiserror::Error)]
#[error("'{text}' is not a server address ({reason}): expected HOST, HOST:PORT, [IPV6] or [IPV6]:PORT")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl ServerAddress {
    /// Host name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| AddressError { text: text.to_owned(), reason };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (inside, after) = rest.split_once(']').ok_or_else(|| fail("no closing bracket"))?;
            inside.parse::<Ipv6Addr>().map_err(|_| fail("no IPv6 address in the brackets"))?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or_else(|| fail("text after the bracket"))?),
            };
            (inside, port)
        } else if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|&p: &u16| p != 0).ok_or_else(|| fail("the port is no number from 1 to 65535"))?,
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(is_host) {
            return Err(fail("the host name is empty or has characters that host names do not have"));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_addresses() {
        for (text, shown) in [
            ("Example.org", "example.org:33000"),
            ("10.0.0.1:443", "10.0.0.1:443"),
            ("::1", "[::1]:33000"),
            ("[::1]", "[::1]:33000"),
            ("[fe80::2]:7", "[fe80::2]:7"),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<ServerAddress>().unwrap(), address);
        }
        for wrong in ["", ":1", "a:", "a:0", "a:65536", "a b", "https://a", "[::1", "[::1]x", "[a]", "user@a"] {
            assert!(wrong.parse::<ServerAddress>().is_err(), "{wrong}");
        }
    }
}
