//! The REST interface over real TLS with the typed client, and the supervisor with a real process that is a FAKE engine.
//! Cannot see: packets, stores.

mod support;

use std::time::Duration;

use support::{Server, to, wait_for_engine};
use tradewind_api::*;

fn code(error: &ClientError) -> ProblemCode {
    match error {
        ClientError::Refused(problem) => problem.code.clone(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_transfer_from_submission_to_its_end() {
    let server = Server::start("").await;
    let client = server.ready().await;

    let (answer, address) = client.submit(&to("data:done")).await.unwrap();
    let lane = &answer.lanes[0];
    assert_eq!((lane.chunk_bytes, lane.credit_blocks, lane.block_bytes), (1400, 16, 1 << 20));
    assert_eq!(lane.socket_addresses(address), ["127.0.0.1:33999".parse().unwrap()], "0.0.0.0 is replaced by where we connected");
    for _ in 0..100 {
        if client.status(&answer.transfer_id).await.unwrap().state.is_final() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = client.status(&answer.transfer_id).await.unwrap();
    assert_eq!((status.state, status.totals.bytes_durable, status.files.len()), (TransferState::Done, 5, 1));

    let (running, _) = client.submit(&to("data:run")).await.unwrap();
    assert_eq!(client.list().await.unwrap().transfers.len(), 2);
    let cancelled = client.cancel(&running.transfer_id).await.unwrap();
    assert_eq!((cancelled.state, cancelled.outcome.unwrap().code), (TransferState::Cancelled, ErrorCode::Cancelled));
    assert_ne!(running.lanes[0].secret, lane.secret);
}

#[tokio::test]
async fn refusals_carry_code_status_and_hint() {
    let server = Server::start("").await;
    let client = server.ready().await;
    for (destination, expected, status) in [
        ("data:missing", ProblemCode::from(ErrorCode::BucketMissing), 404),
        ("data:denied", ErrorCode::AccessDenied.into(), 403),
        ("data:../x", ErrorCode::DestinationInvalid.into(), 422),
        ("nowhere:x", ApiCode::StoreUnknown.into(), 403),
        ("s3://bucket/x", ApiCode::StoreUnknown.into(), 403),
        ("file:///etc/passwd", ApiCode::StoreUnknown.into(), 403),
    ] {
        let error = client.submit(&to(destination)).await.unwrap_err();
        let ClientError::Refused(problem) = &error else { panic!("{error}") };
        assert_eq!((&problem.code, problem.status), (&expected, status), "{destination}");
        assert!(!problem.hint.is_empty() && error.exit_code() == exit::DESTINATION, "{problem:?}");
    }
    let bob = server.client("bob", "secret-of-bob");
    assert_eq!(code(&bob.submit(&to("data:done")).await.unwrap_err()), ApiCode::StoreUnknown.into(), "bob has no stores");
}

#[tokio::test]
async fn wrong_credentials_are_refused_everywhere() {
    let server = Server::start("").await;
    let ann = server.ready().await;
    let (answer, _) = ann.submit(&to("data:run")).await.unwrap();
    for (key, secret) in [("ann", "secret-of-bob"), ("nobody", "secret-of-ann"), ("ann", "")] {
        let client = server.client(key, secret);
        for error in [
            client.submit(&to("data:done")).await.unwrap_err(),
            client.status(&answer.transfer_id).await.unwrap_err(),
            client.cancel(&answer.transfer_id).await.unwrap_err(),
            client.list().await.unwrap_err(),
            client.health().await.unwrap_err(),
        ] {
            assert_eq!(code(&error), ApiCode::Unauthorized.into());
            assert_eq!(error.exit_code(), exit::AUTH);
        }
    }
    let bob = server.client("bob", "secret-of-bob");
    assert_eq!(code(&bob.status(&answer.transfer_id).await.unwrap_err()), ApiCode::NotFound.into(), "it is ann's");
    assert!(bob.list().await.unwrap().transfers.is_empty());

    let stranger = Client::new(server.address.clone(), server.fingerprint, None).unwrap();
    let health = stranger.health().await.unwrap();
    assert_eq!((health.status, health.version, health.engine), (HealthState::Ok, None, None), "strangers learn no details");
    assert_eq!(code(&stranger.list().await.unwrap_err()), ApiCode::Unauthorized.into());
}

#[tokio::test]
async fn another_key_is_refused_before_anything_is_sent() {
    let server = Server::start("").await;
    let expected = Fingerprint::of_public_key(b"another");
    let client = Client::new(server.address.clone(), expected, None).unwrap();
    let error = client.health().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::FingerprintMismatch { presented, .. } if *presented == server.fingerprint),
        "expected a mismatch, found {error}"
    );
    assert_eq!(error.exit_code(), exit::FINGERPRINT);
    assert!(error.to_string().contains("known_servers"), "{error}");
}

#[tokio::test]
async fn trust_on_first_use_then_only_the_same_key() {
    let server = Server::start("").await;
    let known = KnownServers::at(server.folder.path().join("known"));
    let strict = establish_trust(&server.address, &Trust::KnownOnly(known.clone())).await.unwrap_err();
    assert!(matches!(&strict, TrustError::Unknown { presented, .. } if *presented == server.fingerprint), "{strict}");
    let first = establish_trust(&server.address, &Trust::FirstUse(known.clone())).await.unwrap();
    assert_eq!(first, Trusted { fingerprint: server.fingerprint, first_use: true });
    let second = establish_trust(&server.address, &Trust::KnownOnly(known.clone())).await.unwrap();
    assert_eq!(second, Trusted { fingerprint: server.fingerprint, first_use: false });

    // The same address, now another key: what was remembered is what is pinned.
    let other = Fingerprint::of_public_key(b"other");
    known.remember(&server.address, other).unwrap();
    let trusted = establish_trust(&server.address, &Trust::FirstUse(known)).await.unwrap();
    let client = Client::new(server.address.clone(), trusted.fingerprint, None).unwrap();
    assert!(matches!(client.health().await, Err(ClientError::FingerprintMismatch { .. })));
}

#[tokio::test]
async fn a_server_that_is_gone_is_named() {
    let server = Server::start("").await;
    let (address, fingerprint) = (server.address.clone(), server.fingerprint);
    server.http.stop().await;
    let error = Client::new(address, fingerprint, None).unwrap().health().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }) && error.exit_code() == exit::UNREACHABLE, "{error}");
}

