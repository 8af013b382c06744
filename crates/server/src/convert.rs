//! Between the messages of the CRI and the types of `model`.
//!
//! A request becomes a `model` type once, here; every field is honoured, refused with a reason, or ignored for the
//! reason that stands beside it. Field names in refusals are the CRI's.

pub(crate) mod container;
pub(crate) mod container_status;
pub(crate) mod image;
mod mounts;
mod namespaces;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod sandbox_status;
mod seccomp;
mod security;
pub(crate) mod signal;
pub(crate) mod stats;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use cri_api::v1 as cri;
use engine::EngineError;
use model::InvalidField;

/// What decides about requests on this host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostTraits {
    /// The kernel enforces SELinux labels, which an ordinary user cannot set.
    pub(crate) selinux: bool,
}

/// Names of the one runtime that there is; clients look up the empty one.
pub(crate) const RUNTIME_HANDLERS: [&str; 2] = ["", "usnea"];

/// A year is as good as for ever, and can be added to any clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The host cannot do what `field` asks; `FailedPrecondition`.
fn precondition(field: &str, reason: &str) -> EngineError {
    EngineError::Precondition { what: format!("{field}: {reason}") }
}

/// Takes apart a sub-message that must be there.
pub(crate) fn required<T>(field: &str, message: Option<T>) -> Result<T, InvalidField> {
    message.ok_or_else(|| InvalidField::new(field, "", "is required"))
}

/// Refuses what only Windows has, unless nothing is said in it.
fn refuse_windows<T: Default + PartialEq>(windows: Option<&T>) -> Result<(), InvalidField> {
    if windows.is_none_or(|message| *message == T::default()) {
        return Ok(());
    }
    Err(InvalidField::new("windows", "…", "concerns Windows; this is Linux"))
}

/// Checks the name of a runtime handler. An image's must be that of its sandbox: both names are the same runtime.
pub(crate) fn check_handler(field: &str, handler: &str) -> Result<(), InvalidField> {
    if RUNTIME_HANDLERS.contains(&handler) {
        return Ok(());
    }
    Err(InvalidField::new(field, handler, "is no runtime handler; use \"usnea\" or leave it empty"))
}

/// Reads an enumeration, whose numbers a client may make up.
fn known<T: TryFrom<i32>>(field: &str, number: i32) -> Result<T, InvalidField> {
    T::try_from(number).ok().ok_or_else(|| {
        InvalidField::new(field, number.to_string(), "is no value of this enumeration")
    })
}

/// Reads a span of time in seconds.
///
/// # Errors
/// When it is negative.
pub(crate) fn seconds(field: &str, seconds: i64) -> Result<Duration, InvalidField> {
    match u64::try_from(seconds) {
        Ok(seconds) => Ok(Duration::from_secs(seconds).min(LONGEST)),
        Err(_) => Err(InvalidField::new(field, seconds.to_string(), "is negative")),
    }
}

/// Refuses the `selinux_options` of a sandbox or container where they would count.
fn check_selinux(
    options: Option<&cri::SeLinuxOption>,
    host: HostTraits,
) -> Result<(), EngineError> {
    let asked = options.is_some_and(|options| *options != cri::SeLinuxOption::default());
    if asked && host.selinux {
        let reason = "an ordinary user cannot apply SELinux labels; leave them out";
        return Err(precondition("linux.security_context.selinux_options", reason));
    }
    // Without SELinux a label means nothing, and test suites set it everywhere.
    Ok(())
}

fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

fn unsorted(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
