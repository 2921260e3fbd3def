//! TLS between the processes of one server.
//!
//! A process has one certificate, which it shows to those that call it and to those that it calls. With an
//! authority ([`TlsFiles::authority`]) both sides verify: a caller that shows a certificate of another authority,
//! or one whose time is over, gets no connection. One that shows none gets a connection on which it is
//! [`Caller::Unknown`], so that balancers and monitoring can ask how a process does; calls are not for it
//! ([`crate::guard`]). Without an authority callers verify by the system's authorities, show nothing, and prove
//! themselves by the secret alone.
//!
//! The files are read once. A process takes up new ones when it is restarted, which no device notices.

use reqwest::ClientBuilder;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The only protocol behind it. Nothing else is offered, so no connection becomes HTTP/2.
const PROTOCOL: &[u8] = b"http/1.1";

/// The PEM files of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and behind it those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Certificates of authorities that sign for the services of this server and for nobody else.
    pub authority: Option<PathBuf>,
}

/// How a process encrypts what it says to others, and knows them.
#[derive(Clone)]
pub struct ServiceTls {
    acceptor: TlsAcceptor,
    /// Without an authority, calls are encrypted as any program's are.
    caller: Option<Arc<ClientConfig>>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// It has shown a certificate of the services' authority.
    Service,
    /// It has shown none.
    Unknown,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    #[error("cannot read the certificates in {path}")]
    Certificates { path: PathBuf, source: pem::Error },
    #[error("there is no certificate in {path}")]
    NoCertificate { path: PathBuf },
    #[error("cannot read the private key in {path}")]
    Key { path: PathBuf, source: pem::Error },
    #[error("the certificate in {certificate} and the key in {key} cannot be used together")]
    Mismatch { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("{path} holds something that is no authority's certificate")]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("no other service would accept the certificate in {certificate}")]
    Unacceptable { certificate: PathBuf, source: rustls::Error },
    #[error("cannot prepare encrypted calls")]
    Calls { source: reqwest::Error },
}

impl BadTls {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Certificates { .. } | Self::NoCertificate { .. } | Self::Key { .. } => {
                "the files are PEM, readable for this user; the key begins with `-----BEGIN PRIVATE KEY-----`"
            }
            Self::Mismatch { .. } => "take the key with which this certificate was requested",
            Self::Authority { .. } => "name the file with the certificate that signed those of all services",
            Self::Unacceptable { .. } => {
                "make a new certificate, signed by the authority in `service_ca_file`, for servers and clients alike"
            }
            Self::Calls { .. } => {
                "install the system's authorities (ca-certificates), or name your own in `service_ca_file`"
            }
        }
    }
}

impl ServiceTls {
    /// What these files give.
    ///
    /// # Errors
    /// [`BadTls`]; also when other services would refuse this certificate now.
    pub fn open(files: &TlsFiles) -> Result<Self, BadTls> {
        let TlsFiles { certificate, key, authority } = files;
        let chain = certificates(certificate)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|source| BadTls::Key { path: key.clone(), source })?;
        let authorities = authority.as_deref().map(authorities).transpose()?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mismatch = |source| BadTls::Mismatch { certificate: certificate.clone(), key: key.clone(), source };
        let versions = |provider: &Arc<CryptoProvider>| {
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()
        };
        let server = versions(&provider).map_err(mismatch)?;
        let (mut server, caller) = match authorities {
            None => (server.with_no_client_auth().with_single_cert(chain, private).map_err(mismatch)?, None),
            Some(roots) => {
                let unusable = |source| BadTls::Authority {
                    path: authority.clone().unwrap_or_default(),
                    source: rustls::Error::General(format!("{source}")),
                };
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
                let verifier = verifier.allow_unauthenticated().build().map_err(unusable)?;
                accepts(verifier.as_ref(), &chain)
                    .map_err(|source| BadTls::Unacceptable { certificate: certificate.clone(), source })?;
                let known = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
                let known = known.build().map_err(unusable)?;
                let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                let client = client.map_err(mismatch)?.with_webpki_verifier(known);
                let mut client = client.with_client_auth_cert(chain.clone(), private.clone_key()).map_err(mismatch)?;
                client.alpn_protocols = vec![PROTOCOL.to_vec()];
                let server = server.with_client_cert_verifier(verifier);
                (server.with_single_cert(chain, private).map_err(mismatch)?, Some(Arc::new(client)))
            }
        };
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), caller })
    }

    /// Whether a caller must show a certificate.
    #[must_use]
    pub const fn knows_callers(&self) -> bool {
        self.caller.is_some()
    }

    /// The handshake with a caller.
    ///
    /// # Errors
    /// The caller shows a certificate that counts for nothing, or speaks something else.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<(TlsStream<S>, Caller)> {
        let stream = self.acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().is_some();
        Ok((stream, if shown { Caller::Service } else { Caller::Unknown }))
    }

    /// Calls over HTTPS alone.
    pub(crate) fn prepare(&self, client: ClientBuilder) -> ClientBuilder {
        let client = client.https_only(true).http1_only();
        match &self.caller {
            Some(config) => client.tls_backend_preconfigured(ClientConfig::clone(config)),
            None => client,
        }
    }
}

/// A key must not end up in a log.
impl fmt::Debug for ServiceTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceTls").field("knows_callers", &self.knows_callers()).finish_non_exhaustive()
    }
}

/// One or more, in order.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let unreadable = |source| BadTls::Certificates { path: path.to_owned(), source };
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if found.is_empty() { Err(BadTls::NoCertificate { path: path.to_owned() }) } else { Ok(found) }
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>, BadTls> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| BadTls::Authority { path: path.to_owned(), source })?;
    }
    Ok(Arc::new(roots))
}

/// Whether other services accept a certificate: said at the start, and not by each of them in its log.
fn accepts(verifier: &dyn ClientCertVerifier, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    match chain {
        [certificate, between @ ..] => verifier.verify_client_cert(certificate, between, UnixTime::now()).map(drop),
        [] => Err(rustls::Error::NoCertificatesPresented),
    }
}
