//! The signature of a request (Akamai TechDocs, NetStorage Usage API, "Each call needs signature header authentication"), version 5.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Values of the two headers that show who asks.
pub(super) struct Signed {
    /// `X-Akamai-ACS-Auth-Data`.
    pub(super) data: String,
    /// `X-Akamai-ACS-Auth-Sign`.
    pub(super) sign: String,
}

/// Signs an action on a path, which is percent-encoded as it is sent. `id` tells apart requests of the same second.
pub(super) fn sign(key: &hmac::Key, account: &str, epoch_s: u64, id: u64, path: &str, action: &str) -> Signed {
    let data = format!("5, 0.0.0.0, 0.0.0.0, {epoch_s}, {id}, {account}");
    let text = format!("{data}{path}\nx-akamai-acs-action:{action}\n");
    let sign = STANDARD.encode(hmac::sign(key, text.as_bytes()));
    Signed { data, sign }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Example authentication headers" of the same documentation.
    #[test]
    fn the_vector_that_akamai_publishes() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"abcdefghij");
        let action = "version=1&action=upload&md5=0123456789abcdef0123456789abcdef&mtime=1260000000";
        let signed = sign(&key, "UploadAccountMedia", 1_280_000_000, 382_644_692, "/123456/files_baseball/sweep.m4a", action);
        assert_eq!(signed.data, "5, 0.0.0.0, 0.0.0.0, 1280000000, 382644692, UploadAccountMedia");
        assert_eq!(signed.sign, "yh1MXm/rv7RKZhfKlTuSUBV69Acph5IyOWCU0/nFjms=");
        let other = sign(&key, "UploadAccountMedia", 1_280_000_001, 382_644_692, "/123456/files_baseball/sweep.m4a", action);
        assert_ne!(other.sign, signed.sign);
    }
}
