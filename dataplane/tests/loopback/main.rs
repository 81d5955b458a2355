//! The real engine process and the real client over loopback UDP, into a local store. The test plays the control process.
//! What this cannot see: AF_XDP (it runs on the kernel's socket), loss, TLS and REST.

mod copy;
mod engine;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::Engine;
use tradewind_client::{Cipher, Durable, LaneOffer, Policy, RateOptions, Source, Sources, Upload, UploadError, UploadReport};
use tradewind_ipc::{DestinationName, ErrorCode, FromEngine, LaneClosed, LaneGroup, LaneOrders, Limiter, RatePolicy, ToEngine};

fn upload(offer: LaneOffer, sources: Vec<Source>) -> Upload {
    let rate = RateOptions {
        policy: Policy::Fair,
        target_bytes_per_s: Some(50_000_000),
        minimum_bytes_per_s: None,
        lease_bytes_per_s: None,
        group: None,
        initial_round_trip: None,
    };
    Upload {
        lane: offer,
        sources: Sources::of(sources).unwrap(),
        durable: Durable::default(),
        on_problem: Box::new(|_| ()),
        rate,
        cancel: Arc::new(AtomicBool::new(false)),
        idle_timeout: Duration::from_secs(30),
    }
}

/// A lane of this engine for one file of these contents, which becomes `f` in a directory.
async fn one_file(engine: &mut Engine, from: &Path, to: &Path, contents: &[u8]) -> Upload {
    let path = from.join("f");
    std::fs::write(&path, contents).unwrap();
    let offer = engine.open_lane(to, DestinationName::Exact("f".to_owned()), Cipher::Aes128Gcm).await.unwrap();
    upload(offer, vec![Source::file(path, b"f".to_vec())])
}

async fn run(upload: Upload) -> Result<UploadReport, UploadError> {
    tokio::task::spawn_blocking(move || upload.run(|_| ())).await.unwrap()
}

fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_arrive_bit_exact_with_their_times_and_modes() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut sources = Vec::new();
    for (name, count) in [("a.bin", 5_000_000), ("empty", 0), ("deep/er/b", 1), ("exactly", 1 << 20), ("c", 100_000)] {
        let path = from.path().join(name.replace('/', "-"));
        std::fs::write(&path, bytes(count)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        sources.push(Source::file(path, name.into()));
    }
    let mut engine = Engine::start().await;
    for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm] {
        let prefix = format!("{cipher:?}/");
        let offer = engine.open_lane(to.path(), DestinationName::Into(prefix.clone()), cipher).await.unwrap();
        let report = run(upload(offer, sources.clone())).await.unwrap();
        assert_eq!(report.files, 5);
        let FromEngine::LaneDone(receipt) = engine.last_word().await else { panic!("the lane failed") };
        assert_eq!((receipt.files, receipt.bytes), (5, 6_148_577));
        assert!(receipt.totals.packets_kernel > 3000);
        for source in &sources {
            let stored = to.path().join(&prefix).join(String::from_utf8(source.name.clone()).unwrap());
            assert_eq!(std::fs::read(&stored).unwrap(), std::fs::read(&source.path).unwrap(), "{}", stored.display());
            let (ours, theirs) = (std::fs::metadata(&source.path).unwrap(), std::fs::metadata(&stored).unwrap());
            assert_eq!(ours.modified().unwrap(), theirs.modified().unwrap());
            assert_eq!(theirs.permissions().mode() & 0o777, 0o640);
        }
    }
    engine.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_stays_there_unless_overwriting_was_asked_for() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(to.path().join("f"), b"old").unwrap();
    let mut engine = Engine::start().await;
    let upload = one_file(&mut engine, from.path(), to.path(), b"new").await;
    let error = run(upload).await.unwrap_err();
    assert!(matches!(&error, UploadError::Refused { text, .. } if text.contains("destination_exists")), "{error}");
    let FromEngine::LaneFailed(why) = engine.last_word().await else { panic!("it was stored") };
    assert_eq!(why.code, ErrorCode::DestinationExists);
    assert_eq!(std::fs::read(to.path().join("f")).unwrap(), b"old");
    engine.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_destination_is_refused_before_anything_is_sent() {
    let to = tempfile::tempdir().unwrap();
    let mut engine = Engine::start().await;
    let missing = to.path().join("missing");
    let why = engine.open_lane(&missing, DestinationName::Into(String::new()), Cipher::Aes128Gcm).await.unwrap_err();
    assert_eq!(why.code, ErrorCode::BucketMissing, "{}", why.text);
    engine.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_gets_no_answer_and_stores_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = Engine::start().await;
    let mut upload = one_file(&mut engine, from.path(), to.path(), &bytes(10_000)).await;
    upload.lane.secret[31] ^= 1;
    let lane_id = upload.lane.lane_id;
    upload.idle_timeout = Duration::from_secs(1);
    assert!(matches!(run(upload).await.unwrap_err(), UploadError::NoAnswer { .. }));
    let why = LaneClosed { lane_id, code: ErrorCode::Cancelled, text: "test".to_owned() };
    engine.send(ToEngine::CloseLane(why)).await;
    let FromEngine::LaneFailed(why) = engine.last_word().await else { panic!("it was stored") };
    assert_eq!(why.code, ErrorCode::Cancelled);
    assert!(!to.path().join("f").exists());
    engine.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_or_changed_source_leaves_nothing_half() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("f");
    std::fs::write(&path, bytes(40 << 20)).unwrap();
    let mut engine = Engine::start().await;
    for change in [false, true] {
        let offer = engine.open_lane(to.path(), DestinationName::Exact("f".to_owned()), Cipher::Aes128Gcm).await.unwrap();
        let mut upload = upload(offer, vec![Source::file(path.clone(), b"f".to_vec())]);
        upload.rate.target_bytes_per_s = Some(20_000_000);
        let cancel = Arc::clone(&upload.cancel);
        let path = path.clone();
        let result = tokio::task::spawn_blocking(move || {
            upload.run(|progress| {
                if progress.bytes_sent > 1 << 20 {
                    if change {
                        std::fs::File::options().write(true).open(&path).unwrap().set_len(30 << 20).unwrap();
                    } else {
                        cancel.store(true, Ordering::Relaxed);
                    }
                }
            })
        })
        .await
        .unwrap();
        let last = engine.last_word().await;
        if change {
            let report = result.unwrap();
            assert_eq!((report.files, report.files_failed), (0, 1));
            assert!(matches!(last, FromEngine::LaneDone(receipt) if receipt.files == 0));
        } else {
            assert!(matches!(result, Err(UploadError::Cancelled)), "{result:?}");
            assert!(matches!(last, FromEngine::LaneFailed(why) if why.code == ErrorCode::Cancelled));
        }
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0, "partial files were left behind");
    }
    engine.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_in_a_group_is_reported_more_often() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = Engine::start().await;
    let mut upload = one_file(&mut engine, from.path(), to.path(), &bytes(24 << 20)).await;
    let lane_id = upload.lane.lane_id;
    upload.rate.target_bytes_per_s = Some(1 << 20);
    let running = tokio::spawn(run(upload));
    engine.report(|report| report.rate_kbps > 8_000).await;
    let mut seconds = Vec::new();
    for lanes in [None, Some(2), Some(1)] {
        if let Some(lanes) = lanes {
            engine.send(ToEngine::LaneGroups(vec![LaneGroup { lane_id, number: 3 - u32::from(lanes), share_kbps: 20_000, lanes }])).await;
        }
        // A machine that is busy makes a few reports late, and not all of many: one measurement as it should be is enough.
        let is_often = lanes == Some(2);
        let mut took = Vec::new();
        while took.len() < 4 && !took.last().is_some_and(|&last| if is_often { last < 0.7 } else { last > 1.0 }) {
            engine.report(|_| true).await;
            let start = Instant::now();
            for _ in 0..3 {
                engine.report(|_| true).await;
            }
            took.push(start.elapsed().as_secs_f64());
        }
        seconds.push(took);
    }
    let last = |at: usize| seconds[at][seconds[at].len() - 1];
    assert!(last(0) > 1.0 && last(1) < 0.7 && last(2) > 1.0, "three reports took {seconds:?} s");
    // The rest may come fast.
    let (policy, target_kbps) = (RatePolicy::Fixed, Some(400_000));
    let orders = LaneOrders { lane_id, number: 1, policy, target_kbps, minimum_kbps: 0, lease_kbps: None };
    engine.send(ToEngine::LaneOrders(vec![orders])).await;
    running.await.unwrap().unwrap();
    let FromEngine::LaneDone(_) = engine.last_word().await else { panic!("the lane failed") };
    engine.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_reach_the_sender_and_its_word_comes_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = Engine::start().await;
    let mut upload = one_file(&mut engine, from.path(), to.path(), &bytes(20 << 20)).await;
    let lane_id = upload.lane.lane_id;
    // The lane begins with a lease of nothing: only orders let it go.
    upload.rate.lease_bytes_per_s = Some(0);
    let running = tokio::spawn(run(upload));
    let first = engine.report(|report| report.limiter == Some(Limiter::Lease) && report.silent_ms < 1_000).await;
    assert_eq!((first.orders, first.rate_kbps, first.sent_kbps / 100), (0, 0, 0));
    assert!(first.peer.is_loopback(), "{first:?}");
    let orders = |number, target_kbps, lease_kbps| {
        let policy = RatePolicy::Fixed;
        ToEngine::LaneOrders(vec![LaneOrders { lane_id, number, policy, target_kbps: Some(target_kbps), minimum_kbps: 0, lease_kbps }])
    };
    engine.send(orders(1, 30_000, Some(20_000))).await;
    let slow = engine.report(|report| report.orders == 1 && report.sent_kbps > 18_000).await;
    assert_eq!((slow.limiter, slow.rate_kbps, slow.wanted_kbps), (Some(Limiter::Lease), 20_000, Some(30_000)));
    assert!(slow.sent_kbps <= 22_000, "{slow:?}");
    engine.send(orders(3, 400_000, None)).await;
    // An older order that comes late changes nothing.
    engine.send(orders(2, 8, Some(8))).await;
    let fast = engine.report(|report| report.orders == 3).await;
    assert_eq!(fast.rate_kbps, 400_000);
    running.await.unwrap().unwrap();
    let FromEngine::LaneDone(receipt) = engine.last_word().await else { panic!("the lane failed") };
    assert_eq!(receipt.bytes, 20 << 20);
    // A lane that has ended ignores orders.
    engine.send(orders(4, 8, None)).await;
    engine.drain().await;
}
