//! Secrets that cross the socket: never printed, wiped when dropped.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of a lane's secret in bytes (transport.md, "Keys").
pub const LANE_SECRET_BYTES: usize = 32;

/// The secret of one lane, from which both ends derive the lane's packet keys. Travels as base64, prints as `LaneSecret(…)`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct LaneSecret([u8; LANE_SECRET_BYTES]);

impl LaneSecret {
    /// Wraps the bytes; the caller's copy stays the caller's to wipe.
    #[must_use]
    pub const fn new(bytes: [u8; LANE_SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves, for the key schedule.
    #[must_use]
    pub const fn expose(&self) -> &[u8; LANE_SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for LaneSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneSecret(…)")
    }
}

impl Serialize for LaneSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(STANDARD.encode(self.0));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for LaneSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = Zeroizing::new(STANDARD.decode(text.as_bytes()).map_err(|_| D::Error::custom("a lane secret is base64"))?);
        let array: [u8; LANE_SECRET_BYTES] =
            bytes.as_slice().try_into().map_err(|_| D::Error::custom("a lane secret is 32 bytes of base64"))?;
        Ok(Self(array))
    }
}

/// A secret text: a store's secret key, a session token. Prints as `SecretText(…)`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Takes ownership of the text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True where nothing is there to keep secret.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let lane = LaneSecret::new([0xab; 32]);
        let text = SecretText::from("hunter2");
        let shown = format!("{lane:?} {text:?}");
        assert_eq!(shown, "LaneSecret(…) SecretText(…)");
    }

    #[test]
    fn lane_secret_survives_json_and_only_32_bytes_do() {
        let secret = LaneSecret::new(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        let json = serde_json::to_string(&secret).unwrap();
        assert_eq!(json, "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"");
        assert_eq!(serde_json::from_str::<LaneSecret>(&json).unwrap(), secret);
        for bytes in [31, 33] {
            let wrong = serde_json::to_string(&STANDARD.encode(vec![7; bytes])).unwrap();
            assert!(serde_json::from_str::<LaneSecret>(&wrong).is_err(), "{bytes} bytes");
        }
    }
}
