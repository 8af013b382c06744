//! Credentials that a pull is given by hand.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
};

use image::Reference;
use nix::{
    fcntl::OFlag,
    sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr},
};
use pull::Credentials;
use thiserror::Error;
use tokio::net::unix::pipe::Receiver;

const OPTION: &str = "--creds";
const VARIABLE: &str = "USNEA_CREDS";
const TERMINAL: &str = "/dev/tty";
/// More than any password has, tokens included.
const MAX_PASSWORD_BYTES: usize = 64 << 10;

/// Why there are no credentials. No message shows any.
#[derive(Debug, Error)]
pub(super) enum CredentialsError {
    /// The text begins with a colon or is empty.
    #[error("{origin}: no user is given; write USER or USER:PASSWORD")]
    NoUser { origin: &'static str },
    /// Nothing comes after the colon, or nothing was typed.
    #[error(
        "{origin}: the password is empty; for a registry without credentials leave {OPTION} out"
    )]
    NoPassword { origin: &'static str },
    /// The variable is not UTF-8.
    #[error("{VARIABLE} is not UTF-8")]
    Encoding,
    /// Credentials are for one registry.
    #[error(
        "{origin} is for one registry, and these are several: {}; pull from one at a time, or use the credentials \
         files",
        domains.join(", ")
    )]
    SeveralRegistries { origin: &'static str, domains: Vec<String> },
    /// The password cannot be read.
    #[error("read the password from {from}")]
    Read {
        from: &'static str,
        #[source]
        source: io::Error,
    },
}

/// A user, and the password if it is known already.
pub(super) struct Login {
    origin: &'static str,
    domain: String,
    user: String,
    password: Option<String>,
}

impl Login {
    /// Reads option and environment; `None` without either. The password of a user without one is read from standard
    /// input if that is no terminal.
    pub(super) fn find(
        option: Option<&str>,
        references: &[Reference],
    ) -> Result<Option<Self>, CredentialsError> {
        let variable = match (option, env::var(VARIABLE)) {
            (None, Ok(text)) => Some(text),
            (None, Err(env::VarError::NotUnicode(_))) => return Err(CredentialsError::Encoding),
            _ => None,
        };
        let login = match (option, &variable) {
            (Some(text), _) => Self::parse(OPTION, text, references)?,
            (None, Some(text)) => Self::parse(VARIABLE, text, references)?,
            (None, None) => return Ok(None),
        };
        if login.password.is_some() || io::stdin().is_terminal() {
            return Ok(Some(login));
        }
        let password = whole(io::stdin().lock())
            .map_err(|source| CredentialsError::Read { from: "standard input", source })?;
        Ok(Some(Self { password: Some(password), ..login }))
    }

    fn parse(
        origin: &'static str,
        text: &str,
        references: &[Reference],
    ) -> Result<Self, CredentialsError> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (text, None),
        };
        if user.is_empty() {
            return Err(CredentialsError::NoUser { origin });
        }
        let mut domains: Vec<String> =
            references.iter().map(|reference| reference.domain().to_owned()).collect();
        domains.sort();
        domains.dedup();
        if domains.len() > 1 {
            return Err(CredentialsError::SeveralRegistries { origin, domains });
        }
        Ok(Self {
            origin,
            domain: domains.pop().unwrap_or_default(),
            user: user.to_owned(),
            password: password.map(str::to_owned),
        })
    }

    /// Asks on the terminal for a password that is not known. Dropping the future stops asking.
    pub(super) async fn credentials(self) -> Result<Credentials, CredentialsError> {
        let password = match self.password {
            Some(password) => password,
            None => ask(&format!("Password of {} for {}: ", self.user, self.domain))
                .await
                .map_err(|source| CredentialsError::Read { from: TERMINAL, source })?,
        };
        if password.is_empty() {
            return Err(CredentialsError::NoPassword { origin: self.origin });
        }
        Ok(Credentials::Basic { username: self.user, password })
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silenced {
    terminal: File,
    before: Termios,
}

impl Silenced {
    fn new(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silenced {
    fn drop(&mut self) {
        // There is nobody to tell.
        tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before).ok();
    }
}

/// Asks for a line that is not shown.
async fn ask(question: &str) -> io::Result<String> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(flags).open(TERMINAL)?;
    // No pipe, but read like one: as soon as epoll(7) says that there is a line.
    let input = Receiver::from_file_unchecked(terminal.try_clone()?)?;
    let mut silenced = Silenced::new(terminal)?;
    silenced.terminal.write_all(question.as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < MAX_PASSWORD_BYTES {
        let mut buffer = [0; 4096];
        input.readable().await?;
        match input.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&buffer[..count]),
            // It was not there after all.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    text(line)
}

/// Everything but the last line's end: the key file of a Google service account has many lines.
fn whole(input: impl Read) -> io::Result<String> {
    let limit = u64::try_from(MAX_PASSWORD_BYTES).unwrap_or(u64::MAX);
    let mut password = Vec::new();
    input.take(limit + 1).read_to_end(&mut password)?;
    if password.len() > MAX_PASSWORD_BYTES {
        let message = format!("the password has more than {MAX_PASSWORD_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    text(password)
}

/// A line without its end.
fn text(line: Vec<u8>) -> io::Result<String> {
    let line = String::from_utf8(line)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(texts: &[&str]) -> Vec<Reference> {
        texts.iter().map(|text| text.parse().expect("a reference")).collect()
    }

    #[test]
    fn a_password_may_have_colons() {
        for (text, user, password) in [
            ("me", "me", None),
            ("me:", "me", Some("")),
            ("me:a:b", "me", Some("a:b")),
            ("me: b ", "me", Some(" b ")),
        ] {
            let login = Login::parse(OPTION, text, &references(&["a.io/x"])).expect(text);
            assert_eq!((login.user.as_str(), login.password.as_deref()), (user, password));
            assert_eq!(login.domain, "a.io");
        }
    }

    #[test]
    fn what_has_no_user_or_is_for_several_registries_is_refused_without_the_secret() {
        for (text, names) in
            [("", &["x"][..]), (":secret", &["x"]), ("me:secret", &["a.io/x", "b.io/x"])]
        {
            let Err(error) = Login::parse(OPTION, text, &references(names)) else {
                panic!("{text} is accepted")
            };
            let message = error.to_string();
            assert!(message.starts_with(OPTION) && !message.contains("secret"), "{message}");
        }
        let same = references(&["a.io/x", "a.io/y:1"]);
        assert_eq!(Login::parse(OPTION, "me:x", &same).expect("one registry").domain, "a.io");
    }

    #[tokio::test]
    async fn an_empty_password_is_refused() {
        let login = Login::parse(VARIABLE, "me:", &references(&["x"])).expect("a user");
        let error = login.credentials().await.expect_err("no password");
        assert!(error.to_string().starts_with(VARIABLE), "{error}");
    }

    #[test]
    fn a_password_on_standard_input_may_have_many_lines() {
        for (input, expected) in
            [("", ""), ("a", "a"), ("a b \n", "a b "), ("{\n \"k\": 1\n}\n", "{\n \"k\": 1\n}")]
        {
            assert_eq!(whole(input.as_bytes()).expect(input), expected);
        }
        whole(&b"\xff\n"[..]).expect_err("not UTF-8");
        whole(&vec![b'x'; MAX_PASSWORD_BYTES + 10][..]).expect_err("too long");
    }
}
