//! The bytes of one blob: cut, resumed, counted.

use super::address::show;
use super::client::MIN_PROGRESS;
use super::error::RegistryError;
use super::repository::{Repository, Wanted, stalled};
use crate::digest::{Digest, Hasher};
use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use std::time::{Duration, Instant};

/// So many bytes since the last failure make up for it.
const FORGIVEN_AFTER: u64 = 1 << 20;

/// A blob being read.
///
/// A body that breaks off or stalls is asked for again from where it stopped. The bytes are counted but not hashed:
/// that is the reader's part, who sees them all.
#[derive(Debug)]
pub(crate) struct BlobStream {
    repository: Repository,
    digest: Digest,
    size: u64,
    body: Option<Response>,
    /// Bytes handed out.
    offset: u64,
    /// Bytes of the body that were handed out before: the registry does not do ranges.
    skip: u64,
    failures: u32,
    since_failure: u64,
    resumed: bool,
    /// Which host begins: another one after each failure.
    turn: usize,
    pace: Pace,
}

/// Whether enough arrives while somebody waits for it.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: usize,
}

impl BlobStream {
    /// A stream of the blob's bytes from the first; nothing is sent before [`chunk`](Self::chunk).
    pub(crate) fn new(repository: Repository, digest: Digest, size: u64) -> Self {
        Self::behind(repository, digest, size, 0)
    }

    /// A stream of what follows the first `offset` bytes, which the reader has already.
    pub(crate) fn behind(repository: Repository, digest: Digest, size: u64, offset: u64) -> Self {
        Self {
            repository,
            digest,
            size,
            body: None,
            offset,
            skip: 0,
            failures: 0,
            since_failure: 0,
            resumed: offset > 0,
            turn: 0,
            pace: Pace::default(),
        }
    }

    /// Whether the bytes came from more than one answer, which may not fit together.
    pub(crate) fn was_resumed(&self) -> bool {
        self.resumed
    }

