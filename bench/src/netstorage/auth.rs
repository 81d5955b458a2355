//! Who asks, and for what: the headers `X-Akamai-ACS-*` as the server sees them.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use super::{ACCOUNT, KEY};

/// A signature is good for so long, either way, seconds.
const GOOD_S: u64 = 60;
/// Bytes of a block of SHA-256 (RFC 2104).
const BLOCK: usize = 64;

/// Status and words.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) u16, pub(super) String);

/// The pairs of an action header.
#[derive(Debug)]
pub(super) struct Action(HashMap<String, String>);

impl Action {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn name(&self) -> &str {
        self.get("action").unwrap_or_default()
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let number = self.get(name).map(str::parse).transpose();
        number.map_err(|_| Refusal(400, format!("{name} is no number")))
    }
}

/// The action, if the signature is right, of now, and was never used.
pub(super) fn check(headers: &HeaderMap, path: &str, now_s: u64, seen: &mut HashSet<(u64, u64)>) -> Result<Action, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (action, data) = (text("x-akamai-acs-action"), text("x-akamai-acs-auth-data"));
    let refuse = |why: &str| Err(Refusal(403, why.to_owned()));
    let fields: Vec<&str> = data.split(',').map(str::trim).collect();
    let ["5", "0.0.0.0", "0.0.0.0", epoch_s, id, account] = fields[..] else { return refuse("no authentication data of version 5") };
    let (Ok(epoch_s), Ok(id)) = (epoch_s.parse::<u64>(), id.parse::<u64>()) else { return refuse("time or id is no number") };
    let expected = STANDARD.encode(hmac(KEY.as_bytes(), format!("{data}{path}\nx-akamai-acs-action:{action}\n").as_bytes()));
    // Real servers do not say which.
    if account != ACCOUNT || expected != text("x-akamai-acs-auth-sign") || epoch_s.abs_diff(now_s) > GOOD_S || !seen.insert((epoch_s, id)) {
        return refuse("");
    }
    let pairs = action.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let pairs: HashMap<String, String> = pairs.map(|(name, value)| (decoded(name), decoded(&value.replace('+', " ")))).collect();
    if pairs.get("version").map(String::as_str) != Some("1") || pairs.get("format").is_some_and(|format| format != "xml") {
        return Err(Refusal(400, "version or format is not known".to_owned()));
    }
    Ok(Action(pairs))
}

pub(super) fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// RFC 2104 with SHA-256.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let with = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(with(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(with(0x5c)).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4231() {
        let hex: String = hmac(b"Jefe", b"what do ya want for nothing?").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let hex: String =
            hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }
}
