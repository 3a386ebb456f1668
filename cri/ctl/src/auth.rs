//! Credentials for a registry, from the command line.

use std::io::{self, BufRead, IsTerminal, Write};

use cri_api::runtime::v1::AuthConfig;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::docker_config;
use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct AuthFlags {
    /// Credentials for the registry
    #[arg(long, value_name = "USERNAME[:PASSWORD]", env = "CRICTL_CREDS", hide_env_values = true)]
    creds: Option<String>,

    /// The same in base64
    #[arg(long, value_name = "BASE64", env = "CRICTL_AUTH", hide_env_values = true)]
    auth: Option<String>,

    /// User name for the registry; asks for the password
    #[arg(long)]
    username: Option<String>,
}

impl AuthFlags {
    /// The credentials of the command line, or else what `docker login` left for the registry of `image`.
    pub(crate) fn credentials_for(self, image: &str) -> Result<Option<AuthConfig>, CliError> {
        match self.credentials()? {
            Some(auth) => Ok(Some(auth)),
            None => docker_config::credentials(image),
        }
    }

    pub(crate) fn credentials(self) -> Result<Option<AuthConfig>, CliError> {
        match (self.username, self.creds, self.auth) {
            (Some(username), ..) => {
                let password = ask_password().map_err(CliError::Password)?;
                Ok(Some(AuthConfig { username, password, ..Default::default() }))
            }
            (None, Some(_), Some(_)) => Err(CliError::Conflict("creds", "auth")),
            (None, Some(creds), None) => Ok(Some(parse(&creds))),
            (None, None, Some(auth)) => Ok(Some(AuthConfig { auth, ..Default::default() })),
            (None, None, None) => Ok(None),
        }
    }
}

fn parse(creds: &str) -> AuthConfig {
    let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
    AuthConfig { username: username.into(), password: password.into(), ..Default::default() }
}

fn ask_password() -> io::Result<String> {
    let input = io::stdin();
    let silence = if input.is_terminal() {
        write!(io::stderr(), "Password: ")?;
        Some(Silence::new()?)
    } else {
        None
    };
    let mut password = String::new();
    input.lock().read_line(&mut password)?;
    if silence.is_some() {
        // The line end that was typed was not shown.
        writeln!(io::stderr())?;
    }
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

/// The terminal does not show what is typed until this is dropped.
struct Silence(Termios);

impl Silence {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that has gone needs no echo.
        tcsetattr(io::stdin(), OptionalActions::Flush, &self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_have_colons_or_be_missing() {
        for (text, username, password) in
            [("ann:s:e:c", "ann", "s:e:c"), ("ann", "ann", ""), ("ann:", "ann", "")]
        {
            let auth = parse(text);
            assert_eq!((auth.username.as_str(), auth.password.as_str()), (username, password));
        }
    }
}
