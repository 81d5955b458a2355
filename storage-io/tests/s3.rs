//! Uploads to an S3 server in this process, well-behaved and not. What is asserted is the state of the store, not only what we say.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::front::{BUCKET, Fault, Front, Op};
use common::listing::listing;
use common::{MIB, Outcome, all_given_back, all_kinds, assert_done, config, conformance, cut, listen, quick_retry, source, upload};
use tokio::sync::mpsc;
use tradewind_fabric::BlockPool;
use tradewind_storage::{
    Credentials, Deadlines, Depth, Dialect, ObjectKey, RetryPolicy, S3Config, S3Store, Store as _, StoreError, UploadError, Uploader,
    UploaderConfig, check_destination,
};

fn no_faults(_: Op, _: &str, _: usize) -> Fault {
    Fault::Pass
}

fn store_error(outcome: &Outcome) -> &StoreError {
    match &outcome.failed {
        Some(UploadError::Store(error)) => error,
        other => panic!("expected a store's error, got {other:?}"),
    }
}

#[tokio::test]
async fn conforms_in_both_dialects() {
    for verifies in [true, false] {
        let front = Front::start(verifies, no_faults).await;
        let store = front.store(Dialect::Auto);
        conformance(&*store, "p/", &|key| front.read(key)).await;
        assert_eq!(store.verifies_checksums(), Some(verifies));
        assert_eq!(front.open_uploads(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn lists_tells_and_deletes() {
    let front = Front::start(true, no_faults).await;
    listing(&*front.store(Dialect::Auto), "p/").await;
    let asked = front.seen(Op::List);
    assert!(asked.iter().all(|seen| seen.path.trim_end_matches('/') == format!("/{BUCKET}") && seen.status == 200), "{asked:?}");
}

#[tokio::test]
async fn what_may_not_be_listed_or_deleted_is_named() {
    let front = Front::start(true, |op, _, _| match op {
        Op::List | Op::Delete => Fault::Refuse(403, "AccessDenied"),
        _ => Fault::Pass,
    })
    .await;
    let store = front.store(Dialect::Auto);
    let refused = store.list("p/", None, 10, Depth::All).await;
    assert!(matches!(refused, Err(StoreError::AccessDenied { .. })), "{refused:?}");
    assert_done(&upload(store.clone(), config("p/"), &[source("there", 10)]).await, &[source("there", 10)]);
    let refused = store.delete(&ObjectKey::new(b"p/there").unwrap()).await;
    assert!(matches!(refused, Err(StoreError::AccessDenied { .. })), "{refused:?}");
    assert!(front.read("p/there").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_files_arrive_by_plain_requests() {
    let front = Front::start(true, no_faults).await;
    let sources = all_kinds();
    let outcome = upload(front.store(Dialect::Auto), config("in to/"), &sources).await;
    assert_done(&outcome, &sources);
    for source in &sources {
        assert!(front.read(&format!("in to/{}", source.path)).as_ref() == Some(&source.data), "{}", source.path);
    }
    assert!(outcome.done.iter().all(|(_, _, etag, _, verified)| *verified && etag.as_ref().is_some_and(|etag| !etag.contains('"'))));
    assert_eq!(front.open_uploads(), Vec::<String>::new());
    // Three parts after the two of the probe; every body with its length, unsigned, unchunked, with one checksum.
    let parts = front.seen(Op::Part);
    assert_eq!(parts.len(), 5);
    for seen in parts.iter().chain(&front.seen(Op::Put)) {
        let headers = &seen.headers;
        assert_eq!(headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
        assert!(headers.contains_key("content-length") && headers.contains_key("x-amz-checksum-crc64nvme"), "{headers:?}");
        for unwanted in ["content-md5", "content-encoding", "transfer-encoding", "x-amz-trailer", "x-amz-checksum-crc32"] {
            assert!(!headers.contains_key(unwanted), "{unwanted} in {headers:?}");
        }
    }
    let put = front.seen(Op::Put).into_iter().find(|seen| seen.path.ends_with("/one%20byte")).unwrap();
    assert_eq!((put.headers["if-none-match"].as_str(), put.headers["x-amz-meta-mode"].as_str()), ("*", "0100640"));
    assert_eq!(put.headers["x-amz-meta-mtime"], "1600000000.123456789");
    let complete = &front.seen(Op::Complete)[0].headers;
    assert_eq!((complete["if-none-match"].as_str(), complete["x-amz-checksum-type"].as_str()), ("*", "FULL_OBJECT"));
    assert_eq!(complete["x-amz-checksum-crc64nvme"], outcome.done.iter().find(|done| done.0 == "three parts").unwrap().3.to_base64());
}

#[tokio::test]
async fn a_legacy_server_gets_no_checksums_and_no_conditions() {
    let front = Front::start(false, no_faults).await;
    let sources = [source("large", 11 * MIB), source("small", 10)];
    let outcome = upload(front.store(Dialect::Legacy), config(""), &sources).await;
    assert_done(&outcome, &sources);
    assert!(outcome.done.iter().all(|done| !done.4), "nobody verified anything");
    for seen in [Op::Create, Op::Part, Op::Put, Op::Complete].into_iter().flat_map(|op| front.seen(op)) {
        let special = seen.headers.keys().find(|name| name.contains("checksum") || *name == "if-none-match" || name.contains("trailer"));
        assert_eq!(special, None, "{seen:?}");
    }
    let refused = upload(front.store(Dialect::Legacy), config(""), &sources).await;
    assert!(matches!(store_error(&refused), StoreError::DestinationExists { .. }), "{:?}", refused.failed);
}

#[tokio::test]
async fn throttling_is_waited_out_and_counted() {
    let faults = |op, _: &str, before| match op {
        Op::Part if before < 5 => Fault::Refuse(503, "SlowDown"),
        Op::Put | Op::Create | Op::Complete if before < 2 => Fault::Refuse(503, "SlowDown"),
        _ => Fault::Pass,
    };
    let front = Front::start(true, faults).await;
    let sources = [source("large", 11 * MIB), source("small", 10)];
    let outcome = upload(front.store(Dialect::Aws), config(""), &sources).await;
    assert_done(&outcome, &sources);
    assert_eq!((outcome.stats.retries, outcome.stats.throttled), (11, 11));
    assert!(front.read("large").as_ref() == Some(&sources[0].data));
}

#[tokio::test]
async fn a_store_far_away_is_asked_for_more_at_once_and_one_that_refuses_for_less() {
    // So far that the delay limits it, not the processor, which client and server share; however slow, no request is taken for lost.
    let deadlines = Deadlines { request_ms: 60_000, ..quick_retry().deadlines };
    let patient = || UploaderConfig { retry: RetryPolicy { deadlines, ..quick_retry() }, ..config("") };
    let sources: Vec<_> = (0..1000).map(|number| source(&format!("f{number}"), 100)).collect();
    let far = |delay_ms, at_once| {
        move |op, _: &str, _| if matches!(op, Op::Put | Op::Part) { Fault::Far(delay_ms, at_once) } else { Fault::Pass }
    };
    let front = Front::start(true, far(600, usize::MAX)).await;
    let outcome = upload(front.store(Dialect::Aws), patient(), &sources).await;
    assert_done(&outcome, &sources);
    assert!(front.most_waiting() > 48, "{} at once, 32 in the beginning", front.most_waiting());

    // Objects of one part, and parts.
    let large: Vec<_> = (0..150).map(|number| source(&format!("g{number}"), if number % 50 == 0 { 11 * MIB } else { 1_100_000 })).collect();
    let front = Front::start(true, far(1000, usize::MAX)).await;
    let outcome = upload(front.store(Dialect::Aws), patient(), &large).await;
    assert_done(&outcome, &large);
    assert!(front.most_waiting() > 12, "{} at once, 8 in the beginning", front.most_waiting());

    let front = Front::start(true, far(100, 20)).await;
    // As patient as in production beside what a request takes.
    let retry = RetryPolicy { tries_max: 30, pause_base_ms: 100, pause_max_ms: 2000, deadlines };
    let outcome = upload(front.store(Dialect::Aws), UploaderConfig { retry, ..config("") }, &sources).await;
    assert_done(&outcome, &sources);
    let throttled = outcome.stats.throttled;
    // Nothing but a limit keeps it from being asked for 256 at once; at 32 at once a third would be refused.
    assert!(throttled > 0 && throttled < 200, "{throttled} of 1000 refused");
}

#[tokio::test]
async fn the_slowest_part_is_asked_for_again() {
    let faults = |op, _: &str, before| if op == Op::Part && before == 10 { Fault::Stall } else { Fault::Pass };
    let sources = [source("large", 12 * 5 * MIB)];
    let patient = || UploaderConfig {
        retry: RetryPolicy { deadlines: Deadlines { request_ms: 300_000, ..quick_retry().deadlines }, ..quick_retry() },
        ..config("")
    };
    let front = Front::start(true, faults).await;
    let outcome = tokio::time::timeout(Duration::from_secs(120), upload(front.store(Dialect::Aws), patient(), &sources)).await;
    let outcome = outcome.expect("the part that hangs is not waited for");
    assert_done(&outcome, &sources);
    assert_eq!((outcome.stats.hedged, outcome.stats.retries), (1, 0));
    assert_eq!(front.seen(Op::Part).len(), 13);
    assert!(front.read("large").as_ref() == Some(&sources[0].data));
}

#[tokio::test]
async fn throttling_without_end_fails_and_aborts() {
    let faults = |op, _: &str, _| if op == Op::Part { Fault::Refuse(503, "SlowDown") } else { Fault::Pass };
    let front = Front::start(true, faults).await;
    let outcome = upload(front.store(Dialect::Aws), config(""), &[source("large", 11 * MIB)]).await;
    assert!(matches!(store_error(&outcome), StoreError::Throttled { .. }), "{:?}", outcome.failed);
    assert_eq!((outcome.stopped, outcome.finished), (Some((1, 0)), None));
    assert!(front.seen(Op::Part).len() <= 3 * quick_retry().tries_max as usize);
    assert_eq!((front.open_uploads(), front.read("large")), (Vec::new(), None));
}

#[tokio::test]
async fn refused_permission_is_final_and_named() {
    let faults = |op, _: &str, _| if op == Op::Part { Fault::Refuse(403, "AccessDenied") } else { Fault::Pass };
    let front = Front::start(true, faults).await;
    let outcome = upload(front.store(Dialect::Aws), config(""), &[source("large", 11 * MIB)]).await;
    assert!(matches!(store_error(&outcome), StoreError::AccessDenied { .. }), "{:?}", outcome.failed);
    assert_eq!((outcome.stats.retries, outcome.stopped), (0, Some((1, 0))));
    assert_eq!((front.open_uploads(), front.read("large")), (Vec::new(), None));
}

#[tokio::test]
async fn cut_connections_and_lost_answers_change_nothing() {
    for fault in [Fault::Reset, Fault::LoseAnswer] {
        let front = Front::start(true, move |_, _: &str, before| if before == 0 { fault } else { Fault::Pass }).await;
        let sources = [source("large", 11 * MIB), source("small", 10)];
        let outcome = upload(front.store(Dialect::Aws), config(""), &sources).await;
        assert_done(&outcome, &sources);
        assert!(outcome.stats.retries >= 4, "{fault:?}: {:?}", outcome.stats);
        assert!(front.read("large").as_ref() == Some(&sources[0].data));
        assert!(front.read("small").as_ref() == Some(&sources[1].data));
    }
}

#[tokio::test]
async fn an_error_inside_a_200_is_an_error() {
    let once =
        Front::start(true, |op, _: &str, before| if op == Op::Complete && before == 0 { Fault::ErrorInBody } else { Fault::Pass }).await;
    let sources = [source("large", 11 * MIB)];
    let outcome = upload(once.store(Dialect::Aws), config(""), &sources).await;
    assert_done(&outcome, &sources);
    assert_eq!(outcome.stats.retries, 1);

    let always = Front::start(true, |op, _: &str, _| if op == Op::Complete { Fault::ErrorInBody } else { Fault::Pass }).await;
    let outcome = upload(always.store(Dialect::Aws), config(""), &sources).await;
    assert!(matches!(store_error(&outcome), StoreError::Unavailable { .. }), "{:?}", outcome.failed);
    assert_eq!((outcome.done.len(), outcome.stopped), (0, Some((1, 0))));
    assert_eq!((always.open_uploads(), always.read("large")), (Vec::new(), None));
}

#[tokio::test]
async fn a_bit_flipped_on_the_way_is_found_by_the_store_and_sent_again() {
    let faults = |op, _: &str, before| if matches!(op, Op::Part | Op::Put) && before == 0 { Fault::FlipBit } else { Fault::Pass };
    let front = Front::start(true, faults).await;
    let sources = [source("large", 11 * MIB), source("small", 10)];
    let outcome = upload(front.store(Dialect::Aws), config(""), &sources).await;
    assert_done(&outcome, &sources);
    assert_eq!(outcome.stats.retries, 2);
    assert!(front.read("large").as_ref() == Some(&sources[0].data));
    assert!(front.read("small").as_ref() == Some(&sources[1].data));
}

#[tokio::test]
async fn what_exists_stays_unless_overwriting_is_asked_for() {
    let front = Front::start(true, no_faults).await;
    std::fs::write(front.path_of("f"), b"precious").unwrap();
    for len in [10, 11 * MIB] {
        let outcome = upload(front.store(Dialect::Aws), config(""), &[source("f", len)]).await;
        assert!(matches!(store_error(&outcome), StoreError::DestinationExists { .. }), "{:?}", outcome.failed);
        assert_eq!(front.read("f").as_deref(), Some(&b"precious"[..]));
    }
    assert!(front.seen(Op::Create).is_empty() && front.seen(Op::Put).is_empty(), "it was found by looking");
    let sources = [source("f", 11 * MIB)];
    assert_done(&upload(front.store(Dialect::Aws), UploaderConfig { overwrite: true, ..config("") }, &sources).await, &sources);
    assert!(front.read("f").as_ref() == Some(&sources[0].data));
}

#[tokio::test]
async fn somebody_elses_object_that_appears_in_between_stays() {
    let front =
        Front::start(true, |op, _: &str, _| if op == Op::Complete { Fault::Refuse(412, "PreconditionFailed") } else { Fault::Pass }).await;
    let outcome = upload(front.store(Dialect::Aws), config(""), &[source("f", 11 * MIB)]).await;
    assert!(matches!(store_error(&outcome), StoreError::DestinationExists { .. }), "{:?}", outcome.failed);
    assert_eq!((outcome.stopped, front.open_uploads()), (Some((1, 0)), Vec::new()));
}

#[tokio::test]
async fn a_server_without_conditional_writes_is_noticed() {
    for (op, len) in [(Op::Put, 10), (Op::Complete, 11 * MIB)] {
        let faults =
            move |seen, _: &str, before| if seen == op && before == 0 { Fault::Refuse(501, "NotImplemented") } else { Fault::Pass };
        let front = Front::start(true, faults).await;
        let store = front.store(Dialect::Auto);
        assert_done(&upload(store.clone(), config(""), &[source("f", len)]).await, &[source("f", len)]);
        let requests = front.seen(op);
        assert!(requests[0].headers.contains_key("if-none-match") && !requests[1].headers.contains_key("if-none-match"));
        // Looking still protects what exists.
        let refused = upload(store, config(""), &[source("f", len)]).await;
        assert!(matches!(store_error(&refused), StoreError::DestinationExists { .. }), "{:?}", refused.failed);
        // Whoever insists on the dialect is told.
        let front = Front::start(true, faults).await;
        let refused = upload(front.store(Dialect::Aws), config(""), &[source("f", len)]).await;
        assert!(matches!(store_error(&refused), StoreError::NotSupported { .. }), "{:?}", refused.failed);
    }
}

/// Looking before each of many small writes costs as many requests as the writes: only where the server does not refuse by itself.
#[tokio::test]
async fn a_server_that_proves_its_conditions_is_not_looked_at_before_small_writes() {
    let sources: Vec<_> = (0..400).map(|number| source(&format!("f{number}"), 100)).collect();
    for keeps in [false, true] {
        let front = Front::start(true, move |op, _: &str, _| if op == Op::Put && !keeps { Fault::Replace } else { Fault::Pass }).await;
        let store = front.store(Dialect::Auto);
        assert_done(&upload(store.clone(), config(""), &sources).await, &sources);
        let (looks, puts) = (front.seen(Op::Head).len(), front.seen(Op::Put).len());
        assert_eq!((store.keeps_conditions(), puts), (keeps, 401), "one of them twice");
        assert!(if keeps { (64..200).contains(&looks) } else { looks == 400 }, "{looks} looks");
        for source in &sources {
            assert!(front.read(&source.path).as_ref() == Some(&source.data));
        }
        // What exists stays, by the look or by the refusal.
        let refused = upload(store.clone(), config(""), &[source("f7", 99)]).await;
        assert!(matches!(store_error(&refused), StoreError::DestinationExists { .. }), "{:?}", refused.failed);
        // A large one is looked for before its bytes are sent.
        let before = front.seen(Op::Put).len();
        let refused = upload(store, config(""), &[source("f8", 300_000)]).await;
        assert!(matches!(store_error(&refused), StoreError::DestinationExists { .. }), "{:?}", refused.failed);
        assert_eq!(front.seen(Op::Put).len(), before);
        assert_eq!(front.read("f8").as_ref(), Some(&sources[8].data));
    }
}

#[tokio::test]
async fn a_store_that_never_answers_meets_the_deadline_and_the_clean_up_does_too() {
    let faults = |op, _: &str, _| if matches!(op, Op::Part | Op::Abort) { Fault::Stall } else { Fault::Pass };
    let front = Front::start(true, faults).await;
    let retry = RetryPolicy { tries_max: 2, deadlines: Deadlines { request_ms: 1000, bytes_per_s_min: 1 << 30 }, ..quick_retry() };
    let settings = UploaderConfig { retry, cleanup_ms: 600, ..config("") };
    let started = std::time::Instant::now();
    let outcome = upload(front.store(Dialect::Aws), settings, &[source("large", 11 * MIB)]).await;
    assert!(matches!(store_error(&outcome), StoreError::Timeout { .. }), "{:?}", outcome.failed);
    assert_eq!(outcome.stopped, Some((0, 1)), "what could not be aborted is said");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn cancelling_and_dropping_abort_what_is_open() {
    for dropping in [false, true] {
        let front = Front::start(true, |op, _: &str, before| if op == Op::Part && before > 0 { Fault::Stall } else { Fault::Pass }).await;
        let pool = BlockPool::new(16, MIB).unwrap();
        let (sender, mut events) = mpsc::unbounded_channel();
        let uploader = Uploader::start(&tokio::runtime::Handle::current(), front.store(Dialect::Aws), config(""), None, sender);
        for block in cut(&pool, &[source("large", 11 * MIB)]) {
            uploader.block(block);
        }
        // The first part is stored, the others hang.
        let first = tokio::time::timeout(common::PATIENCE, events.recv()).await.unwrap();
        assert!(matches!(first, Some(tradewind_storage::UploadEvent::BlockDurable(_))), "{first:?}");
        let stats = Arc::clone(uploader.stats());
        let outcome = if dropping {
            drop(uploader);
            let (quiet, _inbox) = mpsc::unbounded_channel();
            let other = Uploader::start(&tokio::runtime::Handle::current(), front.store(Dialect::Aws), config(""), None, quiet);
            listen(other, events).await
        } else {
            uploader.cancel();
            listen(uploader, events).await
        };
        assert!(matches!(outcome.failed, Some(UploadError::Cancelled)), "{:?}", outcome.failed);
        assert_eq!(outcome.stopped, Some((1, 0)));
        assert_eq!((front.open_uploads(), front.read("large")), (Vec::new(), None));
        all_given_back(&pool, &stats).await;
    }
}

#[tokio::test]
async fn destinations_are_checked_before_the_transfer() {
    let front = Front::start(true, no_faults).await;
    let check = |config: S3Config| async move {
        let store = S3Store::open(&config).unwrap();
        let policy = RetryPolicy { tries_max: 2, ..quick_retry() };
        check_destination(&store, "a/b/", &policy).await
    };
    check(front.config()).await.unwrap();
    assert_eq!(front.open_uploads(), Vec::<String>::new());
    assert_eq!(front.seen(Op::Create)[0].path, format!("/{BUCKET}/a/b/.tradewind-probe"));
    let missing = check(S3Config { bucket: "nothing-here".into(), ..front.config() }).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    for (access, secret) in [("key", "wrong-secret"), ("unknown", "secret")] {
        let error = check(S3Config { credentials: Credentials::new(access, secret), ..front.config() }).await.unwrap_err();
        assert!(matches!(error, StoreError::BadCredentials { .. } | StoreError::AccessDenied { .. }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("wrong-secret"));
    }
    // Nobody listens on the port of a listener that is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = check(S3Config { endpoint: Some(format!("http://{gone}")), ..front.config() }).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");

    let readonly =
        Front::start(true, |op, _: &str, _| if op == Op::Create { Fault::Refuse(403, "AccessDenied") } else { Fault::Pass }).await;
    let error = check(readonly.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::AccessDenied { .. }), "{error:?}");
    // May write and not list: HEAD of the bucket is refused, and that is no obstacle.
    let blind = Front::start(true, |op, _: &str, _| if op == Op::HeadBucket { Fault::Refuse(403, "") } else { Fault::Pass }).await;
    check(blind.config()).await.unwrap();
}
