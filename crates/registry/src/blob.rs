//! A blob on its way: resumed where it broke off, and no longer than it should be.

use bytes::Bytes;
use image::Digest;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use crate::error::RegistryError;
use crate::exchange::{connection, stalled};
use crate::meter::Meter;
use crate::repository::Repository;

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
    /// Broken answers since bytes have arrived.
    failures: u32,
    meter: Meter,
}

#[derive(Debug)]
struct Answer {
    registry: String,
    response: Response,
}

impl Blob {
    pub(crate) async fn open(
        repository: Repository,
        digest: Digest,
        bytes: u64,
    ) -> Result<Self, RegistryError> {
        let meter = repository.meter();
        let (offset, skip, failures) = (0, 0, 0);
        let mut blob =
            Self { repository, digest, bytes, offset, skip, answer: None, failures, meter };
        blob.ask().await?;
        Ok(blob)
    }

    /// The next bytes; `None` at the end, when all `bytes` have been given.
    ///
    /// # Errors
    /// See [`RegistryError`]. A broken connection is an error only when the blob cannot be resumed
    /// time after time without a byte in between.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.answer.is_none() {
                self.ask().await?;
            }
            let Some(answer) = &mut self.answer else { continue };
            let arrived = self.meter.wait(answer.response.chunk()).await;
            let registry = answer.registry.clone();
            match arrived.map_err(|_stalled| stalled(&registry, self.meter.stall()))? {
                Ok(Some(chunk)) => {
                    self.meter.arrived(chunk.len());
                    if let Some(chunk) = self.take(chunk)? {
                        return Ok(Some(chunk));
                    }
                }
                // All is there, however it ends.
                Ok(None) | Err(_) if self.offset == self.bytes => return Ok(None),
                Ok(None) => {
                    let (what, actual) = (self.repository.what(&self.digest), self.offset);
                    let expected = self.bytes;
                    let ended = RegistryError::Size { registry, what, expected, actual };
                    self.pause(ended).await?;
                }
                Err(error) => self.pause(connection(&registry, error)).await?,
            }
        }
    }

    /// What of a chunk is new to the caller.
    fn take(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let length = |chunk: &Bytes| u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let skipped = self.skip.min(length(&chunk));
        self.skip -= skipped;
        chunk = chunk.split_off(usize::try_from(skipped).unwrap_or(chunk.len()));
        if chunk.is_empty() {
            return Ok(None);
        }
        let end = self.offset.saturating_add(length(&chunk));
        if end > self.bytes {
            return Err(self.wrong_size(end));
        }
        self.offset = end;
        self.failures = 0;
        Ok(Some(chunk))
    }

    /// Waits before the next attempt, or gives up.
    async fn pause(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.answer = None;
        self.failures += 1;
        match self.repository.retry().pause_before(self.failures + 1, None) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    /// Asks for what is missing, and looks whether that is what comes.
    async fn ask(&mut self) -> Result<(), RegistryError> {
        let (registry, response) = self.repository.stream(&self.digest, self.offset).await?;
        let begin = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let begin = range_begin(&response);
                if begin != Some(self.offset) {
                    let what = self.repository.what(&self.digest);
                    let reason = "the range is not the one that was asked for".to_owned();
                    return Err(RegistryError::Protocol { registry, what, reason });
                }
                self.offset
            }
            // It begins anew; what is here already is passed over.
            _ => 0,
        };
        let announced = response.content_length().map(|length| begin.saturating_add(length));
        self.skip = self.offset - begin;
        self.answer = Some(Answer { registry, response });
        match announced {
            Some(bytes) if bytes != self.bytes => Err(self.wrong_size(bytes)),
            _ => Ok(()),
        }
    }

    fn wrong_size(&self, actual: u64) -> RegistryError {
        let registry = self.answer.as_ref().map(|answer| answer.registry.clone());
        RegistryError::Size {
            registry: registry.unwrap_or_default(),
            what: self.repository.what(&self.digest),
            expected: self.bytes,
            actual,
        }
    }
}

/// The first byte of `Content-Range: bytes <first>-<last>/<size>`.
fn range_begin(response: &Response) -> Option<u64> {
    let header = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (begin, _) = header.trim().strip_prefix("bytes ")?.split_once('-')?;
    begin.trim().parse().ok()
}
