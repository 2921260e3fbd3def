//! Accounts, sign-in and devices.

use super::*;
use api::{ErrorCode, Token, UnlinkRequest};

fn sign_in(bench: &Bench, email: &str, password: &str) -> Result<LinkReply, ErrorCode> {
    let request = LinkRequest { email: email.into(), password: password.into(), device_name: "d".into() };
    bench.service.link(&request).map_err(|error| error.code)
}

#[test]
fn no_door_opens_without_the_right_password() {
    let bench = Bench::new();
    bench.user("a@x");
    bench.user("b@x");
    bench.service.add_user("c@x", "other").expect("added");
    for password in ["", " ", "other", "correct horse battery stapl", "correct horse battery staple ", "a@x"] {
        assert_eq!(sign_in(&bench, "a@x", password).map(drop), Err(ErrorCode::WrongCredentials), "{password:?}");
    }
    assert_eq!(sign_in(&bench, "", PASSWORD).map(drop), Err(ErrorCode::WrongCredentials));
    assert_eq!(sign_in(&bench, "%", PASSWORD).map(drop), Err(ErrorCode::WrongCredentials));
    assert!(sign_in(&bench, "A@X", PASSWORD).is_ok(), "addresses have no case");
}

#[test]
fn an_unknown_address_and_a_wrong_password_get_the_same_answer() {
    let bench = Bench::new();
    bench.user("a@x");
    let answer = |email: &str| {
        let request = LinkRequest { email: email.into(), password: "wrong".into(), device_name: "d".into() };
        bench.service.link(&request).expect_err("refused")
    };
    assert_eq!(answer("a@x"), answer("nobody@x"));
    for email in ["a@x", "nobody@x"] {
        let codes: Vec<ErrorCode> = (0..12).map(|_| answer(email).code).collect();
        assert_eq!(codes.iter().filter(|code| **code == ErrorCode::Busy).count(), 3, "{email}: {codes:?}");
    }
}

#[test]
fn too_many_tries_must_wait_even_with_the_right_password() {
    let bench = Bench::new();
    bench.user("a@x");
    for _ in 0..10 {
        assert_eq!(sign_in(&bench, "a@x", "wrong").map(drop), Err(ErrorCode::WrongCredentials));
    }
    let request = LinkRequest { email: "a@x".into(), password: PASSWORD.into(), device_name: "d".into() };
    let error = bench.service.link(&request).expect_err("limited");
    assert_eq!((error.code, error.retry_after_ms), (ErrorCode::Busy, Some(30_000)));
    bench.clock.fetch_add(30_000, Ordering::Relaxed);
    assert!(sign_in(&bench, "a@x", PASSWORD).is_ok());
}

#[test]
fn an_address_has_one_account() {
    let bench = Bench::new();
    bench.user("Zoe@X.org");
    assert_eq!(bench.service.add_user("zoe@x.ORG", PASSWORD).map_err(|e| e.code), Err(ErrorCode::AlreadyExists));
    for bad in ["", "zoe", "@x", "zoe@", "zo e@x", "a\n@x"] {
        assert_eq!(bench.service.add_user(bad, PASSWORD).map_err(|e| e.code), Err(ErrorCode::BadRequest), "{bad:?}");
    }
    assert_eq!(bench.service.add_user("y@x", "").map_err(|e| e.code), Err(ErrorCode::BadRequest));
    let users = bench.service.list_users().expect("lists");
    assert_eq!(users.iter().map(|user| (user.email.as_str(), user.devices)).collect::<Vec<_>>(), [("Zoe@X.org", 1)]);
}

#[test]
fn passwords_and_tokens_are_not_in_the_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meta.db");
    let bench = Bench::over(Arc::new(SqliteStore::open(&path).expect("opens")));
    let me = bench.user("a@x");
    let copy = folder.path().join("copy.db");
    SqliteStore::open(&path).expect("opens").copy_to(&copy).expect("copies");
    let bytes = std::fs::read(copy).expect("reads");
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(holds(b"$argon2id$") && holds(me.who.device.as_bytes()), "the search finds what is there");
    assert!(!holds(PASSWORD.as_bytes()) && !holds(&me.link.token.0) && !holds(me.link.token.to_hex().as_bytes()));
}

