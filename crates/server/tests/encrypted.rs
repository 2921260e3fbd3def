//! The address for other services with TLS: who gets in, and what the others are told.

use reqwest::{Certificate, Client, Identity, StatusCode};
use server::{Config, Overrides, ProcessRole, ServerError};
use service_calls::private_authority::{PrivateAuthority, Validity};
use service_calls::wire::{ALIVE, SERVICE_PREFIX};
use service_calls::{BadTls, CallError, Links, Renewal, ServiceTls, TlsFiles, Upstream};
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What the certificates of these tests are for, besides the address.
const HERE: &[&str] = &["localhost", "127.0.0.1"];
/// When a process that looks at its files every few seconds must have done so.
const LATE: Duration = Duration::from_secs(60);
/// Between two questions whether it has.
const PAUSE: Duration = Duration::from_millis(100);

/// A hub, whose services' address has this certificate.
struct Hub {
    address: SocketAddr,
    running: JoinHandle<Result<(), ServerError>>,
}

impl Hub {
    async fn start(tls: &TlsFiles) -> Self {
        let (ready, address) = oneshot::channel();
        let ready = move |address| ready.send(address).expect("is awaited");
        let running = tokio::spawn(server::run(config(tls), std::future::pending(), ready));
        Self { address: address.await.expect("it starts"), running }
    }

