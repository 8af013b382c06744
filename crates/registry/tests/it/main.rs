//! The client against registries that misbehave as told.

#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "an integration test; a skipped one says why"
)]

mod access;
mod blobs;
mod documents;
mod environment;
mod files;
mod mirrors;
mod real;
mod redirects;
mod retries;
mod slow;
mod tls;
mod tokens;

use std::time::Duration;

use image::{Digest, Reference, Selector};
use registry::{
    Client, ClientConfig, Credentials, RegistryError, RegistrySettings, Repository, RetryPolicy,
};
use testkit::image::{ImageBuilder, Layer};
use testkit::registry::{Access, FakeRegistry, Pushed};

/// What a secret in these tests contains, so that it is found where it should not be.
const SECRET: &str = "hunter2";

/// A configuration that does not keep tests waiting.
fn config() -> ClientConfig {
    ClientConfig {
        stall: Duration::from_secs(5),
        retry: RetryPolicy {
            pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(4),
            longest_retry_after: Duration::from_millis(20),
            ..RetryPolicy::default()
        },
        ..ClientConfig::default()
    }
}

fn client() -> Client {
    Client::new(config()).unwrap()
}

/// A client with settings for one registry.
fn client_with(registry: &FakeRegistry, settings: RegistrySettings) -> Client {
    let registries = [(registry.domain(), settings)].into();
    Client::new(ClientConfig { registries, ..config() }).unwrap()
}

fn app(registry: &FakeRegistry) -> Reference {
    registry.reference("app:1").parse().unwrap()
}

/// The repository `app`, without credentials.
fn repository(registry: &FakeRegistry) -> Repository {
    client().repository(&app(registry), None)
}

/// Puts an image there as `app:1`.
fn push(registry: &FakeRegistry) -> Pushed {
    let layer = Layer::default().file("a", 0o644, &bytes(100_000));
    registry.push(&ImageBuilder::empty().layer(layer), "app:1")
}

/// Puts a blob there; returns its digest, its size and itself.
fn add_blob(registry: &FakeRegistry, length: usize) -> (Digest, u64, Vec<u8>) {
    let content = bytes(length);
    registry.add_blob(&content);
    (Digest::of(&content), u64::try_from(length).unwrap(), content)
}

/// Bytes that differ from place to place.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Fetches the manifest of `app:1`.
async fn fetch(repository: &Repository) -> Result<Vec<u8>, RegistryError> {
    Ok(repository.manifest(&Selector::Tag("1".to_owned())).await?.bytes)
}

/// Fetches a blob to its end.
async fn read(
    repository: &Repository,
    digest: &Digest,
    bytes: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut blob = repository.blob(digest, bytes).await?;
    let mut content = Vec::new();
    while let Some(chunk) = blob.chunk().await? {
        content.extend_from_slice(&chunk);
        assert!(u64::try_from(content.len()).unwrap() <= bytes, "more than there should be");
    }
    Ok(content)
}

/// The credentials that [`basic_access`] asks for.
fn jane() -> Credentials {
    Credentials::Basic { username: "jane".to_owned(), password: SECRET.to_owned() }
}

fn jane_secret() -> (String, String) {
    ("jane".to_owned(), SECRET.to_owned())
}

fn basic_access() -> Access {
    let (username, password) = jane_secret();
    Access::Basic { username, password }
}

/// A registry that takes one token, given at `realm`.
fn bearer_access(realm: &str, token: &str) -> Access {
    let service = "registry.example".to_owned();
    Access::Bearer { realm: realm.to_owned(), service, token: token.to_owned() }
}

/// An error and its causes in one line, as users see it; no secret is in it, nor in what is logged.
fn chain(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    assert!(!format!("{text} {error:?}").contains(SECRET), "a secret is shown: {error:?}");
    text
}

/// The authorizations that were sent, of all requests.
fn authorizations(registry: &FakeRegistry) -> Vec<Option<String>> {
    let requests = registry.requests();
    requests.iter().map(|request| request.header("authorization").map(str::to_owned)).collect()
}

fn got_no_authorization(registry: &FakeRegistry) -> bool {
    authorizations(registry).iter().all(Option::is_none)
}
