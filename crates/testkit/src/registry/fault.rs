//! What can go wrong, and when it does.

use std::{collections::VecDeque, time::Duration};

/// Something that is wrong with an answer. Statuses and headers are otherwise as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A status without the content.
    Status(u16),
    /// A status with the header `Retry-After`.
    RetryAfter(u16, String),
    /// A status with these headers and this content.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// Status 307 with this header `Location`.
    Redirect(String),
    /// The right `Content-Length`, but the connection ends after so many bytes.
    Truncated(usize),
    /// This `Content-Length` before the right content, after which the connection ends.
    ContentLength(u64),
    /// Other content.
    Content(Vec<u8>),
    /// Zeros after the content, in chunks, without end.
    Endless,
    /// At most so many bytes of the content, well ended, but in chunks, so that their number is not announced.
    Chunked(usize),
    /// One byte at a time, with a pause after each.
    Trickle(Duration),
    /// So many bytes, then nothing while the registry lives.
    Stall(usize),
    /// Status 200 with the whole content, whatever range was asked for.
    IgnoreRange,
    /// Status 206 with this header `Content-Range`.
    ContentRange(String),
    /// The connection ends without an answer.
    HangUp,
}

/// The faults to come.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    /// What the path contains.
    path: String,
    faults: VecDeque<Fault>,
    /// The first fault stays.
    always: bool,
}

impl Faults {
    pub(super) fn add(
        &mut self,
        path: &str,
        faults: impl IntoIterator<Item = Fault>,
        always: bool,
    ) {
        let faults = faults.into_iter().collect();
        self.0.push(Rule { path: path.to_owned(), faults, always });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault for a request, by the first rule that has one for it.
    pub(super) fn next(&mut self, path: &str) -> Option<Fault> {
        let mut rules = self.0.iter_mut();
        let rule = rules.find(|rule| path.contains(&rule.path) && !rule.faults.is_empty())?;
        if rule.always { rule.faults.front().cloned() } else { rule.faults.pop_front() }
    }
}
