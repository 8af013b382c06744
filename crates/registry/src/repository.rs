//! One repository: manifests and blobs, from the first endpoint that has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::{Digest, MAX_DOCUMENT_BYTES, Selector};
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;

use crate::answer::Subject;
use crate::blob::Blob;
use crate::client::Shared;
use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, RegistryError};
use crate::exchange::{Exchange, Get};
use crate::meter::{Meter, Stalled};
use crate::retry::RetryPolicy;

/// What is understood, the kinds for several platforms first.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// What a document, or the beginning of a layer, may take in all, however steadily it trickles.
const DOCUMENT_TIME: Duration = Duration::from_secs(180);
/// A mirror that does not work is not worth waiting for.
pub(crate) const MIRROR_ATTEMPTS: u32 = 2;

/// A manifest or index as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The header `Content-Type`.
    pub media_type: Option<String>,
    /// The document.
    pub bytes: Vec<u8>,
}

/// Fetches what is in one repository.
#[derive(Clone, Debug)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    path: String,
    endpoints: Vec<Endpoint>,
    credentials: Option<Credentials>,
    /// Who had what was asked for last.
    preferred: AtomicUsize,
}

/// One of a repository's endpoints, by its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source(usize);

/// What is to become of an answer.
#[derive(Clone, Copy, Debug)]
enum Take {
    Document { expected: Option<Digest>, bytes: Option<u64> },
    Stream,
}

enum Taken {
    Document(Fetched),
    Stream(Response),
}

impl Repository {
    pub(crate) fn new(
        shared: Arc<Shared>,
        path: String,
        endpoints: Vec<Endpoint>,
        credentials: Option<Credentials>,
    ) -> Self {
        let preferred = AtomicUsize::new(0);
        let inner = Inner { shared, path, endpoints, credentials, preferred };
        Self { inner: Arc::new(inner) }
    }

