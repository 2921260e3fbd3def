//! What the certificate files say at the time, for handshakes of long-lived clients.

use super::Contents;
use rustls::DigitallySignedStruct;
use rustls::client::ResolvesClientCert;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error, SignatureScheme};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;

/// What the files said when they were read.
pub(super) struct Current {
    pub(super) contents: Contents,
    pub(super) acceptor: TlsAcceptor,
    /// `None` without an authority.
    pub(super) calling: Option<Calling>,
}

/// What calls to others go by.
pub(super) struct Calling {
    /// Whom they believe.
    pub(super) known: Arc<WebPkiServerVerifier>,
    /// What they show.
    pub(super) shown: Arc<CertifiedKey>,
}

/// What the files say, which changes; all clones see the same.
#[derive(Clone)]
pub(super) struct Followed(Arc<RwLock<Arc<Current>>>);

impl Followed {
    pub(super) fn new(current: Current) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(current))))
    }

    pub(super) fn now(&self) -> Arc<Current> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, current: Current) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    fn known(&self) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let now = self.now();
        let calling =
            now.calling.as_ref().ok_or_else(|| Error::General("there is no authority to verify by".into()))?;
        Ok(calling.known.clone())
    }
}

/// A key must not end up in a log.
impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Followed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.known()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.known()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.known()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known().map(|known| known.supported_verify_schemes()).unwrap_or_default()
    }
}

impl ResolvesClientCert for Followed {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.now().calling.as_ref().map(|calling| calling.shown.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
