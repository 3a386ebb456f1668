//! Content addresses: the only strings in this crate that may become part of a path or a request.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// The digest of some bytes: an algorithm and lowercase hex of exactly its length.
///
/// The grammar is the one of the OCI image specification, narrowed to its two registered algorithms: anything else
/// (CVE-2024-3727 and its kin) ends at the parser and can reach neither a path nor a URL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    text: String,
    algorithm: Algorithm,
}

/// A hash function that may name content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, what everybody uses.
    Sha256,
    /// SHA-512, the other registered algorithm.
    Sha512,
}

/// The text is not a digest this crate accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("digest must be sha256 or sha512 and lowercase hex of its length, got {0:?}")]
pub struct BadDigest(String);

impl BadDigest {
    /// Remembers `text`, cut short: it may be a megabyte of a hostile manifest.
    fn new(text: &str) -> Self {
        Self(text.chars().take(100).collect())
    }
}

impl Algorithm {
    /// The name as it stands before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash function.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let (name, hex) = text.split_once(':').ok_or_else(|| BadDigest::new(text))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(BadDigest::new(text)),
        };
        let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() != algorithm.hex_len() || !is_hex {
            return Err(BadDigest::new(text));
        }
        Ok(Self { text: text.to_owned(), algorithm })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Logs show the short form people use at a prompt.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), &self.hex()[..12])
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream with the algorithm its expected digest names.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Starts an empty stream.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Adds the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hasher) => from_hash(Algorithm::Sha256, &hasher.finalize()),
            State::Sha512(hasher) => from_hash(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Digest {
    let mut text = String::with_capacity(algorithm.as_str().len() + 1 + algorithm.hex_len());
    text.push_str(algorithm.as_str());
    text.push(':');
    for byte in hash {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    Digest { text, algorithm }
}

/// Names a layer together with everything below it: OCI image specification, "Layer ChainID".
///
/// Two images share a stored layer only where the layers below are the same too, so a diff id under another parent is
/// another layer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(Digest);

impl ChainId {
    /// The chain id of a lowest layer: its diff id.
    #[must_use]
    pub fn base(diff_id: &Digest) -> Self {
        Self(diff_id.clone())
    }

    /// The chain id of the layer `diff_id` on top of this one.
    #[must_use]
    pub fn push(&self, diff_id: &Digest) -> Self {
        Self(Digest::of(format!("{} {diff_id}", self.0).as_bytes()))
    }

    /// The chain ids of `diff_ids`, lowest first as in the image configuration.
    #[must_use]
    pub fn chain(diff_ids: &[Digest]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let next =
                chain.last().map_or_else(|| Self::base(diff_id), |below| below.push(diff_id));
            chain.push(next);
        }
        chain
    }

    /// The digest that it is made of.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for ChainId {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        text.parse().map(Self)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registered_algorithms_with_exact_lowercase_hex_are_digests() {
        let long = format!("sha256:{}", "a".repeat(1 << 20));
        let hex = "0123456789abcdef".repeat(4);
        let cases = [
            ("sha256", format!("sha256:{hex}"), true),
            ("sha512", format!("sha512:{hex}{hex}"), true),
            ("no algorithm", hex.clone(), false),
            ("no hex", "sha256:".into(), false),
            ("only a colon", ":".into(), false),
            ("nothing", String::new(), false),
            ("too short", format!("sha256:{}", &hex[1..]), false),
            ("too long", format!("sha256:{hex}0"), false),
            ("a megabyte", long, false),
            ("upper case", format!("sha256:{}", hex.to_uppercase()), false),
            ("upper case algorithm", format!("SHA256:{hex}"), false),
            ("sha512 with the length of sha256", format!("sha512:{hex}"), false),
            ("unknown algorithm", format!("md5:{hex}"), false),
            ("a path", "sha256:../../../etc/passwd".into(), false),
            ("a path of the right length", format!("sha256:{}/../x", &hex[..58]), false),
            ("NUL", format!("sha256:{}\0", &hex[1..]), false),
            ("a line end", format!("sha256:{hex}\n"), false),
        ];
        for (name, text, good) in cases {
            assert_eq!(text.parse::<Digest>().is_ok(), good, "{name}");
        }
    }

    #[test]
    fn a_refused_digest_is_quoted_in_short() {
        let err = "x".repeat(1 << 20).parse::<Digest>().unwrap_err();
        assert!(err.to_string().len() < 200);
    }

    #[test]
    fn a_stream_hashes_like_its_parts() {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"a");
        hasher.update(b"bc");
        // FIPS 180-2, appendix B.1.
        let want = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hasher.finish().as_str(), want);
        assert_eq!(Digest::of(b"abc").as_str(), want);
        let sha512 = Hasher::new(Algorithm::Sha512).finish();
        assert!(sha512.as_str().starts_with("sha512:cf83e1357eefb8bdf1542850d66d8007"));
        assert_eq!(sha512.as_str().parse(), Ok(sha512));
    }

    #[test]
    fn a_chain_id_depends_on_everything_below() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = ChainId::chain(&[a.clone(), b.clone()]);
        assert_eq!(chain[0].digest(), &a, "the lowest is its diff id");
        assert_eq!(chain[1].digest(), &Digest::of(format!("{a} {b}").as_bytes()));
        assert_ne!(chain[1], ChainId::chain(&[b.clone(), a])[1]);
        assert!(ChainId::chain(&[]).is_empty());
    }

    #[test]
    fn serde_checks_too() {
        let good = Digest::of(b"x");
        let json = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), good);
        assert!(serde_json::from_str::<Digest>("\"sha256:../x\"").is_err());
        assert!(serde_json::from_str::<ChainId>("\"sha256:../x\"").is_err());
    }
}
