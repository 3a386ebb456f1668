//! What a pull is asked for, tells on its way, and gives.

use crate::leases::Lease;
use crate::record::Image;
use crate::reference::Reference;
use std::fmt;

/// One pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// Who asks; nobody in particular when absent.
    pub auth: Option<Credentials>,
}

/// Something to show, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// What is shown.
    pub auth: Auth,
    /// The registry or mirror it is for, as `registry.example:5000` or as a URL. Absent: the registry of the image, and none
    /// of its mirrors.
    pub server: Option<String>,
}

impl From<Auth> for Credentials {
    fn from(auth: Auth) -> Self {
        Self { auth, server: None }
    }
}

/// What a registry may be shown. [`Debug`] never prints a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// A name and a password, for the registry or its token server.
    Basic {
        /// The account.
        username: String,
        /// Its secret.
        password: String,
    },
    /// An OAuth2 refresh token, for the token server.
    IdentityToken(String),
    /// A bearer token, for the registry itself.
    RegistryToken(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

/// Where a pull tells how far it is. The receiver may be gone; nobody minds.
pub type ProgressSender = tokio::sync::watch::Sender<Progress>;

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// `registry/repository@digest`, once the registry has said what the name means.
    pub resolved: Option<String>,
    /// Lowest first; empty until the manifest is here.
    pub layers: Vec<LayerProgress>,
}

/// How far one layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// Of the compressed bytes.
    pub digest: String,
    /// Compressed bytes that are here.
    pub done: u64,
    /// Compressed bytes in all.
    pub total: u64,
    /// Its stage.
    pub state: LayerState,
}

/// The stages of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// For its turn.
    Waiting,
    /// And being unpacked meanwhile.
    Downloading,
    /// In the store now.
    Unpacked,
    /// Was in the store before.
    Exists,
}

/// A finished pull.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The record to keep.
    pub image: Image,
    /// Keeps the content from being collected until the record is kept. Drop it after that.
    pub lease: Lease,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_ever_printed() {
        let basic = Auth::Basic { username: "me".into(), password: "hunter2".into() };
        for auth in
            [basic, Auth::IdentityToken("hunter2".into()), Auth::RegistryToken("hunter2".into())]
        {
            let request =
                PullRequest { reference: "app".parse().unwrap(), auth: Some(auth.into()) };
            assert!(!format!("{request:?}{request:#?}").contains("hunter2"));
        }
    }
}
