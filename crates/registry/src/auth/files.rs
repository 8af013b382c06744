//! Credentials in files, as `docker login` and its relatives write them, and credential helpers.
//!
//! Source: Docker's `config.json`; containers-auth.json(5).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::credentials::Credentials;
use crate::error::RegistryError;

const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_ANSWER_BYTES: u64 = 64 << 10;
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// How helpers and files name Docker's registry.
const HUB: &str = "docker.io";
const HUB_SERVER: &str = "https://index.docker.io/v1/";
/// A helper's user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper says, by protocol, when it has nothing for a server.
const HELPER_KNOWS_NOTHING: &str = "credentials not found in native keychain";

#[derive(Default, Deserialize)]
#[serde(default)]
struct CredentialsFile {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What is found for a repository of a registry, in the first file that knows it.
///
/// `domain` is the registry's name in references, or host and port of a mirror.
pub(crate) async fn look_up(
    files: &[PathBuf],
    domain: &str,
    path: &str,
) -> Result<Option<Credentials>, RegistryError> {
    for file in files {
        let Some(parsed) = read(file)? else { continue };
        if let Some(credentials) = parsed.look_up(file, domain, path).await? {
            return Ok(Some(credentials));
        }
    }
    Ok(None)
}

/// Reads a file; `None` when it is absent.
fn read(path: &Path) -> Result<Option<CredentialsFile>, RegistryError> {
    let failed = |source| RegistryError::CredentialsFile { path: path.to_owned(), source };
    // A FIFO must not make us wait for its writer.
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        file => file.map_err(failed)?,
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file")));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    // The parser's message would repeat a piece of the file.
    let malformed = |error: serde_json::Error| {
        let place = format!("not well-formed at line {}", error.line());
        failed(io::Error::new(io::ErrorKind::InvalidData, place))
    };
    serde_json::from_str(&text).map(Some).map_err(malformed)
}

impl CredentialsFile {
    async fn look_up(
        &self,
        file: &Path,
        domain: &str,
        path: &str,
    ) -> Result<Option<Credentials>, RegistryError> {
        let server = if domain == HUB { HUB_SERVER } else { domain };
        let mut helpers = self.helpers.iter();
        let helper = helpers.find(|(key, _)| normalized(key) == domain).map(|(_, name)| name);
        if let Some(name) = helper.or(self.store.as_ref())
            && let Some(credentials) = ask_helper(name, server).await?
        {
            return Ok(Some(credentials));
        }
        let repository = format!("{domain}/{path}");
        let matching = self.auths.iter().filter(|(key, _)| covers(&normalized(key), &repository));
        // The longest key says the most.
        match matching.max_by_key(|(key, _)| normalized(key).len()) {
            Some((_, entry)) => entry.credentials(file),
            None => Ok(None),
        }
    }
}

/// A key without scheme and API version: `https://host/v1/` is `host`.
fn normalized(key: &str) -> String {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key.strip_prefix("index.docker.io") {
        Some(rest) => format!("{HUB}{rest}"),
        None => key.to_owned(),
    }
}

/// Whether a key is for the repository: its registry, or a part of its path.
fn covers(key: &str, repository: &str) -> bool {
    repository.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Entry {
    fn credentials(&self, file: &Path) -> Result<Option<Credentials>, RegistryError> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::IdentityToken(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::RegistryToken(self.registrytoken.clone())));
        }
        if !self.username.is_empty() {
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok(Some(Credentials::Basic { username, password }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let malformed = || RegistryError::CredentialsFile {
            path: file.to_owned(),
            source: io::Error::new(
                io::ErrorKind::InvalidData,
                "an `auth` is not user:password in base64",
            ),
        };
        let decoded = STANDARD_NO_PAD.decode(self.auth.trim_end_matches('='));
        let decoded = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or_else(malformed)?;
        let (username, password) = decoded.split_once(':').ok_or_else(malformed)?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credentials::Basic { username: username.to_owned(), password }))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks `docker-credential-<name>`; `None` when it does not know the server or is not installed.
async fn ask_helper(name: &str, server: &str) -> Result<Option<Credentials>, RegistryError> {
    let failed = |reason: String| RegistryError::Helper { name: name.to_owned(), reason };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(failed("is no name of a program".to_owned()));
    }
    let spawned = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        // The password of another registry, perhaps.
        .env_remove("USNEA_CREDS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(
                name,
                "credential helper is not installed; going on without credentials"
            );
            return Ok(None);
        }
        child => child.map_err(|error| failed(error.to_string()))?,
    };
    let talked = timeout(HELPER_TIMEOUT, talk(child, server)).await;
    let (answer, status) = talked
        .map_err(|_elapsed| failed(format!("no answer within {} s", HELPER_TIMEOUT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if u64::try_from(answer.len()).is_ok_and(|length| length > MAX_ANSWER_BYTES) {
        return Err(failed(format!("answers more than {MAX_ANSWER_BYTES} bytes")));
    }
    if !status.success() {
        if !answer.starts_with(HELPER_KNOWS_NOTHING.as_bytes()) {
            // What it prints then may be anything, secrets included.
            tracing::warn!(name, server, %status, "credential helper fails; going on without credentials");
        }
        return Ok(None);
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&answer).map_err(|_secret| failed("answers no JSON".to_owned()))?;
    Ok(Some(match answer.username.as_str() {
        "" if answer.secret.is_empty() => return Ok(None),
        TOKEN_USER => Credentials::IdentityToken(answer.secret),
        _ => Credentials::Basic { username: answer.username, password: answer.secret },
    }))
}

/// Tells a helper the server and reads its answer; of one that is too long the beginning.
async fn talk(mut child: Child, server: &str) -> io::Result<(Vec<u8>, ExitStatus)> {
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read has its reason.
        input.write_all(server.as_bytes()).await.ok();
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        // The pipe is closed then, which ends a helper that writes without end.
        output.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut answer).await?;
    }
    Ok((answer, child.wait().await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(text: &str, domain: &str, path: &str) -> Option<Credentials> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        look_up(&[dir.path().join("absent"), file], domain, path).await.unwrap()
    }

    fn basic(username: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic { username: username.into(), password: password.into() })
    }

    #[tokio::test]
    async fn every_form_of_an_entry_is_understood() {
        let file = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
            "a.io": {"username": "u", "password": "p"},
            "https://b.io:5000/v2/": {"identitytoken": "refresh"},
            "c.io/team": {"registrytoken": "bearer"},
            "c.io": {"auth": "Yzpj"},
            "d.io": {}
        }, "other": 1}"#;
        assert_eq!(found(file, "docker.io", "library/x").await, basic("hub", "secret"));
        assert_eq!(found(file, "a.io", "x").await, basic("u", "p"));
        let token = Some(Credentials::IdentityToken("refresh".into()));
        assert_eq!(found(file, "b.io:5000", "x").await, token);
        let token = Some(Credentials::RegistryToken("bearer".into()));
        assert_eq!(found(file, "c.io", "team/x").await, token);
        assert_eq!(found(file, "c.io", "teams/x").await, basic("c", "c"));
        assert_eq!(found(file, "d.io", "x").await, None);
        assert_eq!(found(file, "b.io", "x").await, None);
    }

    #[tokio::test]
    async fn broken_files_and_helpers_are_named_without_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        for text in ["secret", r#"{"auths": {"a.io": {"auth": "secret!"}}}"#] {
            std::fs::write(&file, text).unwrap();
            let error = look_up(std::slice::from_ref(&file), "a.io", "x").await.unwrap_err();
            let text = format!("{error:?} {error}");
            assert!(text.contains("config.json") && !text.contains("secret"), "{text}");
        }
        std::fs::write(&file, r#"{"credHelpers": {"a.io": "../evil"}}"#).unwrap();
        let error = look_up(std::slice::from_ref(&file), "a.io", "x").await.unwrap_err();
        assert!(matches!(error, RegistryError::Helper { .. }), "{error:?}");
        std::fs::write(&file, r#"{"credsStore": "not-installed-anywhere"}"#).unwrap();
        assert_eq!(look_up(&[file], "a.io", "x").await.unwrap(), None);
    }
}
