//! Where a container is and how to get into it.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::error::StoreError;

/// What opens a storage account.
#[derive(Clone)]
pub enum AzureCredentials {
    /// The account's key, as the portal shows it, decoded.
    Key(Zeroizing<Vec<u8>>),
    /// A shared access signature, the query of a URL without its `?`.
    Sas(Zeroizing<String>),
    /// The identity that Azure gives this machine (managed identity); the client id chooses one of several.
    ManagedIdentity {
        /// Of a user-assigned identity.
        client_id: Option<String>,
    },
}

impl AzureCredentials {
    /// A key in the form in which the portal shows it.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when it is not base64.
    pub fn key(text: &str) -> Result<Self, StoreError> {
        let wrong = |_| StoreError::Configuration { detail: "the account's key is not base64; copy it whole from the portal".to_owned() };
        BASE64_STANDARD.decode(text.trim()).map(|key| Self::Key(Zeroizing::new(key))).map_err(wrong)
    }

    /// A signature as the portal shows it, with or without `?`.
    #[must_use]
    pub fn sas(text: &str) -> Self {
        Self::Sas(Zeroizing::new(text.trim().trim_start_matches('?').to_owned()))
    }

    /// From `AZURE_STORAGE_KEY` or `AZURE_STORAGE_SAS_TOKEN`, as the Azure CLI knows them; else the machine's identity (`AZURE_CLIENT_ID`
    /// chooses one of several).
    ///
    /// # Errors
    /// [`StoreError::Configuration`] for a key that is none.
    pub fn from_env() -> Result<Self, StoreError> {
        Self::from_lookup(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        match (lookup("AZURE_STORAGE_KEY"), lookup("AZURE_STORAGE_SAS_TOKEN")) {
            (Some(key), _) => Self::key(&key),
            (None, Some(sas)) => Ok(Self::sas(&sas)),
            (None, None) => Ok(Self::ManagedIdentity { client_id: lookup("AZURE_CLIENT_ID") }),
        }
    }
}

impl fmt::Debug for AzureCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(…)",
            Self::Sas(_) => "Sas(…)",
            Self::ManagedIdentity { .. } => "ManagedIdentity",
        })
    }
}

/// A container and how to reach it.
#[derive(Clone, Debug)]
pub struct AzureConfig {
    /// Storage account.
    pub account: String,
    /// Container.
    pub container: String,
    /// URL below which containers lie, where it is not `https://ACCOUNT.blob.core.windows.net`; the emulator's has the account at its end.
    pub endpoint: Option<String>,
    /// The key to it.
    pub credentials: AzureCredentials,
}

impl AzureConfig {
    /// The container in words, without secrets.
    #[must_use]
    pub fn place(&self) -> String {
        let at = self.endpoint.as_ref().map_or(String::new(), |endpoint| {
            let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host);
            // Whatever stands before '@' might be a password.
            let host = host.split(['?', '#']).next().unwrap_or_default();
            format!(" at {}", host.rsplit_once('@').map_or(host, |(_, host)| host))
        });
        format!("container {} of the account {}{at}", self.container, self.account)
    }

    /// Without a slash at its end.
    pub(super) fn base(&self) -> Result<String, StoreError> {
        let wrong = |detail: String| Err(StoreError::Configuration { detail });
        if self.account.is_empty() || !self.account.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            return wrong(format!("'{}' is not a storage account: lower-case letters and digits", self.account));
        }
        match &self.endpoint {
            Some(endpoint) if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") => {
                wrong(format!("the endpoint of the account {} begins with neither https:// nor http://", self.account))
            }
            Some(endpoint) if endpoint.contains(['?', '#', '@']) => {
                wrong(format!("the endpoint of the account {} is more than an address; a signature goes into 'sas'", self.account))
            }
            Some(endpoint) => Ok(endpoint.trim_end_matches('/').to_owned()),
            None => Ok(format!("https://{}.blob.core.windows.net", self.account)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_what_the_azure_cli_knows() {
        let from = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            AzureCredentials::from_lookup(move |name| set.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
        };
        let both = [("AZURE_STORAGE_KEY", "c2VjcmV0"), ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=x")];
        assert!(matches!(from(&both).unwrap(), AzureCredentials::Key(key) if *key == b"secret"));
        assert!(matches!(from(&both[1..]).unwrap(), AzureCredentials::Sas(sas) if *sas == "sv=1&sig=x"));
        let identity = from(&[("AZURE_CLIENT_ID", "id")]).unwrap();
        assert!(matches!(&identity, AzureCredentials::ManagedIdentity { client_id } if client_id.as_deref() == Some("id")));
        assert!(matches!(from(&[("AZURE_STORAGE_KEY", "no base64!")]), Err(StoreError::Configuration { .. })));
        assert!(!format!("{:?}", from(&both).unwrap()).contains("secret"));
    }

    #[test]
    fn places_hold_no_secrets_and_accounts_are_checked() {
        let config = |account: &str, endpoint: Option<&str>| AzureConfig {
            account: account.to_owned(),
            container: "c".to_owned(),
            endpoint: endpoint.map(str::to_owned),
            credentials: AzureCredentials::sas("sig=secret"),
        };
        assert_eq!(config("acct", None).base().unwrap(), "https://acct.blob.core.windows.net");
        assert_eq!(config("acct", Some("http://127.0.0.1:1/acct/")).base().unwrap(), "http://127.0.0.1:1/acct");
        assert!(
            config("Acct", None).base().is_err() && config("a/b", None).base().is_err() && config("acct", Some("ftp://x")).base().is_err()
        );
        let signed = config("acct", Some("https://host/acct?sv=1&sig=secret"));
        assert!(signed.base().is_err_and(|error| !error.to_string().contains("secret")) && !signed.place().contains("secret"));
        let place = config("acct", Some("https://user:password@host/acct")).place();
        assert!(!place.contains("password") && place.contains("host/acct"), "{place}");
    }
}
