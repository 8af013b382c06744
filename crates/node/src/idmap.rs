//! Which ids of the host a user may use: `/etc/subuid` and `/etc/subgid`.
//!
//! Source: `subuid(5)`. A mistake in these files can let two users, or a user and the system, share an id, so a range
//! is checked before it is used.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

#[cfg(test)]
mod tests;

/// A run of ids of a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id inside.
    pub container_id: u32,
    /// The first id outside.
    pub host_id: u32,
    /// How many.
    pub length: u32,
}

/// All ids of a user namespace, in the order of `container_id`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdMap {
    /// Without gaps inside when Usnea made the map.
    pub ranges: Vec<IdRange>,
}

impl IdMap {
    /// How many ids there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|range| u64::from(range.length)).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `/proc/PID/uid_map` or `gid_map`; lines that are no ranges are left out.
    #[must_use]
    pub fn from_proc(text: &str) -> Self {
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            Some(IdRange { container_id: next()?, host_id: next()?, length: next()? })
        };
        Self { ranges: text.lines().filter_map(range).collect() }
    }

    /// The arguments of `newuidmap(1)` and `newgidmap(1)` after the pid.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let numbers = |range: &IdRange| [range.container_id, range.host_id, range.length];
        self.ranges.iter().flat_map(numbers).map(|number| number.to_string()).collect()
    }
}

/// Whose lines of a file count, and which id becomes root.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The login name, when the user has one.
    pub name: Option<&'a str>,
    /// The user id; `/etc/subgid` is keyed by user too.
    pub uid: u32,
    /// What is mapped to 0: the user id, or the primary group id.
    pub own_id: u32,
}

impl Subject<'_> {
    fn owns(&self, entry: &Entry) -> bool {
        Some(entry.owner.as_str()) == self.name || entry.owner == self.uid.to_string()
    }
}

/// What a file grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Own id and subordinate ids; `None` when the file has no range for the user.
    pub map: Option<IdMap>,
    /// What an administrator should look at, though it works.
    pub warnings: Vec<String>,
}

/// Why the ranges of a file cannot be used.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum IdMapError {
    /// A range ends beyond the last id.
    #[error("{}: {entry} exceeds the last id, 4294967294; correct that line", file.display())]
    Overflow {
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
        /// The line.
        entry: String,
    },
    /// A range would give the user's own id, or root's, to its containers a second time.
    #[error("{}: {entry} contains the id {id}; choose a range above all real users", file.display())]
    ContainsRealId {
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
        /// The line.
        entry: String,
        /// 0 or the user's own id.
        id: u32,
    },
    /// Two ranges of the user share ids.
    #[error("{}: {first} and {second} overlap; correct one of them", file.display())]
    Overlap {
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
        /// The line with the lower range.
        first: String,
        /// The other.
        second: String,
    },
}

/// One line: `owner:start:count`.
#[derive(Clone, Debug)]
struct Entry {
    line: usize,
    owner: String,
    start: u64,
    count: u64,
}

impl Entry {
    fn parse(line: usize, text: &str) -> Option<Self> {
        let mut fields = text.trim().split(':');
        let owner = fields.next().filter(|owner| !owner.is_empty())?.to_owned();
        let start = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok().filter(|count| *count > 0)?;
        fields.next().is_none().then_some(Self { line, owner, start, count })
    }

    /// The first id after the range.
    fn end(&self) -> u64 {
        self.start.saturating_add(self.count)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    fn contains(&self, id: u32) -> bool {
        (self.start..self.end()).contains(&u64::from(id))
    }

    fn describe(&self) -> String {
        format!("line {} ({}:{}:{})", self.line, self.owner, self.start, self.count)
    }
}

/// Reads what `text`, the content of `file`, grants to `subject`: 0 → its own id, 1… → the subordinate ids in the
/// order of the lines.
///
/// Lines that cannot be understood are counted in a warning; a range that another user has too is one warning each.
///
/// # Errors
/// [`IdMapError`] for a range of `subject` that the kernel would refuse or that would be dangerous.
pub fn grant(text: &str, file: &Path, subject: &Subject<'_>) -> Result<Grant, IdMapError> {
    let (entries, malformed) = parse(text);
    let (own, others): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| subject.owns(entry));
    let own = without_repeats(own);
    for entry in &own {
        check_range(entry, file, subject.own_id)?;
    }
    check_overlaps(&own, file)?;
    let mut warnings = shared_with_others(&own, &others, file);
    if malformed > 0 {
        let file = file.display();
        warnings
            .push(format!("{file}: {malformed} lines are not owner:start:count and are ignored"));
    }
    let map = if own.is_empty() { None } else { Some(build(&own, file, subject.own_id)?) };
    Ok(Grant { map, warnings })
}

fn parse(text: &str) -> (Vec<Entry>, usize) {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let content = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parsed: Vec<_> = content.map(|(number, line)| Entry::parse(number, line)).collect();
    let malformed = parsed.iter().filter(|entry| entry.is_none()).count();
    (parsed.into_iter().flatten().collect(), malformed)
}

/// The same range may stand there twice, by name and by number.
fn without_repeats(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::new();
    for entry in entries {
        if !kept.iter().any(|k| (k.start, k.count) == (entry.start, entry.count)) {
            kept.push(entry);
        }
    }
    kept
}

fn check_range(entry: &Entry, file: &Path, own_id: u32) -> Result<(), IdMapError> {
    let file = file.to_owned();
    // The last number, 2³² − 1, means "no id" to the kernel.
    if entry.end() > u64::from(u32::MAX) {
        return Err(IdMapError::Overflow { file, entry: entry.describe() });
    }
    match [0, own_id].into_iter().find(|id| entry.contains(*id)) {
        Some(id) => Err(IdMapError::ContainsRealId { file, entry: entry.describe(), id }),
        None => Ok(()),
    }
}

fn check_overlaps(own: &[Entry], file: &Path) -> Result<(), IdMapError> {
    let mut sorted: Vec<&Entry> = own.iter().collect();
    sorted.sort_by_key(|entry| entry.start);
    match sorted.windows(2).find(|pair| pair[0].overlaps(pair[1])) {
        Some(pair) => Err(IdMapError::Overlap {
            file: file.to_owned(),
            first: pair[0].describe(),
            second: pair[1].describe(),
        }),
        None => Ok(()),
    }
}

fn shared_with_others(own: &[Entry], others: &[Entry], file: &Path) -> Vec<String> {
    let pairs = own.iter().flat_map(|mine| others.iter().map(move |theirs| (mine, theirs)));
    pairs
        .filter(|(mine, theirs)| mine.overlaps(theirs))
        .map(|(mine, theirs)| {
            let (file, mine, theirs) = (file.display(), mine.describe(), theirs.describe());
            format!("{file}: {mine} overlaps {theirs}: each can reach the other's containers")
        })
        .collect()
}

fn build(own: &[Entry], file: &Path, own_id: u32) -> Result<IdMap, IdMapError> {
    let mut ranges = vec![IdRange { container_id: 0, host_id: own_id, length: 1 }];
    let mut container_id = 1_u32;
    for entry in own {
        let overflow = || IdMapError::Overflow { file: file.to_owned(), entry: entry.describe() };
        let host_id = u32::try_from(entry.start).or(Err(overflow()))?;
        let length = u32::try_from(entry.count).or(Err(overflow()))?;
        ranges.push(IdRange { container_id, host_id, length });
        container_id = container_id.checked_add(length).ok_or_else(overflow)?;
    }
    Ok(IdMap { ranges })
}
