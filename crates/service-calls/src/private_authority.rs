//! An authority that signs for the services of a test, and for those that must not get in.

use crate::tls::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use std::path::{Path, PathBuf};

/// An authority. What it cannot do is the test's failure, so everything here panics.
pub struct PrivateAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    name: String,
}

/// Whether the time of a certificate is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Now,
    Over,
}

impl PrivateAuthority {
    /// A new one, whose files are in this folder and begin with its name.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("signs");
        let authority = Self { issuer, folder: folder.to_owned(), name: name.to_owned() };
        std::fs::write(authority.file(), authority.issuer.pem()).expect("writes");
        authority
    }

    /// The file with its own certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join(format!("{}-ca.pem", self.name))
    }

    /// A certificate for these host names and addresses, and its key, in files of their own.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn sign(&self, file: &str, hosts: &[&str], validity: Validity) -> TlsFiles {
        let names: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are good");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if validity == Validity::Over {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 2);
        }
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        let path = |ending: &str| self.folder.join(format!("{}-{file}.{ending}", self.name));
        let files = TlsFiles { certificate: path("pem"), key: path("key"), authority: Some(self.file()) };
        std::fs::write(&files.certificate, certificate.pem()).expect("writes");
        std::fs::write(&files.key, key.serialize_pem()).expect("writes");
        files
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("makes a key")
}
