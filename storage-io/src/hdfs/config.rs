//! Where a root directory is and how to get into it.

use std::fmt;

use reqwest::Url;
use zeroize::Zeroizing;

use super::names;
use crate::error::StoreError;

/// Who asks.
#[derive(Clone)]
pub enum HdfsAuth {
    /// Simple authentication: the cluster believes the name.
    User(String),
    /// A delegation token, as `hdfs fetchdt` gets one: the way into a cluster with Kerberos.
    Token(Zeroizing<String>),
}

impl HdfsAuth {
    /// From `HADOOP_USER_NAME`, as Hadoop's own clients know it.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when it is not set.
    pub fn from_env() -> Result<Self, StoreError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        lookup("HADOOP_USER_NAME").filter(|user| !user.is_empty()).map(Self::User).ok_or_else(|| StoreError::Configuration {
            detail: "HADOOP_USER_NAME is not set; give the store user or delegation_token in its configuration".to_owned(),
        })
    }
}

impl fmt::Debug for HdfsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => f.debug_tuple("User").field(user).finish(),
            Self::Token(_) => f.write_str("Token(…)"),
        }
    }
}

/// A directory of a cluster and how to reach it.
#[derive(Clone, Debug)]
pub struct HdfsConfig {
    /// Addresses of the NameNodes' web ports, for instance `http://namenode:9870`; the one that is active is found by asking.
    pub namenodes: Vec<String>,
    /// Addresses of the NameNodes' RPC ports, for instance `namenode:8020`: data goes by Hadoop's own protocol. None: by WebHDFS, as all else does.
    pub rpc_addresses: Vec<String>,
    /// Absolute path of the directory. Nothing outside it is ever asked for.
    pub root: String,
    /// Who asks.
    pub auth: HdfsAuth,
}

impl HdfsConfig {
    /// The directory in words, without secrets: the same for whoever means the same directory.
    #[must_use]
    pub fn place(&self) -> String {
        let hosts: Vec<&str> = self.namenodes.iter().map(|address| host(address)).collect();
        format!("directory {} of HDFS at {}", self.root, hosts.join(", "))
    }

    pub(super) fn checked(&self) -> Result<(), StoreError> {
        let wrong = |detail: &str| Err(StoreError::Configuration { detail: detail.to_owned() });
        if self.namenodes.is_empty() {
            return wrong("an HDFS store needs the address of a NameNode");
        }
        for address in &self.namenodes {
            match Url::parse(address) {
                Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
                    return wrong("the address of a NameNode is that of its web port and begins with http:// or https://");
                }
                Ok(url) if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() => {
                    return wrong("the address of a NameNode is more than an address; user and token have their own settings");
                }
                Ok(_) => {}
                Err(_) => return wrong("the address of a NameNode is no URL"),
            }
        }
        if !self.rpc_addresses.iter().all(|address| is_host_and_port(address)) {
            return wrong("an address of a NameNode's RPC port is a host and a port (namenode:8020)");
        }
        if !self.rpc_addresses.is_empty() && matches!(self.auth, HdfsAuth::Token(_)) {
            return wrong("a delegation token cannot be used with rpc_addresses; without them, all goes by WebHDFS");
        }
        let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(|c: char| c == ':' || c.is_control());
        match self.root.strip_prefix('/') {
            Some("") => Ok(()),
            Some(path) if path.split('/').all(is_plain) && names::is_plain(path) && !path.starts_with(".reserved") => Ok(()),
            _ => wrong(
                "the root of an HDFS store is an absolute path without '.', '..', ':', ',', '%', '+', a slash at its end and letters above U+02FF",
            ),
        }
    }
}

/// Whether it is these two and nothing else.
fn is_host_and_port(address: &str) -> bool {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port != 0);
    let url = Url::parse(&format!("http://{address}/")).ok().filter(|url| url.username().is_empty() && url.password().is_none());
    let is_host =
        |url: &Url| url.path() == "/" && url.query().is_none() && url.fragment().is_none() && !address.contains(char::is_whitespace);
    port.is_some() && url.is_some_and(|url| url.port_or_known_default() == port && is_host(&url))
}

/// Host and port of an address; whatever stands before '@' might be a password.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(namenode: &str, root: &str) -> HdfsConfig {
        let (namenodes, auth) = (vec![namenode.to_owned()], HdfsAuth::User("u".to_owned()));
        HdfsConfig { namenodes, rpc_addresses: Vec::new(), root: root.to_owned(), auth }
    }

    #[test]
    fn addresses_and_roots_that_pass_beside_those_that_must_not() {
        for (namenode, root) in [("http://n:9870", "/"), ("https://n", "/a"), ("https://gate.way/gateway/default", "/a/b c/ü")] {
            config(namenode, root).checked().unwrap();
        }
        for namenode in ["n:9870", "hdfs://n:8020", "http://", "http://u:pass@n", "http://n?delegation=pass", ""] {
            let error = config(namenode, "/a").checked().unwrap_err();
            assert!(!error.to_string().contains("pass"), "{error}");
        }
        for root in ["", "a", "/a/", "//", "/a//b", "/..", "/a/../b", "/a:b", "/a,b", "/a%41", "/a+b", "/日本", "/.reserved/raw", "/a\n"]
        {
            assert!(config("http://n", root).checked().is_err(), "{root:?}");
        }
        assert!(HdfsConfig { namenodes: Vec::new(), ..config("", "/") }.checked().is_err());
    }

    #[test]
    fn rpc_addresses_that_pass_beside_those_that_must_not() {
        let of = |address: &str, auth| HdfsConfig { rpc_addresses: vec![address.to_owned()], auth, ..config("http://n", "/") }.checked();
        let user = || HdfsAuth::User("u".to_owned());
        for address in ["namenode:8020", "10.0.0.1:80", "[::1]:9000", "a-b.example:65535"] {
            of(address, user()).unwrap();
        }
        for address in [
            "",
            "n",
            "n:",
            ":8020",
            "n:0",
            "n:65536",
            "hdfs://n:8020",
            "n:8020/",
            "u:pass@n:8020",
            "n:8020?a:1",
            "n :8020",
            "n:8020,m:8020",
            "::1:9000",
        ] {
            let error = of(address, user()).unwrap_err();
            assert!(!error.to_string().contains("pass"), "{address}: {error}");
        }
        let refused = of("n:8020", HdfsAuth::Token(Zeroizing::new("hush".to_owned()))).unwrap_err().to_string();
        assert!(refused.contains("delegation token cannot be used with rpc_addresses") && !refused.contains("hush"), "{refused}");
    }

    #[test]
    fn places_and_debug_hold_no_secrets() {
        assert_eq!(config("http://u:pass@n:1/x", "/a").place(), "directory /a of HDFS at n:1");
        let auth = HdfsAuth::Token(Zeroizing::new("hush".to_owned()));
        assert!(!format!("{:?}", HdfsConfig { auth, ..config("http://n", "/a") }).contains("hush"));
        assert!(matches!(HdfsAuth::from_lookup(|_| Some("me".to_owned())), Ok(HdfsAuth::User(user)) if user == "me"));
        assert!(HdfsAuth::from_lookup(|_| None).is_err() && HdfsAuth::from_lookup(|_| Some(String::new())).is_err());
    }
}
