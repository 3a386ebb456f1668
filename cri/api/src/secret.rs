//! Credentials keep out of logs: `Debug` says which ones are there, never what they are.

use crate::runtime::v1::AuthConfig;
use std::fmt;

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without `..`: a credential that a later API adds does not compile until it is listed here.
        let AuthConfig { username, password, auth, server_address, identity_token, registry_token } =
            self;
        f.debug_struct("AuthConfig")
            .field("username", username)
            .field("server_address", server_address)
            .field("password", &hidden(password))
            .field("auth", &hidden(auth))
            .field("identity_token", &hidden(identity_token))
            .field("registry_token", &hidden(registry_token))
            .finish()
    }
}

fn hidden(secret: &str) -> &'static str {
    if secret.is_empty() { "" } else { "<hidden>" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::v1::PullImageRequest;

    #[test]
    fn debug_output_has_no_credentials() {
        let auth = AuthConfig {
            username: "ann".into(),
            password: "p-secret".into(),
            auth: "a-secret".into(),
            server_address: "registry.example".into(),
            identity_token: "i-secret".into(),
            registry_token: "r-secret".into(),
        };
        let text = format!("{:?}", PullImageRequest { auth: Some(auth), ..Default::default() });
        assert!(text.contains("ann") && text.contains("registry.example"), "{text}");
        assert!(!text.contains("-secret"), "{text}");
    }
}