#[test]
fn a_token_is_its_devices_until_it_is_unlinked_and_not_a_moment_longer() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    let phone = bench.device("a@x", "phone");
    assert_eq!(bench.service.identify(&phone.link.token), Ok(phone.who));
    assert_eq!(bench.service.identify(&Token([0; 32])).map_err(|e| e.code), Err(ErrorCode::Unlinked));
    bench.service.unlink(me.who, &UnlinkRequest { device: Some(phone.who.device) }).expect("unlinked");
    assert_eq!(bench.service.identify(&phone.link.token).map_err(|e| e.code), Err(ErrorCode::Unlinked));
    assert_eq!(bench.service.devices(phone.who).map_err(|e| e.code), Err(ErrorCode::Unlinked));
    assert_eq!(bench.service.identify(&me.link.token), Ok(me.who));
    assert_eq!(*bench.heard.unlinked.lock().expect("no panic"), [phone.who.device]);
    let again = bench.service.unlink(me.who, &UnlinkRequest { device: Some(phone.who.device) });
    assert_eq!(again.map_err(|e| e.code), Err(ErrorCode::NotFound));
}

#[test]
fn nobody_unlinks_anothers_device() {
    let bench = Bench::new();
    let (me, other) = (bench.user("a@x"), bench.user("b@x"));
    let result = bench.service.unlink(me.who, &UnlinkRequest { device: Some(other.who.device) });
    assert_eq!(result.map_err(|e| e.code), Err(ErrorCode::NotFound));
    assert!(bench.service.identify(&other.link.token).is_ok());
}

#[test]
fn a_visit_is_noted_once_a_minute() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    let seen = |after_ms: i64| {
        bench.clock.fetch_add(after_ms, Ordering::Relaxed);
        bench.service.identify(&me.link.token).expect("linked");
        bench.service.devices(me.who).expect("lists").devices[0].last_seen.0
    };
    let linked = bench.clock.load(Ordering::Relaxed);
    assert_eq!(seen(59_999), linked);
    assert_eq!(seen(1), linked + 60_000);
    assert_eq!(seen(59_999), linked + 60_000);
}

#[test]
fn devices_are_listed_with_the_one_that_asks_marked() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    bench.clock.fetch_add(1, Ordering::Relaxed);
    bench.device("a@x", "phone");
    bench.user("b@x");
    let listed = bench.service.devices(me.who).expect("lists").devices;
    let summary: Vec<_> = listed.iter().map(|d| (d.name.as_str(), d.current)).collect();
    assert_eq!(summary, [("laptop", true), ("phone", false)]);
}

#[test]
fn the_identity_of_a_server_stays_and_its_epoch_rises_on_demand() {
    let store: Arc<dyn MetadataStore> = Arc::new(SqliteStore::in_memory().expect("opens"));
    let before = Bench::over(Arc::clone(&store)).server();
    let bench = Bench::over(store);
    assert_eq!(bench.server(), before);
    let epoch = bench.service.bump_epoch().expect("bumped");
    assert!(epoch > before.epoch);
    assert_eq!((bench.server().epoch, bench.server().instance), (epoch, before.instance));
}

/// It rose by one, and devices that had gone on after the first time took the new journal for theirs.
#[test]
fn a_backup_that_is_restored_again_comes_to_another_epoch_than_the_first_time() {
    let [first, again] = [1_000, 2_000].map(|later| {
        let bench = Bench::new();
        bench.clock.fetch_add(later, Ordering::Relaxed);
        bench.service.bump_epoch().expect("rises")
    });
    assert!(again > first);
}

#[test]
fn the_epoch_rises_also_when_the_clock_was_set_back() {
    let bench = Bench::new();
    let before = bench.service.bump_epoch().expect("rises");
    bench.clock.store(0, Ordering::Relaxed);
    assert!(bench.service.bump_epoch().expect("rises") > before);
}
