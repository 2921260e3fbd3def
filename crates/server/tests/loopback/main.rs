//! The whole server over real HTTP.

mod dedup_timing;
mod support;
mod thrift;

use api::{
    ApiError, BlocksHead, BlocksRequest, CONTENT_TYPE, ErrorCode, LinkRequest, ServerReply, UnlinkRequest, codec,
};
use metadata_store_mysql::private_server::PrivateServer;
use model::{BlockHash, Change, CommitOutcome, Position, Reason};
use reqwest::Client;
use server::{Config, Overrides, ServerError};
use std::time::Duration;
use support::{PASSWORD, TestServer, eventually, framed, raw, read};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_up_is_seen_and_comes_down() {
    let server = TestServer::start().await;
    let mut ann = server.device("ann@example.com").await;
    let other = server.link("ann@example.com").await;
    let large = vec![7; 4 * 1024 * 1024];
    let head = ann.put_file("a.bin", &[&large, b"tail"]).await;
    assert_eq!(head, Position(1));
    let page = other.changes().await.namespaces.remove(0);
    assert_eq!(page.head, head);
    let Change::Create { body, .. } = &page.entries[0].change else { panic!("not created") };
    assert_eq!(body.blocks(), [BlockHash::of(&large), BlockHash::of(b"tail")]);
    let (head, bytes) = other.blocks(&[b"tail", &large]).await;
    assert_eq!((head.blocks.len(), head.unavailable.len()), (2, 0));
    assert!(bytes == [b"tail".as_slice(), &large].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb_a_file_goes_up_is_heard_of_and_comes_down_also_after_the_database_was_killed() {
    let data = tempfile::tempdir().expect("a directory");
    let mut database = tokio::task::spawn_blocking(PrivateServer::start).await.expect("no panic");
    let overrides = Overrides {
        data_dir: Some(data.path().join("data")),
        listen: Some("127.0.0.1:0".into()),
        metadata: Some(database.url(PrivateServer::DATABASE)),
        metadata_password: Some(PrivateServer::PASSWORD.to_owned().into()),
        ..Overrides::default()
    };
    let server = TestServer::start_with(Config::load(None, overrides).expect("valid"), data).await;
    let mut ann = server.device("ann@example.com").await;
    let other = server.link("ann@example.com").await;
    assert_eq!(ann.put_file("a", &[b"two"]).await, Position(1));
    database.kill();
    let health = || async { Client::new().get(format!("http://{}/healthz", server.address)).send().await };
    assert_eq!(health().await.expect("answers").status().as_u16(), 503, "no balancer shall send anybody here");
    let database = tokio::task::spawn_blocking(move || {
        database.run();
        database
    });
    let _database = database.await.expect("starts again");
    assert_eq!(health().await.expect("answers").status().as_u16(), 200);
    assert_eq!(ann.put_file("b", &[b"three"]).await, Position(2));
    let page = other.changes().await.namespaces.remove(0);
    assert_eq!((page.head, page.entries.len()), (Position(2), 2));
    let (head, bytes) = other.blocks(&[b"two", b"three"]).await;
    assert_eq!((head.blocks.len(), bytes.as_slice()), (2, b"twothree".as_slice()));
    assert!(!server.path().join("meta.sqlite").exists(), "the metadata is in the database alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_names_blocks_nobody_uploaded_is_rejected() {
    let server = TestServer::start().await;
    let mut ann = server.device("ann@example.com").await;
    let commit = ann.file("a", &[b"never sent"]);
    let reply = ann.changeset(&[], Some(commit)).await.expect("answers");
    let Some(CommitOutcome::Rejected(rejections)) = reply.outcome else { panic!("accepted") };
    assert_eq!(rejections[0].reason, Reason::MissingBlocks(vec![BlockHash::of(b"never sent")]));
}

/// Whoever knows a hash can neither fetch the block, nor learn that it is stored, nor get
/// it without sending all of its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn anothers_blocks_are_as_good_as_absent() {
    let server = TestServer::start().await;
    let mut ann = server.device("ann@example.com").await;
    let mut bob = server.device("bob@example.com").await;
    ann.put_file("secret", &[b"secret"]).await;
    assert_eq!(bob.missing(&[b"secret", b"absent"]).await, [0, 1]);
    assert_eq!(ann.missing(&[b"secret", b"absent"]).await, [1]);
    let (head, bytes) = bob.blocks(&[b"secret", b"absent"]).await;
    assert_eq!((head.blocks.len(), head.unavailable.len(), bytes.len()), (0, 2, 0));

    let foreign =
        |namespace, block: &[u8]| BlocksRequest { namespace, blocks: vec![BlockHash::of(block)], bases: Vec::new() };
    let theirs = bob.call::<BlocksHead>("blocks", &foreign(ann.link.root, b"secret")).await.expect_err("forbidden");
    let nowhere = bob.call::<BlocksHead>("blocks", &foreign(model::NamespaceId([9; 16]), b"x")).await;
    assert_eq!(nowhere.expect_err("forbidden"), theirs);

    let commit = bob.file("stolen", &[b"secret"]);
    let reply = bob.changeset(&[], Some(commit)).await.expect("answers");
    assert!(matches!(reply.outcome, Some(CommitOutcome::Rejected(_))));
    bob.put_file("own copy", &[b"secret"]).await;
    assert_eq!(bob.blocks(&[b"secret"]).await.1, b"secret");
}

/// Durability and resume: the connection breaks in the middle of the second block.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_upload_keeps_its_whole_blocks() {
    let server = TestServer::start().await;
    let mut ann = server.device("ann@example.com").await;
    let first = vec![1; 4 * 1024 * 1024];
    let (both, second): (&[&[u8]], &[&[u8]]) = (&[&first, b"second"], &[b"second"]);
    let commit = ann.file("a", both);
    let body = framed(both, Some(commit.clone()));
    let head = format!(
        "POST /sync/v1/changeset HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n",
        ann.bearer(),
        body.len(),
    );
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    stream.write_all(&[head.as_bytes(), &body[..body.len() - 3]].concat()).await.expect("writes");
    drop(stream);
    let ann = &ann;
    eventually(|| async { ann.missing(both).await == [1] }).await;
    assert_eq!(ann.changes().await.namespaces[0].head, Position::START);
    let reply = ann.changeset(second, Some(commit)).await.expect("commits");
    assert!(matches!(reply.outcome, Some(CommitOutcome::Accepted { .. })), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_block_is_refused() {
    let server = TestServer::start().await;
    let mut ann = server.device("ann@example.com").await;
    let commit = ann.file("a", &[b"right"]);
    let mut body = framed(&[b"right"], Some(commit));
    let last = body.len() - 1;
    body[last] ^= 1;
    let error = read::<api::ChangesetReply>(ann.post("changeset", body).await).await.expect_err("is refused");
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert_eq!(ann.missing(&[b"right"]).await, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let server = TestServer::start().await;
    let mut ann = server.device("ann@example.com").await;
    ann.put_file("a", &[b"one"]).await;
    let server = TestServer::start_on(server.stop().await).await;
    let mut ann = ann.moved_to(&server);
    assert_eq!(ann.blocks(&[b"one"]).await.1, b"one");
    assert_eq!(ann.put_file("b", &[b"two"]).await, Position(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_has_everything_that_it_acknowledged() {
    let mut server = TestServer::start().await;
    let mut ann = server.device("ann@example.com").await;
    for round in 1..=3_u8 {
        let content = vec![round; 100_000];
        assert_eq!(ann.put_file(&format!("file {round}"), &[&content]).await, Position(round.into()));
        server = TestServer::start_on(server.kill()).await;
        ann = ann.moved_to(&server);
        assert_eq!(ann.blocks(&[&content]).await.1, content);
        assert_eq!(ann.changes().await.namespaces[0].entries.len(), usize::from(round));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_heard_by_the_streams_of_the_accounts_other_devices_and_no_others() {
    let server = TestServer::start().await;
    let mut ann = server.device("ann@example.com").await;
    let other = server.link("ann@example.com").await;
    let bob = server.device("bob@example.com").await;
    let (mut own, mut hers, mut his) = (ann.events().await, other.events().await, bob.events().await);
    for events in [&mut own, &mut hers, &mut his] {
        let retry = events.next().await.expect("is open");
        assert!(retry.strip_prefix("retry: ").is_some_and(|ms| ms.parse::<u64>().is_ok()), "{retry}");
        assert_eq!(events.notification().await.position, Position::START);
    }
    ann.put_file("a", &[b"one"]).await;
    let heard = hers.notification().await;
    assert_eq!((heard.namespace, heard.position), (ann.link.root, Position(1)));
    for events in [&mut own, &mut his] {
        assert!(tokio::time::timeout(Duration::from_millis(100), events.next()).await.is_err());
    }
}

/// ASVS 7.4: an unlinked device's stream ends within five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn unlinking_ends_the_devices_stream() {
    let server = TestServer::start().await;
    let ann = server.device("ann@example.com").await;
    let lost = server.link("ann@example.com").await;
    let mut events = lost.events().await;
    events.notification_after_retry().await;
    ann.call::<()>("unlink", &UnlinkRequest { device: Some(lost.link.device) }).await.expect("unlinks");
    let end = async { while events.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("ends");
    let error = lost.changeset(&[b"late"], None).await.expect_err("is unlinked");
    assert_eq!(error.code, ErrorCode::Unlinked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_says_when_to_come_back_and_does_not_wait_for_streams() {
    let mut server = TestServer::start().await;
    let ann = server.device("ann@example.com").await;
    let mut events = ann.events().await;
    events.notification_after_retry().await;
    server.begin_stop();
    assert!(events.next().await.expect("a goodbye").starts_with("retry: "));
    assert_eq!(events.next().await, None);
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.expect("stops at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_not_a_call_is_a_clean_error() {
    let server = TestServer::start().await;
    let ann = server.device("ann@example.com").await;
    let html = b"<html><body>captive portal</body></html>".to_vec();
    for call in ["changeset", "blocks", "changes", "missing", "link"] {
        let response = ann.post(call, html.clone()).await;
        let error = read::<ServerReply>(response).await.expect_err("is refused");
        assert_eq!(error.code, ErrorCode::BadRequest, "{call}");
    }
    let error = read::<ServerReply>(ann.post("no-such-call", html).await).await.expect_err("is refused");
    assert_eq!(error.code, ErrorCode::NotFound);
    let get = ann.client.get(server.url("changeset")).send().await.expect("answers");
    assert_eq!(read::<ServerReply>(get).await.expect_err("is refused").code, ErrorCode::NotFound);
    assert!(raw(server.address, b"\x16\x03\x01 this is TLS\r\n\r\n").await.starts_with("HTTP/1.1 400"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_is_answered() {
    let server = TestServer::start().await;
    let client = Client::new();
    for call in ["changeset", "blocks", "changes", "missing"] {
        for bearer in ["", "Bearer ", "Bearer zz", &format!("Bearer {}", "00".repeat(32))] {
            let request = client.post(server.url(call)).header("authorization", bearer);
            let response = request.body(framed(&[b"x"], None)).send().await.expect("answers");
            let error = read::<ServerReply>(response).await.expect_err("is refused");
            assert_eq!(error.code, ErrorCode::Unlinked, "{call} with {bearer:?}");
        }
    }
    let response = client.get(server.url("events")).send().await.expect("answers");
    assert_eq!(read::<ServerReply>(response).await.expect_err("is refused").code, ErrorCode::Unlinked);
}

/// The login path gets a negative test at every run.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_links_nothing() {
    let server = TestServer::start().await;
    server.add_user("ann@example.com").await;
    for (email, password) in [("ann@example.com", "wrong"), ("ann@example.com", ""), ("eve@example.com", PASSWORD)] {
        let request = LinkRequest { email: email.into(), password: password.into(), device_name: "x".into() };
        let response = Client::new().post(server.url("link")).body(codec::encode(&request)).send().await;
        let error = read::<ServerReply>(response.expect("answers")).await.expect_err("is refused");
        assert_eq!(error.code, ErrorCode::WrongCredentials, "{email} {password}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_promises_too_much_is_refused() {
    let server = TestServer::start().await;
    let ann = server.device("ann@example.com").await;
    let promise = u32::MAX.to_le_bytes().to_vec();
    let error = read::<ServerReply>(ann.post("changeset", promise).await).await.expect_err("is refused");
    assert_eq!(error.code, ErrorCode::BadRequest);
    let many = BlocksRequest {
        namespace: ann.link.root,
        blocks: vec![BlockHash([1; 32]); model::limits::BLOCKS_PER_REQUEST + 1],
        bases: Vec::new(),
    };
    let error = ann.call::<BlocksHead>("blocks", &many).await.expect_err("is refused");
    assert_eq!(error.code, ErrorCode::BadRequest);
    let huge = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1024 * 1024));
    assert!(!raw(server.address, huge.as_bytes()).await.starts_with("HTTP/1.1 200"));
}

/// A refused upload of many megabytes is read on, so that the client sees why.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_refused_upload_still_gets_its_answer() {
    let server = TestServer::start().await;
    let large = vec![1; 4 * 1024 * 1024];
    let body = framed(&[&large, &large[1..], &large[2..]], None);
    let request = Client::new().post(server.url("changeset")).header("authorization", "Bearer no");
    let response = request.body(body).send().await.expect("answers");
    assert_eq!(read::<ServerReply>(response).await.expect_err("is refused").code, ErrorCode::Unlinked);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_to_balancers() {
    let server = TestServer::start().await;
    let response = Client::new().get(format!("http://{}/healthz", server.address)).send().await.expect("answers");
    assert_eq!((response.status().as_u16(), response.text().await.expect("arrives")), (200, "ok\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_or_address_is_refused() {
    let server = TestServer::start().await;
    let elsewhere = tempfile::tempdir().expect("a directory");
    let run = |data_dir, listen| async move { server::run(Config::embedded(data_dir, listen), async {}, |_| ()).await };
    let same_data = run(server.path(), ([127, 0, 0, 1], 0).into()).await.expect_err("is refused");
    assert!(matches!(same_data, ServerError::AlreadyRunning { .. }), "{same_data:?}");
    let same_address = run(elsewhere.path().join("data"), server.address).await.expect_err("is refused");
    assert!(matches!(same_address, ServerError::AddressInUse { .. }), "{same_address:?}");
    assert!(!same_data.hint().is_empty() && !same_address.hint().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_another_server_are_refused() {
    let (one, two) = (TestServer::start().await.stop().await, TestServer::start().await.stop().await);
    let (mine, theirs) = (one.path().join("data/blocks"), two.path().join("data/blocks"));
    std::fs::remove_dir_all(&mine).expect("removes");
    std::fs::rename(theirs, mine).expect("renames");
    let config = Config::embedded(one.path().join("data"), ([127, 0, 0, 1], 0).into());
    let error = server::run(config, async {}, |_| ()).await.expect_err("is refused");
    assert!(matches!(error, ServerError::ForeignBlocks { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_ours_says_so() {
    let server = TestServer::start().await;
    let response = server.device("ann@example.com").await.post("server", Vec::new()).await;
    assert_eq!(response.headers()["content-type"], CONTENT_TYPE);
    let reply: Result<ServerReply, ApiError> = read(response).await;
    assert_eq!(reply.expect("answers").epoch.0, 1);
}
