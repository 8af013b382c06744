//! A blob on its way: resumed where it broke off, and no longer than it should be.

use bytes::Bytes;
use image::Digest;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use crate::error::RegistryError;
use crate::meter::{Meter, PROGRESS_BYTES};
use crate::repository::{MIRROR_ATTEMPTS, Repository, Source};

/// A blob that is being fetched. Its digest is for the caller to verify.
#[derive(Debug)]
pub struct Blob {
    repository: Repository,
    digest: Digest,
    /// Its size, as the manifest says.
    bytes: u64,
    /// What has been given to the caller.
    offset: u64,
    /// What still has to be thrown away of an answer that begins at 0.
    skip: u64,
    answer: Option<Answer>,
    /// Broken answers since there was progress.
    failures: u32,
    /// Bytes for the caller since the last broken answer.
    progress: u64,
    /// Mirrors that have failed half-way.
    avoided: Vec<Source>,
    meter: Meter,
}

#[derive(Debug)]
struct Answer {
    source: Source,
    response: Response,
}

impl Blob {
    pub(crate) async fn open(
        repository: Repository,
        digest: Digest,
        bytes: u64,
    ) -> Result<Self, RegistryError> {
        let meter = repository.meter();
        let mut blob = Self {
            repository,
            digest,
            bytes,
            offset: 0,
            skip: 0,
            answer: None,
            failures: 0,
            progress: 0,
            avoided: Vec::new(),
            meter,
        };
        blob.ask().await?;
        Ok(blob)
    }

    /// The next bytes; `None` at the end, when all `bytes` have been given.
    ///
    /// # Errors
    /// See [`RegistryError`]. A broken connection is an error only when the blob cannot be resumed
    /// time after time without progress in between.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.answer.is_none() {
                self.ask().await?;
            }
            let Some(Answer { source, response }) = &mut self.answer else { continue };
            let source = *source;
            let arrived = self.meter.wait(response.chunk()).await;
            let complete = self.offset == self.bytes;
            match arrived {
                Ok(Ok(Some(chunk))) => {
                    self.meter.arrived(chunk.len());
                    if let Some(chunk) = self.take(chunk, source)? {
                        return Ok(Some(chunk));
                    }
                }
                // All is there, however it ends.
                _ if complete => return Ok(None),
                Ok(Ok(None)) => {
                    let error = self.wrong_size(source, self.offset);
                    self.broke_off(source, error).await?;
                }
                Ok(Err(error)) => {
                    let what = self.repository.what(&self.digest);
                    let error = self.repository.subject(source, &what).connection(error);
                    self.broke_off(source, error).await?;
                }
                Err(stalled) => {
                    let what = self.repository.what(&self.digest);
                    let error = self.repository.subject(source, &what).stalled(stalled);
                    self.give_up(source, error)?;
                }
            }
        }
    }

    /// What of a chunk is new to the caller.
    fn take(&mut self, mut chunk: Bytes, source: Source) -> Result<Option<Bytes>, RegistryError> {
        let length = |chunk: &Bytes| u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let skipped = self.skip.min(length(&chunk));
        self.skip -= skipped;
        chunk = chunk.split_off(usize::try_from(skipped).unwrap_or(chunk.len()));
        if chunk.is_empty() {
            return Ok(None);
        }
        let end = self.offset.saturating_add(length(&chunk));
        if end > self.bytes {
            self.give_up(source, self.wrong_size(source, end))?;
            return Ok(None);
        }
        self.offset = end;
        self.progress = self.progress.saturating_add(length(&chunk));
        // A server that drops each connection after a byte would be asked for ever.
        if self.progress >= PROGRESS_BYTES {
            self.failures = 0;
        }
        Ok(Some(chunk))
    }

    /// Waits before the next attempt, or gives up.
    async fn broke_off(
        &mut self,
        source: Source,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        self.answer = None;
        self.progress = 0;
        self.failures += 1;
        if self.repository.is_mirror(source) && self.failures >= MIRROR_ATTEMPTS {
            return self.give_up(source, error);
        }
        match self.repository.retry().pause_before(self.failures + 1, None) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    /// Goes on with others when a mirror fails. The registry itself has the last word.
    fn give_up(&mut self, source: Source, error: RegistryError) -> Result<(), RegistryError> {
        if !self.repository.is_mirror(source) {
            return Err(error);
        }
        tracing::info!(?error, "mirror is passed over half-way");
        self.answer = None;
        self.avoided.push(source);
        (self.failures, self.progress) = (0, 0);
        self.meter = self.repository.meter();
        Ok(())
    }

    /// Asks for what is missing, until someone answers who has it.
    async fn ask(&mut self) -> Result<(), RegistryError> {
        while self.answer.is_none() {
            let (source, response) =
                self.repository.stream(&self.digest, self.offset, &self.avoided).await?;
            match self.begin(source, &response) {
                Ok(begin) => {
                    self.skip = self.offset - begin;
                    self.answer = Some(Answer { source, response });
                }
                Err(error) => self.give_up(source, error)?,
            }
        }
        Ok(())
    }

    /// Looks whether an answer is what was asked for; returns the place of its first byte.
    fn begin(&self, source: Source, response: &Response) -> Result<u64, RegistryError> {
        // Else it begins anew; what is here already is passed over.
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let begin = if partial { self.offset } else { 0 };
        if partial {
            let what = self.repository.what(&self.digest);
            let range = content_range(response)
                .filter(|range| range.first == self.offset)
                .ok_or_else(|| {
                    let subject = self.repository.subject(source, &what);
                    subject.protocol("the range is not the one that was asked for")
                })?;
            if let Some(size) = range.size.filter(|size| *size != self.bytes) {
                return Err(self.wrong_size(source, size));
            }
        }
        let announced = response.content_length().map(|length| begin.saturating_add(length));
        match announced.filter(|bytes| *bytes != self.bytes) {
            Some(bytes) => Err(self.wrong_size(source, bytes)),
            None => Ok(begin),
        }
    }

    fn wrong_size(&self, source: Source, actual: u64) -> RegistryError {
        let what = self.repository.what(&self.digest);
        let registry = self.repository.subject(source, &what).registry.to_owned();
        RegistryError::Size { registry, what, expected: self.bytes, actual }
    }
}

/// The header `Content-Range: bytes FIRST-LAST/SIZE`; the size may be `*`.
struct ContentRange {
    first: u64,
    size: Option<u64>,
}

fn content_range(response: &Response) -> Option<ContentRange> {
    let header = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some(ContentRange { first: first.trim().parse().ok()?, size: size.trim().parse().ok() })
}
