//! A FAKE engine: speaks the engine's side of tradewind-ipc, opens no port and moves no data. What it answers to a lane depends
//! on the destination's name:
//!
//! `missing…` refuses with `bucket_missing`, `denied…` with `access_denied`, `silent…` is not answered, `die…` kills the process, `run…` reports
//! progress and then waits, `done…` reports progress, a file and the end. Everything else is opened and left alone.
//! Of every store it says that it holds `a`, `in/one`, `in/two` and `in/deep/three` until they are removed; keys with the first four
//! names are answered as above, and from the first that is not answered on it holds `asked` as well.
//! `FAKE_ENGINE_LOG` names a file to which it appends its arguments and `drain`. `FAKE_ENGINE_FAIL` makes it exit 7 at once.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::Write as _;

use tradewind_ipc::*;

fn main() {
    log(&std::env::args().collect::<Vec<_>>().join(" "));
    if std::env::var_os("FAKE_ENGINE_FAIL").is_some() {
        std::process::exit(7);
    }
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).expect(name).clone();
    let stream = inherited_stream(after("--control-fd").parse().unwrap()).expect("the control socket");
    let (mut control, _) = connect_control_sync(stream, "tradewind-fake-engine").expect("handshake");
    let address = after("--listen").parse().unwrap();
    let xdp = XdpStatus { mode: XdpMode::None, reason: Some("this is the fake engine".into()), zero_copy: false };
    let endpoints = vec![DataEndpoint { address }];
    control.send(&FromEngine::Ready(Ready { version: "0.0.0-fake".into(), endpoints, xdp, workers: 1, pool_bytes: 1 })).unwrap();
    let mut objects: BTreeSet<String> = ["a", "in/one", "in/two", "in/deep/three"].map(str::to_owned).into();
    while let Some(message) = control.recv().expect("a message") {
        match message {
            ToEngine::OpenLane(open) => {
                for answer in answers(&open) {
                    control.send(&answer).unwrap();
                }
            }
            ToEngine::CloseLane(lane) => control.send(&FromEngine::LaneFailed(lane)).unwrap(),
            ToEngine::Browse(browse) => {
                if let Some(answer) = browsed(&mut objects, &browse.question) {
                    control.send(&FromEngine::Browsed(Box::new(Browsed { request_id: browse.request_id, answer }))).unwrap();
                }
            }
            ToEngine::LaneGroups(_) | ToEngine::LaneRate(_) | ToEngine::Have { .. } | ToEngine::Verify(_) | ToEngine::StopVerify { .. } => {
            }
            ToEngine::LaneOrders(orders) => {
                for orders in orders {
                    control.send(&FromEngine::LaneReport(report(orders.lane_id, orders.number, orders.lease_kbps))).unwrap();
                }
            }
            ToEngine::Drain => {
                log("drain");
                return;
            }
            ToEngine::StatsRequest => control.send(&FromEngine::Stats(Stats::default())).unwrap(),
        }
    }
}

/// A sender that obeys at once and wants all it can get.
fn report(lane_id: u64, orders: u32, lease_kbps: Option<u32>) -> LaneReport {
    let limiter = Some(if lease_kbps.is_some() { Limiter::Lease } else { Limiter::Network });
    let kbps = lease_kbps.unwrap_or(1000);
    let (peer, silent_ms) = (std::net::Ipv4Addr::LOCALHOST.into(), 0);
    LaneReport { lane_id, orders, limiter, rate_kbps: kbps, sent_kbps: kbps, wanted_kbps: None, round_trip_us: 1500, peer, silent_ms }
}

fn answers(open: &OpenLane) -> Vec<FromEngine> {
    let lane_id = open.lane_id;
    let place = match &open.job {
        Job::Receive(into) | Job::Copy { into, .. } => &into.destination,
        Job::Send { source, .. } => source,
    };
    let (DestinationName::Into(name) | DestinationName::Exact(name)) = &place.name;
    let refused = |code| vec![FromEngine::LaneRefused(LaneClosed { lane_id, code, text: format!("fake refusal of {name}") })];
    let totals = LaneTotals { bytes_received: 10, bytes_durable: 5, packets_kernel: 3, ..LaneTotals::default() };
    let mut answers = vec![FromEngine::LaneOpened(LaneAccepted { lane_id, chunk_bytes: 1400, credit_blocks: 16, durable: None })];
    if name.starts_with("missing") {
        return refused(ErrorCode::BucketMissing);
    } else if name.starts_with("denied") {
        return refused(ErrorCode::AccessDenied);
    } else if name.starts_with("silent") {
        return Vec::new();
    } else if name.starts_with("die") {
        std::process::abort();
    } else if name.starts_with("run") {
        answers.push(FromEngine::Progress(Progress { lane_id, totals }));
        answers.push(FromEngine::LaneReport(report(lane_id, 0, None)));
    } else if name.starts_with("done") {
        answers.push(FromEngine::FileDone(FileDone { lane_id, path: name.clone(), size: 10, crc64: 1, etag: Some("\"e\"".into()) }));
        answers.push(FromEngine::LaneDone(LaneReceipt {
            lane_id,
            files: 1,
            bytes: 10,
            elapsed_ms: 1,
            totals,
            files_failed: 0,
            first_failure: None,
        }));
    }
    answers
}

fn browsed(objects: &mut BTreeSet<String>, question: &BrowseQuestion) -> Option<BrowseAnswer> {
    let (BrowseQuestion::List { prefix: name, .. } | BrowseQuestion::Stat { key: name } | BrowseQuestion::Remove { key: name }) = question;
    let refused = |code| Some(BrowseAnswer::Failed { code, text: format!("fake refusal of {name}") });
    if name.starts_with("missing") {
        return refused(ErrorCode::BucketMissing);
    } else if name.starts_with("denied") {
        return refused(ErrorCode::AccessDenied);
    } else if name.starts_with("silent") {
        objects.insert("asked".to_owned());
        return None;
    } else if name.starts_with("die") {
        std::process::abort();
    }
    Some(match question {
        BrowseQuestion::Stat { key } if objects.contains(key) => {
            BrowseAnswer::Object(ObjectDetails { size: key.len() as u64, crc64: Some(u64::MAX), ..ObjectDetails::default() })
        }
        BrowseQuestion::Remove { key } if objects.remove(key) => BrowseAnswer::Removed,
        BrowseQuestion::Stat { .. } | BrowseQuestion::Remove { .. } => BrowseAnswer::Missing,
        BrowseQuestion::List { prefix, after, limit, recursive } => {
            let of = |key: &String| match key[prefix.len()..].find('/') {
                Some(slash) if !recursive => {
                    ObjectEntry { name: key[..=prefix.len() + slash].to_owned(), folder: true, ..ObjectEntry::default() }
                }
                _ => ObjectEntry { name: key.clone(), size: key.len() as u64, ..ObjectEntry::default() },
            };
            let mut entries: Vec<ObjectEntry> = objects.iter().filter(|key| key.starts_with(prefix.as_str())).map(of).collect();
            entries.dedup();
            entries.retain(|entry| after.as_ref().is_none_or(|after| entry.name > *after));
            let more = entries.len() > *limit as usize;
            entries.truncate(*limit as usize);
            let next = if more { entries.last().map(|entry| entry.name.clone()) } else { None };
            BrowseAnswer::Page(ObjectPage { entries, next, unnameable: 0 })
        }
    })
}

fn log(line: &str) {
    if let Some(path) = std::env::var_os("FAKE_ENGINE_LOG") {
        writeln!(std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap(), "{line}").unwrap();
    }
}
