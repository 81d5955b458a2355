//! How fast a transfer may go, how fast it goes, and how to change that while it runs.

use serde::{Deserialize, Deserializer, Serialize};
use tradewind_ipc::{Limiter, RatePolicy};

use crate::limits::{RATE_BPS_MAX, RATE_BPS_MIN, REQUEST_BODY_BYTES_MAX};
use crate::problem::{ApiCode, Problem};
use crate::types::RateRequest;

/// How a lane's sender begins. Rates in bits per second of IP packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateGrant {
    /// Behaviour beside other traffic.
    pub policy: RatePolicy,
    /// Upper bound: what was asked for, but never above the server's cap. `None`: none.
    pub target_rate_bps: Option<u64>,
    /// Lower bound, kept even when the network is full. `None`: none.
    pub minimum_rate_bps: Option<u64>,
    /// The transfer's share of the server's cap for now; 0: send no data yet. `None`: no cap.
    pub lease_rate_bps: Option<u64>,
    /// Its part of what the transfers from this client's address send together. `None`: there are no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupShare>,
}

/// A transfer among others between the same two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupShare {
    /// Its part by weight, bits per second of IP packets.
    pub share_rate_bps: u64,
    /// How many they are, this one included.
    pub lanes: u16,
}

/// How fast a transfer may and does go. Rates in bits per second of IP packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateStatus {
    /// Behaviour beside other traffic.
    pub policy: RatePolicy,
    /// Upper bound; `None`: none.
    pub target_rate_bps: Option<u64>,
    /// Lower bound; `None`: none.
    pub minimum_rate_bps: Option<u64>,
    /// Name of the server's cap that it is under, if any.
    pub cap: Option<String>,
    /// Its share of that cap now.
    pub lease_rate_bps: Option<u64>,
    /// Its part of what the transfers from this client's address send together, if there are others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupShare>,
    /// What limits it: `network`, `storage`, `target`, `lease` or `source`; `None` before its sender has said so and after the end.
    pub limiter: Option<Limiter>,
    /// What its sender may send now.
    pub allowed_rate_bps: Option<u64>,
    /// What its sender did send, over the last tenth of a second or so.
    pub sent_rate_bps: Option<u64>,
    /// Round-trip time that its sender sees, microseconds.
    pub round_trip_us: Option<u64>,
    /// The sender has obeyed the newest policy and rates.
    pub in_force: bool,
}

/// `PATCH /v1/transfers/{id}`: what is left out stays; `null` takes a bound away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateChange {
    /// Behaviour beside other traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RatePolicy>,
    /// Upper bound, bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub target_rate_bps: Option<Option<u64>>,
    /// Lower bound, bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub minimum_rate_bps: Option<Option<u64>>,
}

/// A field that is there, be it `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl RateChange {
    /// The bytes of a `PATCH` body. Whether the values make sense shows in [`RateChange::applied_to`].
    ///
    /// # Errors
    /// [`ApiCode::BodyTooLarge`], [`ApiCode::Malformed`] with line and column, [`ApiCode::Invalid`] for a change of nothing.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.len() > REQUEST_BODY_BYTES_MAX {
            return Err(Problem::new(ApiCode::BodyTooLarge, format!("the body has more than {REQUEST_BODY_BYTES_MAX} bytes")));
        }
        let change: Self = serde_json::from_slice(body).map_err(|e| Problem::new(ApiCode::Malformed, format!("the body: {e}")))?;
        if change == Self::default() {
            let detail = "nothing is to be changed: give policy, target_rate_bps or minimum_rate_bps";
            return Err(Problem::new(ApiCode::Invalid, detail));
        }
        Ok(change)
    }

    /// The rates after the change.
    ///
    /// # Errors
    /// [`ApiCode::Invalid`] if they make no sense together.
    pub fn applied_to(self, rate: RateRequest) -> Result<RateRequest, Problem> {
        let changed = RateRequest {
            policy: self.policy.unwrap_or(rate.policy),
            target_rate_bps: self.target_rate_bps.unwrap_or(rate.target_rate_bps),
            minimum_rate_bps: self.minimum_rate_bps.unwrap_or(rate.minimum_rate_bps),
        };
        check_rate(changed)?;
        Ok(changed)
    }
}

/// Whether rates are in range and go together.
pub(crate) fn check_rate(rate: RateRequest) -> Result<(), Problem> {
    let invalid = |detail: String| Err(Problem::new(ApiCode::Invalid, detail));
    for (name, value) in [("target_rate_bps", rate.target_rate_bps), ("minimum_rate_bps", rate.minimum_rate_bps)] {
        if let Some(value) = value.filter(|v| !(RATE_BPS_MIN..=RATE_BPS_MAX).contains(v)) {
            return invalid(format!("rate.{name} is {value} bit/s, allowed are {RATE_BPS_MIN} to {RATE_BPS_MAX}"));
        }
    }
    match (rate.policy, rate.target_rate_bps, rate.minimum_rate_bps) {
        (RatePolicy::Fixed, None, _) => invalid("the fixed policy needs rate.target_rate_bps".to_owned()),
        (_, Some(target), Some(minimum)) if minimum > target => {
            invalid(format!("rate.minimum_rate_bps ({minimum}) is above rate.target_rate_bps ({target})"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_stays_and_null_takes_away() {
        let rate = RateRequest { policy: RatePolicy::High, target_rate_bps: Some(2_000_000), minimum_rate_bps: Some(1_000_000) };
        let change = RateChange::parse(br#"{"target_rate_bps":3000000,"minimum_rate_bps":null}"#).unwrap();
        let changed = change.applied_to(rate).unwrap();
        assert_eq!(changed, RateRequest { policy: RatePolicy::High, target_rate_bps: Some(3_000_000), minimum_rate_bps: None });
        assert_eq!(serde_json::to_string(&change).unwrap(), r#"{"target_rate_bps":3000000,"minimum_rate_bps":null}"#);
    }

    #[test]
    fn senseless_changes_are_refused() {
        let code =
            |body: &str| RateChange::parse(body.as_bytes()).and_then(|change| change.applied_to(RateRequest::default())).unwrap_err().code;
        for body in ["", "{", r#"{"polic":"low"}"#, r#"{"policy":"greedy"}"#, r#"{"target_rate_bps":-1}"#] {
            assert_eq!(code(body), ApiCode::Malformed.into(), "{body}");
        }
        for body in [
            "{}",
            r#"{"policy":"fixed"}"#,
            r#"{"target_rate_bps":1}"#,
            r#"{"target_rate_bps":8000,"minimum_rate_bps":9000}"#,
            r#"{"policy":"fixed","target_rate_bps":null}"#,
        ] {
            assert_eq!(code(body), ApiCode::Invalid.into(), "{body}");
        }
        let long = vec![b' '; REQUEST_BODY_BYTES_MAX + 1];
        assert_eq!(RateChange::parse(&long).unwrap_err().code, ApiCode::BodyTooLarge.into());
    }
}