    /// Calls it as another service with these files does.
    async fn call(&self, tls: &TlsFiles) -> Result<(), CallError> {
        links(tls).call(&self.address.to_string(), ALIVE, &()).await
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn config(tls: &TlsFiles) -> Config {
    let overrides = Overrides {
        role: ProcessRole::NotifyHub,
        service_listen: Some("127.0.0.1:0".into()),
        service_certificate_file: Some(tls.certificate.clone()),
        service_key_file: Some(tls.key.clone()),
        service_ca_file: tls.authority.clone(),
        ..Overrides::default()
    };
    Config::load(None, overrides).expect("is valid")
}

fn links(tls: &TlsFiles) -> Links {
    let tls = ServiceTls::open(tls).expect("the files are good");
    Links::new(None, |_| 0).encrypted(tls).expect("can call")
}

/// A caller of another make, who trusts an authority and may show something.
fn stranger(authority: &Path, shown: Option<&TlsFiles>) -> Client {
    let read = |path: &Path| fs::read(path).expect("is there");
    let trusted = Certificate::from_pem(&read(authority)).expect("is one");
    let client = Client::builder().no_proxy().tls_certs_only([trusted]);
    let client = match shown {
        Some(files) => {
            let both = [read(&files.certificate), read(&files.key)].concat();
            client.identity(Identity::from_pem(&both).expect("fit together"))
        }
        None => client,
    };
    client.build().expect("can call")
}

/// An error with all its causes, as a log shows it.
fn told(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words += &format!(": {error}");
        cause = error.source();
    }
    words
}

fn folder() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

#[tokio::test]
async fn services_of_one_authority_call_each_other_by_address_and_by_name() {
    let folder = folder();
    let authority = PrivateAuthority::new(folder.path(), "ours");
    let hub = Hub::start(&authority.sign("hub", HERE, Validity::Now)).await;
    let caller = authority.sign("meta", &["meta1.internal"], Validity::Now);
    hub.call(&caller).await.expect("answers");
    let by_name = Upstream::new(links(&caller), vec![format!("localhost:{}", hub.address.port())]);
    by_name.call::<(), ()>(ALIVE, &()).await.expect("answers");
}

#[tokio::test]
async fn a_service_whose_certificate_is_for_another_host_is_not_called() {
    let folder = folder();
    let authority = PrivateAuthority::new(folder.path(), "ours");
    let hub = Hub::start(&authority.sign("hub", &["hub1.internal"], Validity::Now)).await;
    let caller = authority.sign("meta", HERE, Validity::Now);
    let refused = hub.call(&caller).await.expect_err("it may be anybody");
    assert!(matches!(refused, CallError::Unreachable { .. }), "{refused:?}");
    assert!(told(&refused).contains("not valid for name"), "{}", told(&refused));
    let by_name = Upstream::new(links(&caller), vec![format!("localhost:{}", hub.address.port())]);
    by_name.call::<(), ()>(ALIVE, &()).await.expect_err("nor by another name");
}

#[tokio::test]
async fn certificates_of_another_authority_count_for_nothing_on_either_side() {
    let folder = folder();
    let (ours, theirs) = (PrivateAuthority::new(folder.path(), "ours"), PrivateAuthority::new(folder.path(), "theirs"));
    let hub = Hub::start(&ours.sign("hub", HERE, Validity::Now)).await;
    let other = theirs.sign("meta", HERE, Validity::Now);
    let refused = hub.call(&other).await.expect_err("the caller does not know it");
    assert!(told(&refused).contains("UnknownIssuer"), "{}", told(&refused));
    let refused = stranger(&ours.file(), Some(&other)).get(hub.url("/healthz")).send().await;
    let refused = refused.expect_err("the service does not know the caller");
    assert!(told(&refused).contains("UnknownCA"), "{}", told(&refused));
    let mixed = TlsFiles { authority: Some(ours.file()), ..other };
    let refused = ServiceTls::open(&mixed).expect_err("nobody would accept it");
    assert!(matches!(refused, BadTls::Unacceptable { .. }), "{refused:?}");
}

#[tokio::test]
async fn who_shows_no_certificate_learns_how_the_process_does_and_can_call_nothing() {
    let folder = folder();
    let authority = PrivateAuthority::new(folder.path(), "ours");
    let hub = Hub::start(&authority.sign("hub", HERE, Validity::Now)).await;
    let balancer = stranger(&authority.file(), None);
    for page in ["/healthz", "/readyz", "/metrics"] {
        let answer = balancer.get(hub.url(page)).send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK, "{page}");
    }
    for call in ["alive", "relay", "announce", "follow"] {
        let answer = balancer.post(hub.url(&format!("{SERVICE_PREFIX}/{call}"))).send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{call}");
        let words = answer.text().await.expect("a text");
        assert!(words.contains("no certificate of the services' authority"), "{words}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_at_the_start_and_by_both_sides() {
    let folder = folder();
    let authority = PrivateAuthority::new(folder.path(), "ours");
    let expired = authority.sign("old", HERE, Validity::Over);
    let started = server::run(config(&expired), std::future::pending(), |_| ()).await;
    let refused = started.expect_err("it would be of no use");
    assert!(matches!(refused, ServerError::ServiceTls { source: BadTls::Unacceptable { .. } }), "{refused:?}");
    assert!(told(&refused).contains("certificate expired"), "{}", told(&refused));

    let hub = Hub::start(&authority.sign("hub", HERE, Validity::Now)).await;
    let refused = stranger(&authority.file(), Some(&expired)).get(hub.url("/healthz")).send().await;
    let refused = refused.expect_err("the service sees that its time is over");
    assert!(told(&refused).contains("CertificateExpired"), "{}", told(&refused));

    // Without an authority of its own a process does not judge its certificate. Others do.
    let careless = Hub::start(&TlsFiles { authority: None, ..expired }).await;
    let refused = careless.call(&authority.sign("meta", HERE, Validity::Now)).await.expect_err("the caller sees it");
    assert!(told(&refused).contains("certificate expired"), "{}", told(&refused));
}

#[tokio::test]
async fn a_plain_caller_is_told_to_speak_tls() {
    let folder = folder();
    let authority = PrivateAuthority::new(folder.path(), "ours");
    let hub = Hub::start(&authority.sign("hub", HERE, Validity::Now)).await;
    let plain = Client::builder().no_proxy().build().expect("can call");
    let answer = plain.get(format!("http://{}/readyz", hub.address)).send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.expect("a text").contains("encrypted calls only"));
    let called: Result<(), _> = Links::new(None, |_| 0).call(&hub.address.to_string(), ALIVE, &()).await;
    assert!(matches!(called, Err(CallError::Foreign { .. })), "{called:?}");
}

#[tokio::test]
async fn files_that_do_not_fit_are_an_error_that_names_them() {
    let folder = folder();
    let authority = PrivateAuthority::new(folder.path(), "ours");
    let (one, two) = (authority.sign("one", HERE, Validity::Now), authority.sign("two", HERE, Validity::Now));
    let opened = |files: &TlsFiles| ServiceTls::open(files).expect_err("is refused");
    let mixed = opened(&TlsFiles { key: two.key.clone(), ..one.clone() });
    assert!(matches!(mixed, BadTls::Mismatch { .. }), "{mixed:?}");
    let missing = opened(&TlsFiles { certificate: folder.path().join("none"), ..one.clone() });
    assert!(told(&missing).contains("none"), "{}", told(&missing));
    let swapped = opened(&TlsFiles { certificate: one.key.clone(), ..one.clone() });
    assert!(matches!(swapped, BadTls::NoCertificate { .. }), "{swapped:?}");
    let keyless = opened(&TlsFiles { key: one.certificate.clone(), ..one });
    assert!(matches!(keyless, BadTls::Key { .. }), "{keyless:?}");
}

/// Copies new files over those of a process that runs.
fn replace(files: &TlsFiles, new: &TlsFiles) {
    fs::copy(&new.certificate, &files.certificate).expect("copies");
    fs::copy(&new.key, &files.key).expect("copies");
}

/// Asks again and again, each time on a connection of its own, until the answer is as it should be.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let late = tokio::time::Instant::now() + LATE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < late, "{what} did not come about");
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn a_process_that_runs_takes_up_a_new_certificate_and_then_a_new_authority() {
    let folder = folder();
    let (old, new) = (PrivateAuthority::new(folder.path(), "old"), PrivateAuthority::new(folder.path(), "new"));
    let hub_files = old.sign("hub", HERE, Validity::Now);
    let ca = folder.path().join("hub-ca.pem");
    fs::copy(old.file(), &ca).expect("copies");
    let hub_files = TlsFiles { authority: Some(ca.clone()), ..hub_files };
    let hub = Hub::start(&hub_files).await;
    let caller = old.sign("meta", HERE, Validity::Now);
    hub.call(&caller).await.expect("answers");

    // Both authorities, then a certificate of the new one, then the new one alone.
    let both = [fs::read(old.file()).expect("reads"), fs::read(new.file()).expect("reads")].concat();
    fs::write(&ca, both).expect("writes");
    let by_new = new.sign("meta", HERE, Validity::Now);
    let from_new = stranger(&old.file(), Some(&by_new));
    until("a caller of the new authority", async || from_new.get(hub.url("/healthz")).send().await.is_ok()).await;
    hub.call(&caller).await.expect("the old authority counts too");

    replace(&hub_files, &new.sign("hub2", HERE, Validity::Now));
    until("the new certificate", async || hub.call(&by_new).await.is_ok()).await;

    fs::copy(new.file(), &ca).expect("copies");
    let outdated = TlsFiles { authority: Some(new.file()), ..caller };
    let outdated = async || stranger(&new.file(), Some(&outdated)).get(hub.url("/healthz")).send().await.is_err();
    until("the end of the old authority", outdated).await;
    hub.call(&by_new).await.expect("answers");
}

#[tokio::test]
async fn calls_that_go_on_show_and_believe_what_the_files_say_now() {
    let folder = folder();
    let (old, new) = (PrivateAuthority::new(folder.path(), "old"), PrivateAuthority::new(folder.path(), "new"));
    let hub = Hub::start(&new.sign("hub", HERE, Validity::Now)).await;
    let files = old.sign("meta", HERE, Validity::Now);
    let tls = ServiceTls::open(&files).expect("the files are good");
    let links = Links::new(None, |_| 0).encrypted(tls.clone()).expect("can call");
    let by_name = Upstream::new(links.clone(), vec![format!("localhost:{}", hub.address.port())]);
    let address = hub.address.to_string();
    links.call::<(), ()>(&address, ALIVE, &()).await.expect_err("the hub is of another authority");
    by_name.call::<(), ()>(ALIVE, &()).await.expect_err("also by its name");
    assert_eq!(tls.renew().expect("they are good"), Renewal::Unchanged);

    replace(&files, &new.sign("meta", HERE, Validity::Now));
    let half = tls.renew().expect_err("the authority is another one still");
    assert!(matches!(half, BadTls::Unacceptable { .. }), "{half:?}");
    fs::copy(new.file(), old.file()).expect("copies");
    assert_eq!(tls.renew().expect("they are good"), Renewal::Renewed);
    links.call::<(), ()>(&address, ALIVE, &()).await.expect("the same calls are believed now");
    by_name.call::<(), ()>(ALIVE, &()).await.expect("also by its name");
}

#[tokio::test]
async fn files_that_are_no_good_change_nothing() {
    let folder = folder();
    let authority = PrivateAuthority::new(folder.path(), "ours");
    let hub = Hub::start(&authority.sign("hub", HERE, Validity::Now)).await;
    let files = authority.sign("meta", HERE, Validity::Now);
    let tls = ServiceTls::open(&files).expect("the files are good");
    let links = Links::new(None, |_| 0).encrypted(tls.clone()).expect("can call");
    let expired = authority.sign("old", HERE, Validity::Over);
    let bad: [&dyn Fn(); 4] = [
        &|| fs::write(&files.certificate, "no certificate").expect("writes"),
        &|| replace(&files, &expired),
        &|| {
            fs::copy(&authority.sign("other", HERE, Validity::Now).key, &files.key).expect("copies");
        },
        &|| fs::remove_file(&files.key).expect("removes"),
    ];
    for (n, spoil) in bad.into_iter().enumerate() {
        spoil();
        tls.renew().expect_err("it is no good");
        links.call::<(), ()>(&hub.address.to_string(), ALIVE, &()).await.unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    replace(&files, &authority.sign("third", HERE, Validity::Now));
    assert_eq!(tls.renew().expect("they are good"), Renewal::Renewed);
}
