//! Checks of `[[cap]]`.

use super::CapConfig;
use super::load::{Reader, Severity, Written};

/// Bounds of a cap, Mbit/s. The upper one is what a lane can be told (`tradewind_wire::orders`).
const RATE_MBPS: std::ops::RangeInclusive<u32> = 1..=4_000_000;
/// Bounds of a weight.
const WEIGHT: std::ops::RangeInclusive<f64> = 0.01..=100.0;
/// Below this a few packets are more than 2 % of a second.
const COARSE_MBPS: u32 = 5;

pub(super) fn resolve(written: &Written, reader: &mut Reader<'_>) -> Vec<CapConfig> {
    let mut caps: Vec<CapConfig> = Vec::new();
    for (section, &line) in written.cap.iter().zip(&written.cap_lines) {
        let (line, name) = (Some(line), &section.name);
        if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
            reader.error(line, "cap.name is 1 to 64 characters, none of them a control character");
        }
        if caps.iter().any(|cap| cap.name == *name) {
            reader.error(line, format!("cap '{name}' is there twice"));
        }
        if !RATE_MBPS.contains(&section.rate_mbps) {
            let (least, most) = (RATE_MBPS.start(), RATE_MBPS.end());
            reader.error(line, format!("cap '{name}': rate_mbps is {}, allowed are {least} to {most}", section.rate_mbps));
        } else if section.rate_mbps < COARSE_MBPS {
            let text = format!("cap '{name}': below {COARSE_MBPS} Mbit/s single packets may exceed the cap by more than 2 % in a second");
            reader.report(Severity::Warning, line, text);
        }
        for user in section.users.iter().flatten().filter(|user| !written.user.iter().any(|known| known.access_key == **user)) {
            reader.error(line, format!("cap '{name}' is for user '{user}', but there is no [[user]] with that access_key"));
        }
        for store in section.stores.iter().flatten().filter(|store| !written.stores.contains_key(*store)) {
            reader.error(line, format!("cap '{name}' is for store '{store}', but there is no [stores.{store}]"));
        }
        if [&section.users, &section.stores].into_iter().flatten().any(Vec::is_empty) {
            reader.error(line, format!("cap '{name}' covers nothing: an empty list of users or stores; leave it out to mean all"));
        }
        let weights = section.weights;
        for (policy, weight) in [("fixed", weights.fixed), ("high", weights.high), ("fair", weights.fair), ("low", weights.low)] {
            if !WEIGHT.contains(&weight) {
                let (least, most) = (WEIGHT.start(), WEIGHT.end());
                reader.error(line, format!("cap '{name}': weights.{policy} is {weight}, allowed are {least} to {most}"));
            }
        }
        // An earlier cap that covers all of this one's leaves it nothing to do.
        let wider = |outer: &Option<Vec<String>>, inner: &Option<Vec<String>>| match (outer, inner) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(outer), Some(inner)) => inner.iter().all(|name| outer.contains(name)),
        };
        if let Some(first) = caps.iter().find(|cap| wider(&cap.users, &section.users) && wider(&cap.stores, &section.stores)) {
            reader.error(line, format!("cap '{name}' never counts, for '{}' above it covers the same transfers; put it first", first.name));
        }
        caps.push(CapConfig {
            name: name.clone(),
            rate_kbps: u64::from(section.rate_mbps) * 1000,
            users: section.users.clone(),
            stores: section.stores.clone(),
            weights,
        });
    }
    caps
}
