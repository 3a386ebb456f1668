//! Whom a host is believed by, and who it sees: certificate authorities, client certificates, verification.

use crate::digest::{Algorithm, Digest, Hasher};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt;
use std::sync::Arc;

/// How one host is spoken to over TLS, beside the system's certificate authorities. In PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) authorities: Vec<Vec<u8>>,
    /// Certificate and key. The first whose key can be used is shown.
    pub(super) clients: Vec<(Vec<u8>, Vec<u8>)>,
    skips_verification: bool,
}

/// Certificates or keys that are none.
#[derive(Debug, thiserror::Error)]
pub enum BadIdentity {
    /// A file for certificates has none, or broken ones.
    #[error("read a certificate")]
    Certificate(#[source] Option<rustls::pki_types::pem::Error>),
    /// A file for a key has none, or a broken one.
    #[error("read a private key")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// Not usable, or not belonging together.
    #[error("use a certificate")]
    Unusable(#[from] rustls::Error),
}

impl Identity {
    pub(super) fn with_verification(mut self, verifies: bool) -> Self {
        self.skips_verification = !verifies;
        self
    }

    #[cfg(test)]
    pub(super) fn verifies(&self) -> bool {
        !self.skips_verification
    }

    /// The same for somebody who must not see our certificate: where a host redirects to.
    pub(super) fn anonymous(&self) -> Self {
        Self { clients: Vec::new(), ..self.clone() }
    }

    /// The same for somebody who is to get credentials.
    pub(super) fn strict(&self) -> Self {
        self.anonymous().with_verification(true)
    }

    /// # Errors
    ///
    /// [`BadIdentity`] when a certificate or key is none.
    pub(super) fn checked(self) -> Result<Self, BadIdentity> {
        self.config(RootCertStore::empty())?;
        Ok(self)
    }

    /// Equal for equal identities, and tells nothing about keys.
    pub(super) fn fingerprint(&self) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        self.authorities.iter().for_each(|authority| add(authority));
        add(if self.skips_verification { b"any" } else { b"verified" });
        self.clients.iter().for_each(|(certificate, key)| {
            add(certificate);
            add(key);
        });
        hasher.finish()
    }

    /// What rustls is to do; `roots` are the system's authorities.
    pub(super) fn config(&self, mut roots: RootCertStore) -> Result<ClientConfig, BadIdentity> {
        for pem in &self.authorities {
            for authority in certificates(pem)? {
                roots.add(authority)?;
            }
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if self.skips_verification {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            builder.with_root_certificates(roots)
        };
        let Some((certificate, key)) = self.clients.first() else {
            return Ok(builder.with_no_client_auth());
        };
        let key = PrivateKeyDer::from_pem_slice(key).map_err(BadIdentity::Key)?;
        Ok(builder.with_client_auth_cert(certificates(certificate)?, key)?)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadIdentity> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|err| BadIdentity::Certificate(Some(err)))?;
    if all.is_empty() { Err(BadIdentity::Certificate(None)) } else { Ok(all) }
}

/// Keys are never printed.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("authorities", &self.authorities.len())
            .field("clients", &self.clients.len())
            .field("skips_verification", &self.skips_verification)
            .finish()
    }
}

/// Believes every server: what `skip_verify` asks for. The handshake itself is still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
