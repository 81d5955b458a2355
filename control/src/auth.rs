//! Access keys and secrets, compared in constant time.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::Rng as _;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::config::User;

const AUTHORIZATION_BYTES_MAX: usize = 4096;

/// Decides who a request comes from. Holds digests under a random prefix, so neither lengths nor matching prefixes of what was
/// sent show in the time a comparison takes, and every user costs the same.
#[derive(Debug)]
pub struct Authenticator {
    prefix: [u8; 32],
    users: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    digest: [u8; 32],
    access_key: String,
    stores: Option<Vec<String>>,
}

/// A user whose secret matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// Access key.
    pub access_key: String,
    /// Names of the stores this user may write to, list and remove from; `None`: all.
    pub stores: Option<Vec<String>>,
}

impl Authenticator {
    /// For these users.
    #[must_use]
    pub fn new(users: &[User]) -> Self {
        let mut prefix = [0; 32];
        rand::rng().fill_bytes(&mut prefix);
        let known = |user: &User| Known {
            digest: digest(&prefix, &user.access_key, user.secret.expose()),
            access_key: user.access_key.clone(),
            stores: user.stores.clone(),
        };
        Self { users: users.iter().map(known).collect(), prefix }
    }

    /// The user of an `Authorization` header: `Basic base64(KEY:SECRET)` or `Bearer KEY:SECRET`.
    #[must_use]
    pub fn identify(&self, authorization: &str) -> Option<Identified> {
        if authorization.len() > AUTHORIZATION_BYTES_MAX {
            return None;
        }
        let (scheme, value) = authorization.split_once(' ')?;
        let pair = if scheme.eq_ignore_ascii_case("basic") {
            String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?
        } else if scheme.eq_ignore_ascii_case("bearer") {
            value.trim().to_owned()
        } else {
            return None;
        };
        let (access_key, secret) = pair.split_once(':')?;
        let offered = digest(&self.prefix, access_key, secret);
        let (mut found, mut index) = (Choice::from(0), 0u64);
        for (position, known) in (0u64..).zip(&self.users) {
            let equal = known.digest.ct_eq(&offered);
            index.conditional_assign(&position, equal);
            found |= equal;
        }
        let known = bool::from(found).then(|| self.users.get(usize::try_from(index).ok()?)).flatten()?;
        Some(Identified { access_key: known.access_key.clone(), stores: known.stores.clone() })
    }
}

fn digest(prefix: &[u8; 32], access_key: &str, secret: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(prefix);
    hash.update((access_key.len() as u64).to_be_bytes());
    hash.update(access_key);
    hash.update(secret);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_and_only_the_right_pair() {
        let user = |key: &str, secret: &str| User { access_key: key.into(), secret: secret.into(), stores: None };
        let auth = Authenticator::new(&[user("ann", "secret-of-ann:1"), user("bob", "secret-of-bob")]);
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (header, expected) in [
            (basic("ann:secret-of-ann:1"), Some("ann")),
            (basic("bob:secret-of-bob"), Some("bob")),
            ("Bearer bob:secret-of-bob".to_owned(), Some("bob")),
            ("bearer ann:secret-of-ann:1".to_owned(), Some("ann")),
            (basic("ann:secret-of-bob"), None),
            (basic("ann:secret-of-ann:"), None),
            (basic("ann:"), None),
            (basic("ann"), None),
            (basic(":"), None),
            ("Basic !!!".to_owned(), None),
            ("Digest ann:secret-of-ann:1".to_owned(), None),
            (String::new(), None),
            (format!("Bearer bob:{}", "x".repeat(5000)), None),
        ] {
            assert_eq!(auth.identify(&header).map(|u| u.access_key).as_deref(), expected, "{header}");
        }
    }
}