    /// Fetches a manifest or index of at most 4 MiB; by digest, its bytes are verified.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest(&self, selector: &Selector) -> Result<Fetched, RegistryError> {
        let (reference, what) = match selector {
            Selector::Tag(tag) => (tag.clone(), format!("{}:{tag}", self.inner.path)),
            Selector::Digest(digest) => (digest.to_string(), self.what(digest)),
        };
        let expected = match selector {
            Selector::Tag(_) => None,
            Selector::Digest(digest) => Some(*digest),
        };
        let tail = format!("manifests/{reference}");
        let get = Get { what, tail, accept: Some(MANIFEST_TYPES), offset: 0 };
        self.document_of(&get, Take::Document { expected, bytes: None }).await
    }

    /// Fetches a blob of at most 4 MiB as a whole; size and digest are verified.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn document(&self, digest: &Digest, bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let get = self.blob_request(digest, 0);
        if bytes > MAX_DOCUMENT_BYTES {
            let registry = self.inner.endpoints.last().map(|endpoint| endpoint.name.clone());
            let (registry, what) = (registry.unwrap_or_default(), get.what);
            return Err(RegistryError::TooLarge { registry, what, limit: MAX_DOCUMENT_BYTES });
        }
        let take = Take::Document { expected: Some(*digest), bytes: Some(bytes) };
        Ok(self.document_of(&get, take).await?.bytes)
    }

    /// Begins to fetch a blob of `bytes` bytes.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob(&self, digest: &Digest, bytes: u64) -> Result<Blob, RegistryError> {
        Blob::open(self.clone(), *digest, bytes).await
    }

    /// The same repository, but of the registry itself only; `None` when it has no mirrors.
    #[must_use]
    pub fn without_mirrors(&self) -> Option<Self> {
        let inner = &self.inner;
        let own = inner.endpoints.iter().filter(|endpoint| !endpoint.is_mirror);
        let own: Vec<Endpoint> = own.cloned().collect();
        let (shared, path) = (Arc::clone(&inner.shared), inner.path.clone());
        (own.len() < inner.endpoints.len())
            .then(|| Self::new(shared, path, own, inner.credentials.clone()))
    }

    async fn document_of(&self, get: &Get, take: Take) -> Result<Fetched, RegistryError> {
        match self.ask(get, take, &[]).await? {
            (_, Taken::Document(fetched)) => Ok(fetched),
            (source, Taken::Stream(_)) => {
                Err(self.subject(source, &get.what).protocol("it is not read"))
            }
        }
    }

    /// Asks for a blob from `offset` on, but not those who are to be avoided; returns the answer
    /// and who gave it.
    pub(crate) async fn stream(
        &self,
        digest: &Digest,
        offset: u64,
        avoided: &[Source],
    ) -> Result<(Source, Response), RegistryError> {
        let get = self.blob_request(digest, offset);
        match self.ask(&get, Take::Stream, avoided).await? {
            (source, Taken::Stream(response)) => Ok((source, response)),
            (source, Taken::Document(_)) => {
                Err(self.subject(source, &get.what).protocol("it is read already"))
            }
        }
    }

    fn blob_request(&self, digest: &Digest, offset: u64) -> Get {
        Get { what: self.what(digest), tail: format!("blobs/{digest}"), accept: None, offset }
    }

    /// How a blob or manifest is called in messages.
    pub(crate) fn what(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.inner.path)
    }

    pub(crate) fn meter(&self) -> Meter {
        Meter::new(self.inner.shared.config.stall)
    }

    pub(crate) fn retry(&self) -> RetryPolicy {
        self.inner.shared.config.retry
    }

    /// Who was asked for what, for messages.
    pub(crate) fn subject<'a>(&'a self, source: Source, what: &'a str) -> Subject<'a> {
        let endpoint = self.inner.endpoints.get(source.0);
        Subject { registry: endpoint.map_or(&self.inner.path, |endpoint| &endpoint.name), what }
    }

    /// Whether there is someone else to ask.
    pub(crate) fn is_mirror(&self, source: Source) -> bool {
        self.inner.endpoints.get(source.0).is_some_and(|endpoint| endpoint.is_mirror)
    }

    /// Asks one endpoint after the other. If none has it, the registry's own error counts.
    async fn ask(
        &self,
        get: &Get,
        take: Take,
        avoided: &[Source],
    ) -> Result<(Source, Taken), RegistryError> {
        let preferred = self.inner.preferred.load(Ordering::Relaxed);
        let others = (0..self.inner.endpoints.len()).filter(|index| *index != preferred);
        let mut error = None;
        for index in std::iter::once(preferred).chain(others) {
            let Some(endpoint) = self.inner.endpoints.get(index) else { continue };
            let absent = endpoint.is_mirror && self.inner.shared.is_absent(&endpoint.name);
            if absent || avoided.contains(&Source(index)) {
                continue;
            }
            match self.ask_endpoint(endpoint, get, take).await {
                Ok(taken) => {
                    self.inner.preferred.store(index, Ordering::Relaxed);
                    return Ok((Source(index), taken));
                }
                Err(failure) if endpoint.is_mirror => {
                    if failure.kind() == ErrorKind::Unavailable {
                        self.inner.shared.note_absent(&endpoint.name);
                    }
                    tracing::info!(mirror = endpoint.name, ?failure, "mirror is passed over");
                }
                Err(failure) => error = Some(failure),
            }
        }
        Err(error.unwrap_or_else(|| {
            let subject = Subject { registry: &self.inner.path, what: &get.what };
            subject.protocol("the reference names no registry")
        }))
    }

    async fn ask_endpoint(
        &self,
        endpoint: &Endpoint,
        get: &Get,
        take: Take,
    ) -> Result<Taken, RegistryError> {
        let mut policy = self.retry();
        if endpoint.is_mirror {
            policy.attempts = policy.attempts.min(MIRROR_ATTEMPTS);
        }
        let mut attempt = 1;
        loop {
            let once = tokio::time::timeout(DOCUMENT_TIME, self.once(endpoint, get, take)).await;
            let too_long = |_elapsed| {
                let subject = Subject { registry: &endpoint.name, what: &get.what };
                Err(subject.stalled(Stalled { waited: DOCUMENT_TIME }))
            };
            let error = match once.unwrap_or_else(too_long) {
                Ok(taken) => return Ok(taken),
                Err(error) => error,
            };
            attempt += 1;
            let pause = policy.pause_before(attempt, error.retry_after());
            match pause.filter(|_| error.is_transient()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn once(
        &self,
        endpoint: &Endpoint,
        get: &Get,
        take: Take,
    ) -> Result<Taken, RegistryError> {
        let mut meter = self.meter();
        let exchange = self.exchange(endpoint);
        let response = exchange.send(get, &mut meter).await?;
        let Take::Document { expected, bytes } = take else { return Ok(Taken::Stream(response)) };
        let subject = Subject { registry: &endpoint.name, what: &get.what };
        document(response, subject, expected, bytes, &mut meter).await.map(Taken::Document)
    }

    fn exchange<'a>(&'a self, endpoint: &'a Endpoint) -> Exchange<'a> {
        Exchange {
            shared: &self.inner.shared,
            endpoint,
            path: &self.inner.path,
            credentials: self.inner.credentials.as_ref(),
        }
    }
}

/// Reads an answer as a whole and verifies what is known about it.
async fn document(
    response: Response,
    subject: Subject<'_>,
    expected: Option<Digest>,
    bytes: Option<u64>,
    meter: &mut Meter,
) -> Result<Fetched, RegistryError> {
    let (registry, what) = (subject.registry.to_owned(), subject.what.to_owned());
    let limit = MAX_DOCUMENT_BYTES;
    if let (Some(bytes), Some(announced)) = (bytes, response.content_length())
        && bytes != announced
    {
        return Err(RegistryError::Size { registry, what, expected: bytes, actual: announced });
    }
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.map(str::to_owned);
    let Some(body) = subject.read(response, bytes.unwrap_or(limit), meter).await? else {
        return Err(match bytes {
            Some(expected) => {
                RegistryError::Size { registry, what, expected, actual: expected + 1 }
            }
            None => RegistryError::TooLarge { registry, what, limit },
        });
    };
    let actual = u64::try_from(body.len()).unwrap_or(u64::MAX);
    if let Some(expected) = bytes.filter(|bytes| *bytes != actual) {
        return Err(RegistryError::Size { registry, what, expected, actual });
    }
    let digest = Digest::of(&body);
    if expected.is_some_and(|expected| expected != digest) {
        return Err(RegistryError::Digest { registry, what, actual: digest });
    }
    Ok(Fetched { digest, media_type, bytes: body })
}
