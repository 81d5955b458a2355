//! Where a container is and how to get into it.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::StoreError;

/// How a cluster is asked for a token.
#[derive(Clone)]
pub enum SwiftAuth {
    /// Version 1, as TempAuth and Ceph speak it.
    V1 {
        /// For instance `https://swift.example/auth/v1.0`.
        auth_url: String,
        /// `ACCOUNT:USER`.
        user: String,
        /// The user's key.
        key: Zeroizing<String>,
    },
    /// Keystone version 3 with a user's password.
    Password {
        /// Of Keystone, with or without `/v3`.
        auth_url: String,
        /// User.
        user: String,
        /// The user's domain.
        user_domain: String,
        /// The user's password.
        password: Zeroizing<String>,
        /// Project.
        project: String,
        /// The project's domain.
        project_domain: String,
        /// Region of the catalogue; the first that it holds if `None`.
        region: Option<String>,
        /// Interface of the catalogue: `public`, `internal` or `admin`.
        interface: String,
    },
    /// Keystone version 3 with an application credential.
    Application {
        /// Of Keystone, with or without `/v3`.
        auth_url: String,
        /// The credential's id.
        id: String,
        /// The credential's secret.
        secret: Zeroizing<String>,
        /// Region of the catalogue; the first that it holds if `None`.
        region: Option<String>,
        /// Interface of the catalogue: `public`, `internal` or `admin`.
        interface: String,
    },
}

impl SwiftAuth {
    /// From `ST_AUTH`, `ST_USER`, `ST_KEY`, or from `OS_AUTH_URL` with `OS_APPLICATION_CREDENTIAL_ID` and `…_SECRET` or `OS_USERNAME`,
    /// `OS_PASSWORD`, `OS_PROJECT_NAME` and the domains, as OpenStack's own clients know them.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when they are not set.
    pub fn from_env() -> Result<Self, StoreError> {
        Self::from_lookup(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        let need = |name: &str| {
            let unset =
                || StoreError::Configuration { detail: format!("{name} is not set; name the store's credentials in its configuration") };
            lookup(name).ok_or_else(unset)
        };
        if let Some(auth_url) = lookup("ST_AUTH") {
            return Ok(Self::V1 { auth_url, user: need("ST_USER")?, key: Zeroizing::new(need("ST_KEY")?) });
        }
        let (auth_url, region) = (need("OS_AUTH_URL")?, lookup("OS_REGION_NAME"));
        // Older clients wrote `publicURL`.
        let interface = lookup("OS_INTERFACE").unwrap_or_else(|| "public".to_owned()).trim_end_matches("URL").to_owned();
        if let Some(id) = lookup("OS_APPLICATION_CREDENTIAL_ID") {
            let secret = Zeroizing::new(need("OS_APPLICATION_CREDENTIAL_SECRET")?);
            return Ok(Self::Application { auth_url, id, secret, region, interface });
        }
        for (id, name) in [("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME"), ("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME")] {
            // The id of the domain Default is `default`.
            if lookup(name).is_none() && lookup(id).is_some_and(|id| id != "default") {
                return Err(StoreError::Configuration { detail: format!("{id} is set; name the domain with {name} instead") });
            }
        }
        let domain = |name| lookup(name).unwrap_or_else(|| "Default".to_owned());
        Ok(Self::Password {
            auth_url,
            user: need("OS_USERNAME")?,
            user_domain: domain("OS_USER_DOMAIN_NAME"),
            password: Zeroizing::new(need("OS_PASSWORD")?),
            project: need("OS_PROJECT_NAME")?,
            project_domain: domain("OS_PROJECT_DOMAIN_NAME"),
            region,
            interface,
        })
    }

    /// Whose containers they are.
    fn account(&self) -> String {
        let of_region = |region: &Option<String>| region.as_ref().map_or(String::new(), |region| format!(" in {region}"));
        match self {
            Self::V1 { user, .. } => format!("account {}", user.split_once(':').map_or(user.as_str(), |(account, _)| account)),
            Self::Password { project, project_domain, region, .. } => format!("project {project} ({project_domain}){}", of_region(region)),
            Self::Application { id, region, .. } => format!("application credential {id}{}", of_region(region)),
        }
    }

    /// Where tokens are asked for.
    pub(super) fn url(&self) -> &str {
        match self {
            Self::V1 { auth_url, .. } | Self::Password { auth_url, .. } | Self::Application { auth_url, .. } => {
                auth_url.trim_end_matches('/')
            }
        }
    }
}

impl fmt::Debug for SwiftAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 { .. } => "V1(…)",
            Self::Password { .. } => "Password(…)",
            Self::Application { .. } => "Application(…)",
        })
    }
}

