//! TLS between the processes of one server.
//!
//! A process has one certificate, which it shows to those that call it and to those that it calls. With an
//! authority ([`TlsFiles::authority`]) both sides verify: a caller that shows a certificate of another authority,
//! or one whose time is over, gets no connection. One that shows none gets a connection on which it is
//! [`Caller::Unknown`], so that balancers and monitoring can ask how a process does; calls are not for it
//! ([`crate::guard`]). Without an authority callers verify by the system's authorities, show nothing, and prove
//! themselves by the secret alone.
//!
//! What the files say counts for the handshakes that begin after they were read. [`ServiceTls::renew`] reads them again:
//! connections that are there go on, and files that are no good change nothing.

mod current;

use current::{Calling, Current, Followed};
use reqwest::ClientBuilder;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::fs;
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
    files: TlsFiles,
    /// What the files said when they were good last; all clones share it.
    current: Followed,
    /// Without an authority, calls are encrypted as any program's are.
    caller: Option<Arc<ClientConfig>>,
}

/// What has become of the files since they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// They are the same.
    Unchanged,
    /// They are others, and count from now on.
    Renewed,
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
        let current = Followed::new(Current::read(files, Contents::read(files)?)?);
        let caller = match current.now().calling {
            Some(_) => Some(Arc::new(calling_with(current.clone(), files)?)),
            None => None,
        };
        Ok(Self { files: files.clone(), current, caller })
    }

    /// Reads the files again. What they say now counts for all handshakes from here on, if it is any good.
    ///
    /// # Errors
    /// [`BadTls`]; then what they said before goes on to count.
    pub fn renew(&self) -> Result<Renewal, BadTls> {
        let contents = Contents::read(&self.files)?;
        if self.current.now().contents == contents {
            return Ok(Renewal::Unchanged);
        }
        self.current.set(Current::read(&self.files, contents)?);
        Ok(Renewal::Renewed)
    }

    /// The file with the certificate, for messages.
    #[must_use]
    pub fn certificate(&self) -> &Path {
        &self.files.certificate
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
        let acceptor = self.current.now().acceptor.clone();
        let stream = acceptor.accept(stream).await?;
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

/// The bytes of the files.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, BadTls> {
        let certificates = |path: &PathBuf| {
            fs::read(path).map_err(|error| BadTls::Certificates { path: path.clone(), source: pem::Error::Io(error) })
        };
        let key = |error| BadTls::Key { path: files.key.clone(), source: pem::Error::Io(error) };
        Ok(Self {
            certificate: certificates(&files.certificate)?,
            key: fs::read(&files.key).map_err(key)?,
            authority: files.authority.as_ref().map(certificates).transpose()?,
        })
    }
}

impl Current {
    /// What the contents of these files mean.
    fn read(files: &TlsFiles, contents: Contents) -> Result<Self, BadTls> {
        let TlsFiles { certificate, key, authority } = files;
        let chain = certificates(certificate, &contents.certificate)?;
        let private = PrivateKeyDer::from_pem_slice(&contents.key);
        let private = private.map_err(|source| BadTls::Key { path: key.clone(), source })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mismatch = |source| BadTls::Mismatch { certificate: certificate.clone(), key: key.clone(), source };
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(mismatch)?;
        let (mut server, calling) = match authority.as_deref().zip(contents.authority.as_deref()) {
            None => (server.with_no_client_auth().with_single_cert(chain, private).map_err(mismatch)?, None),
            Some((path, bytes)) => {
                let roots = authorities(path, bytes)?;
                let unusable = |source| BadTls::Authority {
                    path: path.to_owned(),
                    source: rustls::Error::General(format!("{source}")),
                };
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
                let verifier = verifier.allow_unauthenticated().build().map_err(unusable)?;
                accepts(verifier.as_ref(), &chain)
                    .map_err(|source| BadTls::Unacceptable { certificate: certificate.clone(), source })?;
                let known = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
                let known = known.build().map_err(unusable)?;
                let shown = CertifiedKey::from_der(chain.clone(), private.clone_key(), &provider).map_err(mismatch)?;
                let server = server.with_client_cert_verifier(verifier);
                let calling = Calling { known, shown: Arc::new(shown) };
                (server.with_single_cert(chain, private).map_err(mismatch)?, Some(calling))
            }
        };
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { contents, acceptor: TlsAcceptor::from(Arc::new(server)), calling })
    }
}

/// Calls that show, and believe, what the files say at the time.
fn calling_with(current: Followed, files: &TlsFiles) -> Result<ClientConfig, BadTls> {
    let TlsFiles { certificate, key, .. } = files;
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mismatch = |source| BadTls::Mismatch { certificate: certificate.clone(), key: key.clone(), source };
    let client = client.map_err(mismatch)?.dangerous().with_custom_certificate_verifier(Arc::new(current.clone()));
    let mut client = client.with_client_cert_resolver(Arc::new(current));
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A session that is resumed is not verified anew, so one of an authority that is gone would live on.
    client.resumption = Resumption::disabled();
    Ok(client)
}

/// A key must not end up in a log.
impl fmt::Debug for ServiceTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceTls").field("knows_callers", &self.knows_callers()).finish_non_exhaustive()
    }
}

/// One or more, in order.
fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let unreadable = |source| BadTls::Certificates { path: path.to_owned(), source };
    let found = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if found.is_empty() { Err(BadTls::NoCertificate { path: path.to_owned() }) } else { Ok(found) }
}

fn authorities(path: &Path, bytes: &[u8]) -> Result<Arc<RootCertStore>, BadTls> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, bytes)? {
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
