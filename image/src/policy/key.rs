//! Public keys, as cosign and openssl write them: a SubjectPublicKeyInfo in PEM. The arithmetic is ring's, which the TLS
//! client brings along.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A key that can check signatures.
pub(crate) struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadKey {
    /// Its file.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not base64.
    #[error("decode the key in the policy")]
    Base64(#[from] base64::DecodeError),
    /// Not PEM.
    #[error("no public key in PEM")]
    Pem,
    /// Of a kind that is not known here.
    #[error("the key is none of ECDSA P-256 and P-384, Ed25519 and RSA")]
    Kind,
}

// Object identifiers in DER: RFC 5480, RFC 8410, RFC 8017.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
const BITS: u8 = 0x03;

impl Key {
    pub(super) fn read(path: &Path) -> Result<Self, BadKey> {
        let text =
            std::fs::read(path).map_err(|source| BadKey::Read { path: path.to_owned(), source })?;
        Self::from_pem(&text)
    }

    /// From PEM that is encoded once more.
    pub(super) fn from_base64(text: &str) -> Result<Self, BadKey> {
        Self::from_pem(&STANDARD.decode(text.trim())?)
    }

    pub(super) fn from_pem(text: &[u8]) -> Result<Self, BadKey> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(text).map_err(|_| BadKey::Pem)?;
        Self::from_der(&info).ok_or(BadKey::Kind)
    }

    /// `SEQUENCE { SEQUENCE { OBJECT algorithm, OBJECT curve OPTIONAL }, BIT STRING }`.
    fn from_der(der: &[u8]) -> Option<Self> {
        let (info, []) = element(SEQUENCE, der)? else { return None };
        let (kind, rest) = element(SEQUENCE, info)?;
        let (bits, []) = element(BITS, rest)? else { return None };
        let (algorithm, parameters) = element(OBJECT, kind)?;
        let curve = element(OBJECT, parameters).map(|(curve, _)| curve);
        // The first byte counts unused bits, of which a key has none.
        let (0, bytes) = bits.split_first().map(|(unused, bytes)| (*unused, bytes))? else {
            return None;
        };
        // Of whatever length the key is, cosign signs the SHA-256 of the payload.
        let algorithm: &'static dyn VerificationAlgorithm = match (algorithm, curve) {
            (EC, Some(P256)) => &signature::ECDSA_P256_SHA256_ASN1,
            (EC, Some(P384)) => &signature::ECDSA_P384_SHA256_ASN1,
            (ED25519, None) => &signature::ED25519,
            (RSA, _) => &signature::RSA_PKCS1_2048_8192_SHA256,
            _ => return None,
        };
        Some(Self { algorithm, bytes: bytes.to_vec() })
    }

    /// Whether `signature` over `message` is of this key.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

/// The content of the element of kind `tag` that `der` begins with, and what is behind it. Lengths are minimal.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// openssl with these words, `input` on its standard input.
    fn openssl(words: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = Command::new("openssl")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "openssl {words:?}");
        output.stdout
    }

    #[test]
    fn keys_of_every_kind_check_what_openssl_signs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (secret, message) = (path("key"), path("message"));
        sys::durable::replace(message.as_ref(), b"payload", 0o600).unwrap();
        let kinds: [&[&str]; 4] = [
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            &["-algorithm", "ED25519"],
        ];
        for kind in kinds {
            openssl(&[&["genpkey", "-out", &secret][..], kind].concat(), b"");
            let public = openssl(&["pkey", "-in", &secret, "-pubout"], b"");
            let key = Key::from_pem(&public).unwrap();
            let mut sign = vec!["pkeyutl", "-sign", "-inkey", &secret, "-rawin", "-in", &message];
            if !kind.contains(&"ED25519") {
                sign.extend(["-digest", "sha256"]);
            }
            let signature = openssl(&sign, b"");
            assert!(key.verifies(b"payload", &signature), "{kind:?}");
            assert!(!key.verifies(b"Payload", &signature), "{kind:?}");
            assert!(Key::from_base64(&STANDARD.encode(&public)).is_ok());
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "key"] {
            assert!(Key::from_pem(text.as_bytes()).is_err(), "{text}");
        }
        for der in [&[][..], &[0x30], &[0x30, 0x84, 1, 1, 1, 1], &[0x30, 2, 0x30, 0]] {
            assert!(Key::from_der(der).is_none(), "{der:?}");
        }
    }
}