    /// The next bytes; nothing at the end, after exactly the size given.
    ///
    /// # Errors
    ///
    /// Whatever ends the blob early or late, after [`Patience::resumes`](super::Patience) tries to go on.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.body.is_none() {
                self.body = Some(self.open().await?);
            }
            let err = match self.read().await {
                Ok(Some(bytes)) => match self.take(bytes)? {
                    Some(bytes) => return Ok(Some(bytes)),
                    None => continue,
                },
                Ok(None) if self.offset == self.size => return Ok(None),
                // All is here: how the connection ends is nobody's business.
                Err(_) if self.offset == self.size => return Ok(None),
                Ok(None) => {
                    let url = self.body.as_ref().map(|body| show(body.url())).unwrap_or_default();
                    RegistryError::Truncated { url, got: self.offset, want: self.size }
                }
                Err(err) => err,
            };
            self.fail(err).await?;
        }
    }

    /// The whole blob, which must be small, its digest checked.
    pub(crate) async fn read_all(mut self) -> Result<Vec<u8>, RegistryError> {
        let mut hasher = Hasher::new(self.digest.algorithm());
        let mut all = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            hasher.update(&bytes);
            all.extend_from_slice(&bytes);
        }
        let got = hasher.finish();
        if got == self.digest {
            Ok(all)
        } else {
            Err(RegistryError::Digest { want: self.digest, got })
        }
    }

    async fn open(&mut self) -> Result<Response, RegistryError> {
        let mut headers = HeaderMap::new();
        if self.offset > 0 {
            let range = HeaderValue::try_from(format!("bytes={}-", self.offset));
            headers.insert(RANGE, range.expect("digits are a header value"));
        }
        let wanted = Wanted { kind: "blobs", name: self.digest.as_str(), headers: &headers };
        let response = match self.repository.get(wanted, self.turn).await {
            // There is nothing behind what came so far: that was all of it.
            Err(RegistryError::Status { status: 416, .. }) => return Err(self.wrong_size()),
            result => result?,
        };
        let wrong_range = || RegistryError::Range { url: show(response.url()) };
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range =
                    response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                if self.offset == 0 || range.and_then(parse_range) != Some((self.offset, self.size))
                {
                    return Err(wrong_range());
                }
                self.skip = 0;
            }
            StatusCode::OK => {
                if response.content_length().is_some_and(|length| length != self.size) {
                    return Err(self.wrong_size());
                }
                self.skip = self.offset;
            }
            _ => return Err(wrong_range()),
        }
        Ok(response)
    }

    fn wrong_size(&self) -> RegistryError {
        RegistryError::Size { digest: self.digest.clone(), want: self.size }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let patience = &self.repository.client.patience;
        let Some(body) = &mut self.body else { return Ok(None) };
        let started = Instant::now();
        let result = tokio::time::timeout(patience.stall, body.chunk()).await;
        let url = body.url();
        let chunk = match result {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(err)) => {
                return Err(RegistryError::Transport { url: show(url), source: err.without_url() });
            }
            Err(_) => return Err(stalled(url, patience)),
        };
        let arrived = chunk.as_ref().map_or(0, Bytes::len);
        if self.pace.is_too_slow(started.elapsed(), arrived, patience.stall) {
            return Err(stalled(url, patience));
        }
        Ok(chunk)
    }

    /// Counts bytes that arrived; gives what of them is new.
    fn take(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= known as u64;
        let bytes = bytes.split_off(known);
        if bytes.is_empty() {
            return Ok(None);
        }
        let arrived = bytes.len() as u64;
        if arrived > self.size - self.offset {
            return Err(self.wrong_size());
        }
        self.offset += arrived;
        self.since_failure += arrived;
        Ok(Some(bytes))
    }

    /// Waits before the next try, or gives up.
    async fn fail(&mut self, err: RegistryError) -> Result<(), RegistryError> {
        let patience = &self.repository.client.patience;
        if self.since_failure >= FORGIVEN_AFTER {
            self.failures = 0;
        }
        self.failures += 1;
        if self.failures > patience.resumes {
            return Err(err);
        }
        let (digest, offset) = (&self.digest, self.offset);
        tracing::debug!(?digest, offset, err = &err as &dyn std::error::Error, "resume blob");
        self.body = None;
        self.turn += 1;
        self.since_failure = 0;
        self.pace = Pace::default();
        self.resumed |= self.offset > 0;
        tokio::time::sleep(patience.wait(self.failures, None)).await;
        Ok(())
    }
}

impl Pace {
    /// Counts `bytes` that came after a wait of `waited`.
    fn is_too_slow(&mut self, waited: Duration, bytes: usize, window: Duration) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < window {
            return false;
        }
        let too_slow = self.bytes < MIN_PROGRESS;
        *self = Self::default();
        too_slow
    }
}

/// First byte and total of `bytes first-last/total`, where `last` is the end of the total: RFC 9110 section 14.4.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (last.checked_add(1) == Some(total) && first <= last).then_some((first, total))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn only_a_range_to_the_end_is_one() {
        let cases = [
            ("bytes 3-9/10", Some((3, 10))),
            ("bytes 0-0/1", Some((0, 1))),
            ("bytes 3-8/10", None),
            ("bytes 3-9/*", None),
            ("bytes */10", None),
            ("bytes 9-3/4", None),
            ("items 3-9/10", None),
            ("bytes 3-18446744073709551615/0", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_range(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_trickle_is_no_progress() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        let drops = (0..6).filter(|_| pace.is_too_slow(10 * second, 1, 60 * second)).count();
        assert_eq!(drops, 1, "a byte each ten seconds");
        let mut pace = Pace::default();
        assert!(!pace.is_too_slow(59 * second, 1, 60 * second));
        assert!(!pace.is_too_slow(2 * second, 2000, 60 * second), "slow, but moving");
        assert!(!pace.is_too_slow(59 * second, 1, 60 * second), "a new window");
    }
}