const CAP: &str = "[[cap]]\nname = \"uplink\"\nrate_mbps = 100\nstores = [\"data\"]\n";

/// Asks until the status is as wanted.
async fn eventually(client: &Client, id: &str, wanted: impl Fn(&RateStatus) -> bool) -> RateStatus {
    let mut rate = RateStatus::default();
    for _ in 0..200 {
        rate = client.status(id).await.unwrap().rate;
        if wanted(&rate) {
            return rate;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{rate:?}");
}

#[tokio::test]
async fn rates_are_shown_changed_and_shared() {
    let server = Server::start(CAP).await;
    let client = server.ready().await;
    let (first, _) = client.submit(&to("data:run1")).await.unwrap();
    let expected = RateGrant { lease_rate_bps: Some(100_000_000), ..RateGrant::default() };
    assert_eq!(first.lanes[0].rate, expected, "alone it begins with the whole cap");
    let (second, _) = client.submit(&to("data:run2")).await.unwrap();
    assert_eq!(second.lanes[0].rate.lease_rate_bps, Some(0), "the first has not confirmed to have given up a part");
    let half = |rate: &RateStatus| rate.lease_rate_bps == Some(50_000_000) && rate.in_force;
    for id in [&first.transfer_id, &second.transfer_id] {
        let rate = eventually(&client, id, half).await;
        assert_eq!((rate.cap.as_deref(), rate.limiter, rate.sent_rate_bps), (Some("uplink"), Some(Limiter::Lease), Some(50_000_000)));
    }
    let change =
        RateChange { policy: Some(RatePolicy::High), target_rate_bps: Some(Some(900_000_000)), minimum_rate_bps: Some(Some(5_000_000)) };
    let changed = client.change_rate(&first.transfer_id, &change).await.unwrap().rate;
    assert_eq!((changed.policy, changed.minimum_rate_bps), (RatePolicy::High, Some(5_000_000)));
    assert_eq!(changed.target_rate_bps, Some(100_000_000), "never above the cap");
    eventually(&client, &first.transfer_id, |rate| {
        rate.in_force && rate.lease_rate_bps.is_some_and(|lease| lease.abs_diff(66_666_000) < 2_000)
    })
    .await;
    let ended = client.cancel(&first.transfer_id).await.unwrap();
    assert_eq!((ended.rate.policy, ended.rate.limiter, ended.rate.lease_rate_bps), (RatePolicy::High, None, None));
    assert_eq!(code(&client.change_rate(&first.transfer_id, &change).await.unwrap_err()), ApiCode::Invalid.into());
}

#[tokio::test]
async fn changes_that_cannot_be_are_refused() {
    let server = Server::start(CAP).await;
    let client = server.ready().await;
    let with_minimum = |bps| {
        let mut request = to("data:run");
        request.rate.minimum_rate_bps = Some(bps);
        request
    };
    let error = client.submit(&with_minimum(100_001_000)).await.unwrap_err();
    assert_eq!((code(&error), error.exit_code()), (ApiCode::RateUnavailable.into(), exit::BUSY), "{error}");
    let (first, _) = client.submit(&with_minimum(60_000_000)).await.unwrap();
    assert_eq!(code(&client.submit(&with_minimum(41_000_000)).await.unwrap_err()), ApiCode::RateUnavailable.into());
    let (second, _) = client.submit(&with_minimum(40_000_000)).await.unwrap();
    let more = RateChange { minimum_rate_bps: Some(Some(41_000_000)), ..RateChange::default() };
    assert_eq!(code(&client.change_rate(&second.transfer_id, &more).await.unwrap_err()), ApiCode::RateUnavailable.into());
    let fixed = RateChange { policy: Some(RatePolicy::Fixed), ..RateChange::default() };
    assert_eq!(code(&client.change_rate(&first.transfer_id, &fixed).await.unwrap_err()), ApiCode::Invalid.into());
    assert_eq!(code(&client.change_rate("no-such", &fixed).await.unwrap_err()), ApiCode::NotFound.into());
    let bob = server.client("bob", "secret-of-bob");
    assert_eq!(code(&bob.change_rate(&first.transfer_id, &more).await.unwrap_err()), ApiCode::NotFound.into(), "it is ann's");
    let nobody = server.client("ann", "wrong");
    assert_eq!(code(&nobody.change_rate(&first.transfer_id, &more).await.unwrap_err()), ApiCode::Unauthorized.into());
    let path = format!("/v1/transfers/{}", first.transfer_id);
    for (body, status, expected) in
        [("{}", 422, ApiCode::Invalid), ("{", 400, ApiCode::Malformed), (r#"{"rate":1}"#, 400, ApiCode::Malformed)]
    {
        let (found, _, problem) = raw(&server, "PATCH", &path, body.as_bytes().to_vec(), true).await;
        assert_eq!((found, problem.code), (status, expected.into()), "{body}");
    }
}

#[tokio::test]
async fn proofs_are_given_to_their_owner_and_the_key_to_everybody() {
    let server = Server::start("").await;
    let client = server.ready().await;
    let nobody = Client::new(server.address.clone(), server.fingerprint, None).unwrap();
    let key: tradewind_integrity::PublicKey = nobody.receipt_key().await.unwrap().public_key.parse().unwrap();
    let (answer, _) = client.submit(&to("data:done")).await.unwrap();
    let id = answer.transfer_id.as_str();
    while !client.status(id).await.unwrap().state.is_final() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut ignored = |_: &[u8]| true;
    assert_eq!(code(&client.manifest(id, &mut ignored).await.unwrap_err()), ApiCode::NotFound.into(), "the fake engine writes none");
    let receipt = key.verify(&client.receipt(id).await.unwrap()).unwrap();
    assert_eq!((receipt.user.as_str(), receipt.bytes, &receipt.manifest_sha256), ("ann", 5, &None));

    let folder = server.folder.path().join("state/manifests");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{id}.ndjson")), "abc").unwrap();
    let mut manifest = Vec::new();
    let mut take = |bytes: &[u8]| {
        manifest.extend_from_slice(bytes);
        true
    };
    client.manifest(id, &mut take).await.unwrap();
    assert_eq!(manifest, b"abc");
    let document = client.receipt(id).await.unwrap();
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(key.verify(&document).unwrap().manifest_sha256.as_deref(), Some(sha256));
    assert_eq!(client.receipt(id).await.unwrap(), document, "the same again");

    let bob = server.client("bob", "secret-of-bob");
    assert_eq!(code(&bob.manifest(id, &mut ignored).await.unwrap_err()), ApiCode::NotFound.into());
    assert_eq!(code(&bob.receipt(id).await.unwrap_err()), ApiCode::NotFound.into());
    let (running, _) = client.submit(&to("data:run")).await.unwrap();
    assert_eq!(code(&client.receipt(&running.transfer_id).await.unwrap_err()), ApiCode::Invalid.into());
    assert_eq!(code(&client.manifest(&running.transfer_id, &mut ignored).await.unwrap_err()), ApiCode::Invalid.into());

    let line = b"{\"path\":\"a\",\"size\":1}\n";
    for (client, url, body, expected) in [
        (&nobody, "data:in/", line.to_vec(), ProblemCode::from(ApiCode::Unauthorized)),
        (&client, "nowhere:in/", line.to_vec(), ApiCode::StoreUnknown.into()),
        (&client, "data:in/", Vec::new(), ErrorCode::ResourceExhausted.into()),
        (&client, "data:in/", line.repeat(VERIFY_LINES_MAX + 1), ErrorCode::ResourceExhausted.into()),
        (&client, "data:in/", vec![b'x'; limits::VERIFY_BODY_BYTES_MAX + 1], ApiCode::BodyTooLarge.into()),
    ] {
        assert_eq!(code(&client.verify(url, body, &mut |_| ()).await.unwrap_err()), expected, "{url}");
    }
}

/// What the typed client cannot send.
async fn raw(server: &Server, method: &str, path: &str, body: Vec<u8>, authorized: bool) -> (u16, String, Problem) {
    let tls = pinned_tls_config(server.fingerprint).unwrap();
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let mut request = http.request(method.parse().unwrap(), format!("https://{}{path}", server.address)).body(body);
    if authorized {
        request = request.bearer_auth("ann:secret-of-ann");
    }
    let response = request.send().await.unwrap();
    let media = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.status().as_u16(), media, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

#[tokio::test]
async fn bad_requests_are_problems() {
    let server = Server::start("").await;
    server.ready().await;
    let at_limit = |bytes: usize| {
        let mut body = br#"{"destination":"nowhere:x/"}"#.to_vec();
        body.resize(bytes, b' ');
        body
    };
    for (method, path, body, authorized, status, code) in [
        ("POST", "/v1/transfers", b"{".to_vec(), true, 400, ApiCode::Malformed),
        ("POST", "/v1/transfers", b"{\"destination\":\"data:x/\",\"files\":0}".to_vec(), true, 422, ApiCode::Invalid),
        ("POST", "/v1/transfers", at_limit(limits::REQUEST_BODY_BYTES_MAX), true, 403, ApiCode::StoreUnknown),
        ("POST", "/v1/transfers", at_limit(limits::REQUEST_BODY_BYTES_MAX + 1), true, 413, ApiCode::BodyTooLarge),
        ("POST", "/v1/transfers", at_limit(limits::REQUEST_BODY_BYTES_MAX + 1), false, 401, ApiCode::Unauthorized),
        ("GET", "/v1/transfers/no-such", Vec::new(), true, 404, ApiCode::NotFound),
        ("GET", "/", Vec::new(), true, 404, ApiCode::NoSuchRoute),
        ("PUT", "/v1/transfers", Vec::new(), true, 404, ApiCode::NoSuchRoute),
    ] {
        let (found, media, problem) = raw(&server, method, path, body, authorized).await;
        assert_eq!((found, problem.code), (status, code.into()), "{method} {path}");
        assert_eq!(media, Problem::MEDIA_TYPE);
    }
}

#[tokio::test]
async fn a_killed_engine_comes_back_and_its_transfers_say_so() {
    let server = Server::start("").await;
    let client = server.ready().await;
    let (running, _) = client.submit(&to("data:run")).await.unwrap();
    // This lane makes the fake engine abort before it answers.
    let error = client.submit(&to("data:die")).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::EngineDied.into());
    assert!(error.is_retryable() && error.to_string().contains("signal 6"), "{error}");
    let status = client.status(&running.transfer_id).await.unwrap();
    assert_eq!((status.state, status.outcome.unwrap().code), (TransferState::Failed, ErrorCode::EngineDied));

    let health = wait_for_engine(&client, 2).await;
    assert_eq!(health.engine.unwrap().starts, 2);
    client.submit(&to("data:done")).await.unwrap();
}

#[tokio::test]
async fn a_drained_server_tells_its_engine_and_ends() {
    let server = Server::start("").await;
    let client = server.ready().await;
    server.supervisor.drain().await;
    tokio::time::timeout(Duration::from_secs(30), server.supervising).await.expect("the supervisor ends").unwrap();
    let error = client.submit(&to("data:done")).await.unwrap_err();
    assert_eq!(code(&error), ApiCode::EngineUnavailable.into());
    server.http.stop().await;
}
