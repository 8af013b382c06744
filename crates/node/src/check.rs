//! `usnea check`: what this host offers, and what would help where it offers less.
//!
//! What can be tried is tried, in a child process, rather than concluded from versions.

use serde::Serialize;

use crate::config::NodeConfig;

mod host;
mod kernel;

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, such as `user namespaces`.
    pub name: String,
    /// Whether it will do.
    pub state: State,
    /// What is there.
    pub found: String,
    /// What to do about it; none when nothing needs to be done.
    pub remedy: Option<String>,
}

/// Whether something will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It will.
    Ok,
    /// Usnea runs, but something is missing or smaller.
    Warning,
    /// Usnea does not run without.
    Missing,
}

impl Check {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Ok, found: found.into(), remedy: None }
    }

    fn new(
        name: impl Into<String>,
        state: State,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), state, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn warning(
        name: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(name, State::Warning, found, remedy)
    }

    fn missing(
        name: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(name, State::Missing, found, remedy)
    }
}

/// Looks at everything, in the order in which a user would set it up.
///
/// The process must have one thread, otherwise what needs a child process is reported as not tried. Nothing is
/// changed; a temporary directory is made beside the data directory and removed.
#[must_use]
pub fn check(config: &NodeConfig) -> Vec<Check> {
    let mut checks = vec![host::user()];
    checks.push(kernel::user_namespaces());
    checks.extend(host::subordinate_ids());
    checks.push(host::runtime_directory(config));
    checks.push(host::data_directory(config));
    checks.push(kernel::overlay(config));
    checks.push(host::seccomp());
    checks.extend(host::cgroups());
    checks.push(host::linger());
    checks.extend(host::sysctls());
    checks.push(host::uplink());
    checks
}

/// Whether Usnea can run here: nothing is [`State::Missing`].
#[must_use]
pub fn verdict(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.state != State::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_do_not_fail() {
        let mut checks = vec![Check::ok("a", "1"), Check::warning("b", "2", "do")];
        assert!(verdict(&checks));
        checks.push(Check::missing("c", "3", "do"));
        assert!(!verdict(&checks));
    }

    #[test]
    fn the_json_names_are_stable() {
        let json = serde_json::to_string(&Check::ok("a", "1")).expect("json");
        assert_eq!(json, r#"{"name":"a","state":"ok","found":"1","remedy":null}"#);
    }

    #[test]
    fn every_shortcoming_has_a_remedy() {
        let directory = std::env::temp_dir();
        let checks = check(&NodeConfig::new(directory.join("r"), directory.join("d")));
        let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
        for name in ["user namespaces", "subordinate uids", "overlay", "cgroup cpu", "linger"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for check in checks {
            assert_eq!(check.remedy.is_none(), check.state == State::Ok, "{check:?}");
        }
    }
}
