//! The calls as clients see them: on HTTP.

use super::*;
use api::{ApiError, CONTENT_TYPE, ChangesReply, ChangesRequest, DevicesReply, ErrorCode, PREFIX, SentCommit};
use axum::body::Body as HttpBody;
use axum::http::{Request, StatusCode};
use model::Cursor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt;

struct Answer {
    status: StatusCode,
    retry_after: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, StatusCode::OK, "{:?}", api::decode::<ApiError>(&self.body));
        api::decode(&self.body).expect("decodes")
    }

    fn error(&self) -> (u16, ErrorCode) {
        (self.status.as_u16(), api::decode::<ApiError>(&self.body).expect("an error").code)
    }
}

fn send(bench: &Bench, name: &str, token: Option<&str>, body: Vec<u8>) -> Answer {
    let mut request = Request::post(format!("{PREFIX}/{name}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(HttpBody::from(body)).expect("a request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let response = crate::routes(Arc::clone(&bench.service)).oneshot(request).await.expect("an answer");
        let header = |name: &str| response.headers().get(name).map(|v| v.to_str().expect("text").to_owned());
        assert_eq!(header("content-type").as_deref(), Some(CONTENT_TYPE));
        let (status, retry_after) = (response.status(), header("retry-after"));
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body").to_vec();
        Answer { status, retry_after, body }
    })
}

fn call(bench: &Bench, name: &str, token: &str, message: &impl Serialize) -> Answer {
    send(bench, name, Some(token), api::encode(message))
}

#[test]
fn a_device_links_commits_reads_and_unlinks() {
    let bench = Bench::new();
    bench.service.add_user("a@x", PASSWORD).expect("added");
    let request = LinkRequest { email: "a@x".into(), password: PASSWORD.into(), device_name: "laptop".into() };
    let link: LinkReply = send(&bench, "link", None, api::encode(&request)).read();
    let token = link.token.to_hex();
    let server: ServerReply = call(&bench, "server", &token, &()).read();
    assert_eq!((server.instance, server.epoch), (link.instance, link.epoch));

    let operation = create(bench.new_node(), link.root.root(), "a", empty_file());
    let draft = bench.draft(link.root, Position(0), vec![operation]);
    let outcome: CommitOutcome = call(&bench, "commit", &token, &SentCommit::from(draft)).read();
    assert!(matches!(outcome, CommitOutcome::Accepted { head: Position(1), .. }));

    let cursor = Cursor::from([(link.root, Position(0))]);
    let request = ChangesRequest { instance: link.instance, epoch: link.epoch, cursor };
    let changes: ChangesReply = call(&bench, "changes", &token, &request).read();
    assert_eq!(changes.namespaces[0].entries, bench.journal(link.root));

    let devices: DevicesReply = call(&bench, "devices", &token, &()).read();
    assert_eq!(devices.devices[0].name, "laptop");
    let () = call(&bench, "unlink", &token, &api::UnlinkRequest { device: None }).read();
    assert_eq!(call(&bench, "devices", &token, &()).error(), (401, ErrorCode::Unlinked));
}

#[test]
fn every_call_is_there_and_wants_a_token() {
    let bench = Bench::new();
    let token = bench.user("a@x").link.token.to_hex();
    let calls = [
        "server",
        "changes",
        "commit",
        "missing",
        "devices",
        "unlink",
        "revisions",
        "history",
        "restore",
        "share",
        "shares",
        "leave",
        "remove-member",
    ];
    for name in calls {
        for bad in [None, Some(""), Some("zz"), Some("00"), Some(&*"0".repeat(64))] {
            assert_eq!(send(&bench, name, bad, Vec::new()).error(), (401, ErrorCode::Unlinked), "{name} {bad:?}");
        }
        let nonsense = send(&bench, name, Some(&token), vec![0xff; 40]);
        assert_eq!(nonsense.error(), (400, ErrorCode::BadRequest), "{name}");
    }
    assert_eq!(send(&bench, "link", None, vec![0xff; 40]).error(), (400, ErrorCode::BadRequest));
}

#[test]
fn an_error_travels_with_its_status_and_says_when_to_come_back() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    let token = me.link.token.to_hex();
    let request = ChangesRequest { instance: model::InstanceId([0; 16]), epoch: me.link.epoch, cursor: Cursor::new() };
    assert_eq!(call(&bench, "changes", &token, &request).error(), (409, ErrorCode::EpochChanged));
    let wrong = LinkRequest { email: "a@x".into(), password: "wrong".into(), device_name: "d".into() };
    for _ in 0..10 {
        let answer = send(&bench, "link", None, api::encode(&wrong));
        assert_eq!((answer.error(), answer.retry_after), ((401, ErrorCode::WrongCredentials), None));
    }
    let answer = send(&bench, "link", None, api::encode(&wrong));
    assert_eq!((answer.error(), answer.retry_after.as_deref()), ((429, ErrorCode::Busy), Some("30")));
}

#[test]
fn a_body_beyond_its_limit_is_refused() {
    let bench = Bench::new();
    let token = bench.user("a@x").link.token.to_hex();
    assert_eq!(send(&bench, "link", None, vec![0; 9 * 1024]).error(), (400, ErrorCode::BadRequest));
    let large = vec![0; model::limits::MESSAGE_BYTES + 1];
    assert_eq!(send(&bench, "commit", Some(&token), large.clone()).error(), (400, ErrorCode::BadRequest));
    for call in ["server", "revisions", "leave", "missing", "changes"] {
        let answer = send(&bench, call, Some(&token), vec![0; 600 * 1024]);
        let error: ApiError = api::decode(&answer.body).expect("an error");
        assert!(error.message.contains("larger than"), "{call} needs no commit's room: {error:?}");
    }
    assert_eq!(send(&bench, "commit", None, large).error(), (401, ErrorCode::Unlinked), "strangers are asked first");
}