/// How objects of several parts are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LargeObjects {
    /// Static where the cluster has them.
    #[default]
    Auto,
    /// Static large objects: a list of segments that the cluster verifies.
    Slo,
    /// Dynamic large objects: whatever lies below a prefix.
    Dlo,
}

/// A container and how to reach it.
#[derive(Clone, Debug)]
pub struct SwiftConfig {
    /// Container.
    pub container: String,
    /// Container of the segments of large objects, made when missing; `CONTAINER_segments` if `None`.
    pub segments: Option<String>,
    /// The key to it.
    pub auth: SwiftAuth,
    /// How objects of several parts are made.
    pub large_objects: LargeObjects,
}

impl SwiftConfig {
    /// The container in words, without secrets: the same for whoever means the same container.
    #[must_use]
    pub fn place(&self) -> String {
        let host = self.auth.url().split_once("://").map_or(self.auth.url(), |(_, rest)| rest);
        let host = host.split(['/', '?', '#']).next().unwrap_or_default();
        // Whatever stands before '@' might be a password.
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        format!("container {} of {} of Swift at {host}", self.container, self.auth.account())
    }

    /// Container of the segments.
    pub(super) fn segments(&self) -> String {
        self.segments.clone().unwrap_or_else(|| format!("{}_segments", self.container))
    }

    pub(super) fn checked(&self) -> Result<(), StoreError> {
        let wrong = |detail: &str| Err(StoreError::Configuration { detail: detail.to_owned() });
        let is_name = |name: &str| !name.is_empty() && name.len() <= 256 && !name.contains('/');
        if !is_name(&self.container) || !is_name(&self.segments()) {
            return wrong("a container's name has 1 to 256 bytes and no '/', and so has that of its segments (NAME_segments)");
        }
        match self.auth.url() {
            url if !url.starts_with("https://") && !url.starts_with("http://") => {
                wrong("auth_url begins with neither https:// nor http://")
            }
            url if url.contains(['?', '#', '@']) => wrong("auth_url is more than an address; user and key have their own settings"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_what_openstack_knows() {
        let from = |set: &'static [(&str, &str)]| {
            SwiftAuth::from_lookup(move |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        let v1 = from(&[("ST_AUTH", "http://h/auth/v1.0"), ("ST_USER", "a:u"), ("ST_KEY", "secret")]).unwrap();
        assert!(matches!(&v1, SwiftAuth::V1 { user, key, .. } if user == "a:u" && **key == "secret"));
        assert!(!format!("{v1:?}").contains("secret"));
        let password = from(&[("OS_AUTH_URL", "http://k"), ("OS_USERNAME", "u"), ("OS_PASSWORD", "p"), ("OS_PROJECT_NAME", "x")]).unwrap();
        assert!(matches!(password, SwiftAuth::Password { user_domain, .. } if user_domain == "Default"));
        let set = &[("OS_AUTH_URL", "http://k"), ("OS_APPLICATION_CREDENTIAL_ID", "i"), ("OS_APPLICATION_CREDENTIAL_SECRET", "s")];
        assert!(matches!(from(set).unwrap(), SwiftAuth::Application { id, .. } if id == "i"));
        let by_id = &[
            ("OS_AUTH_URL", "http://k"),
            ("OS_USER_DOMAIN_ID", "ab12"),
            ("OS_USERNAME", "u"),
            ("OS_PASSWORD", "p"),
            ("OS_PROJECT_NAME", "x"),
        ];
        assert!(from(by_id).unwrap_err().to_string().contains("OS_USER_DOMAIN_NAME"));
        assert!(from(&[]).is_err() && from(&[("ST_AUTH", "http://h")]).is_err());
    }

    #[test]
    fn places_hold_no_secrets() {
        let auth =
            SwiftAuth::V1 { auth_url: "http://u:pass@host/v1".to_owned(), user: "u".to_owned(), key: Zeroizing::new("k".to_owned()) };
        let config = SwiftConfig { container: "c".to_owned(), segments: None, auth, large_objects: LargeObjects::Auto };
        assert_eq!(config.place(), "container c of account u of Swift at host");
        assert!(config.checked().is_err_and(|error| !error.to_string().contains("pass")));
    }
}
