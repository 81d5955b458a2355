//! Objects of stores over real TLS with the typed client, answered by a process that is a FAKE engine.
//! Cannot see: real stores.

mod support;

use support::{Server, wait_for_engine};
use tradewind_api::*;

const SECOND_STORE: &str = "[[user]]\naccess_key = \"cid\"\nsecret = \"secret-of-cid\"\nstores = [\"other\"]\n\
     [stores.other]\nkind = \"local\"\nroot = \"/usr\"\n\
     [stores.buckets]\nkind = \"s3\"\nendpoint = \"http://127.0.0.1:1\"\nbuckets = [\"bucket\"]\naccess_key = \"k\"\nsecret_key = \"s\"\n";

fn problem(error: ClientError) -> Problem {
    match error {
        ClientError::Refused(problem) => problem,
        other => panic!("{other}"),
    }
}

fn query(url: &str) -> ListQuery {
    ListQuery { url: url.to_owned(), ..ListQuery::default() }
}

fn names(page: &ObjectPage) -> Vec<&str> {
    page.entries.iter().map(|entry| entry.name.as_str()).collect()
}

#[tokio::test]
async fn listings_come_in_pages_and_their_names_are_relative_to_the_folder() {
    let server = Server::start(SECOND_STORE).await;
    let client = server.ready().await;
    for (url, recursive, expected) in [
        ("data:", true, &["a", "in/deep/three", "in/one", "in/two"][..]),
        ("data:", false, &["a", "in/"]),
        ("data:in/", true, &["deep/three", "one", "two"]),
        ("data:in/", false, &["deep/", "one", "two"]),
        ("data:in/o", false, &["one"]),
        ("data:i", false, &["in/"]),
        ("data:no/", true, &[]),
        ("s3://bucket/in/", false, &["deep/", "one", "two"]),
        ("s3://bucket", false, &["a", "in/"]),
        ("buckets:bucket/in/", false, &["deep/", "one", "two"]),
        ("file:///usr/in/", false, &["deep/", "one", "two"]),
    ] {
        let page = client.list_objects(&ListQuery { recursive, ..query(url) }).await.unwrap();
        assert_eq!((names(&page), page.next.clone()), (expected.to_vec(), None), "{url}");
        assert!(page.entries.iter().all(|entry| entry.folder == entry.name.ends_with('/') && entry.folder == (entry.size == 0)));
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = client.list_objects(&ListQuery { recursive, after, limit: Some(1), ..query(url) }).await.unwrap();
            assert!(page.entries.len() <= 1);
            paged.extend(page.entries.into_iter().map(|entry| entry.name));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(paged, expected, "{url} in pages of 1");
    }
}

#[tokio::test]
async fn objects_are_shown_and_removed_once() {
    let server = Server::start(SECOND_STORE).await;
    let client = server.ready().await;
    let details = client.object("data:in/one").await.unwrap();
    assert_eq!((details.size, details.crc64), (6, Some(u64::MAX)));
    assert_eq!(client.remove_object("data:in/one").await.unwrap().url, "data:in/one");
    for error in [client.remove_object("data:in/one").await.unwrap_err(), client.object("data:in/one").await.unwrap_err()] {
        assert_eq!(error.exit_code(), exit::DESTINATION);
        let problem = problem(error);
        assert_eq!((problem.code, problem.status), (ApiCode::ObjectMissing.into(), 404));
        assert!(problem.detail.contains("data:in/one"), "{}", problem.detail);
    }
    let page = client.list_objects(&ListQuery { recursive: true, ..query("data:in/") }).await.unwrap();
    assert_eq!(names(&page), ["deep/three", "two"]);
}

#[tokio::test]
async fn what_a_user_may_not_send_to_a_user_may_not_see_or_remove() {
    let server = Server::start(SECOND_STORE).await;
    let ann = server.ready().await;
    let (bob, cid) = (server.client("bob", "secret-of-bob"), server.client("cid", "secret-of-cid"));
    for (client, url) in
        [(&bob, "data:in/one"), (&bob, "s3://bucket/in/one"), (&cid, "data:in/one"), (&ann, "nowhere:in/one"), (&ann, "file:///etc/x")]
    {
        for error in [
            client.list_objects(&query(url)).await.unwrap_err(),
            client.object(url).await.unwrap_err(),
            client.remove_object(url).await.unwrap_err(),
        ] {
            assert_eq!(error.exit_code(), exit::DESTINATION);
            let problem = problem(error);
            assert_eq!((problem.code, problem.status), (ApiCode::StoreUnknown.into(), 403), "{url}");
        }
    }
    assert_eq!(cid.object("other:in/one").await.unwrap().size, 6);
    for (key, secret) in [("ann", "secret-of-bob"), ("nobody", "secret-of-ann")] {
        let stranger = server.client(key, secret);
        for error in [
            stranger.list_objects(&query("data:")).await.unwrap_err(),
            stranger.object("data:a").await.unwrap_err(),
            stranger.remove_object("data:a").await.unwrap_err(),
        ] {
            assert_eq!(problem(error).code, ApiCode::Unauthorized.into());
        }
    }
    assert_eq!(names(&ann.list_objects(&query("data:")).await.unwrap()), ["a", "in/"], "nothing was removed");
}

#[tokio::test]
async fn questions_that_make_no_sense_are_named_and_a_store_s_words_are_passed_on() {
    let server = Server::start("").await;
    let client = server.ready().await;
    for (url, expected, status) in [
        ("data:../x", ProblemCode::from(ErrorCode::DestinationInvalid), 422),
        ("data:in//x", ErrorCode::DestinationInvalid.into(), 422),
        ("x", ErrorCode::DestinationInvalid.into(), 422),
        ("data:in/", ApiCode::Invalid.into(), 422),
        ("data:denied", ErrorCode::AccessDenied.into(), 403),
        ("data:missing", ErrorCode::BucketMissing.into(), 404),
    ] {
        for error in [client.object(url).await.unwrap_err(), client.remove_object(url).await.unwrap_err()] {
            let problem = problem(error);
            assert_eq!((&problem.code, problem.status), (&expected, status), "{url}");
            assert!(!problem.hint.is_empty() && !problem.detail.is_empty());
        }
    }
    for limit in [0, limits::OBJECTS_PAGE_MAX + 1] {
        let error = client.list_objects(&ListQuery { limit: Some(limit), ..query("data:") }).await.unwrap_err();
        assert_eq!(problem(error).code, ApiCode::Invalid.into(), "{limit}");
    }
    let after = Some("a".repeat(4097));
    assert_eq!(problem(client.list_objects(&ListQuery { after, ..query("data:") }).await.unwrap_err()).code, ApiCode::Invalid.into());
    let refused = client.list_objects(&query("data:denied")).await.unwrap_err();
    assert!(problem(refused).detail.contains("fake refusal of denied"));
}

#[tokio::test]
async fn an_engine_that_dies_ends_the_question_and_serves_the_next_when_it_is_back() {
    let server = Server::start("").await;
    let client = server.ready().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.object("data:silent").await }
    });
    // Until the engine has the question.
    for _ in 0..400 {
        if client.object("data:asked").await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(client.object("data:asked").await.unwrap().size, 5);
    assert_eq!(problem(client.remove_object("data:die").await.unwrap_err()).code, ErrorCode::EngineDied.into());
    assert_eq!(problem(waiting.await.unwrap().unwrap_err()).code, ErrorCode::EngineDied.into());
    wait_for_engine(&client, 2).await;
    assert_eq!(client.object("data:a").await.unwrap().size, 1);
}
