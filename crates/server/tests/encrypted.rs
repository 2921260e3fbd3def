//! The address for other services with TLS: who gets in, and what the others are told.

use reqwest::{Certificate, Client, Identity, StatusCode};
use server::{Config, Overrides, ProcessRole, ServerError};
use service_calls::private_authority::{PrivateAuthority, Validity};
use service_calls::wire::{ALIVE, SERVICE_PREFIX};
use service_calls::{BadTls, CallError, Links, ServiceTls, TlsFiles, Upstream};
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What the certificates of these tests are for, besides the address.
const HERE: &[&str] = &["localhost", "127.0.0.1"];

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
