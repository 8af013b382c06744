//! The ordinary user that the daemon under test runs as.

use std::{fs, process::Command};

use nix::unistd::{Uid, User};

use crate::Skip;

/// Made on first use when tests run as root, and kept: it owns nothing between runs. `userdel usnea-test` removes it.
const TEST_USER: &str = "usnea-test";
/// What a pod needs: uids 0 to 65535.
const SUBORDINATE_IDS: u32 = 65_536;
/// Where `useradd(8)` begins, too.
const FIRST_SUBORDINATE_ID: u32 = 100_000;

/// A user without privileges who has subordinate ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

impl Account {
    /// The user for tests: a dedicated one when called by root, else the caller.
    ///
    /// # Errors
    /// When the caller is no root and has no subordinate ids.
    pub fn ordinary() -> Result<Self, Skip> {
        if Uid::effective().is_root() {
            return Ok(Self::dedicated());
        }
        let caller = User::from_uid(Uid::effective()).ok().flatten();
        let caller = caller.ok_or_else(|| Skip::because("the caller has no entry in passwd"))?;
        if missing_subordinate_ids(&caller.name).is_empty() {
            return Ok(Self::from(caller));
        }
        let reason = format!("{} has no subordinate ids; see subuid(5)", caller.name);
        Err(Skip::because(reason))
    }

    fn dedicated() -> Self {
        if look_up(TEST_USER).is_none() {
            run("useradd", &["--no-create-home", "--shell", "/usr/sbin/nologin", TEST_USER]);
        }
        for (file, option) in missing_subordinate_ids(TEST_USER) {
            let first = first_free_id(&fs::read_to_string(file).unwrap_or_default());
            let range = format!("{first}-{}", first + SUBORDINATE_IDS - 1);
            run("usermod", &[option, &range, TEST_USER]);
        }
        Self::from(look_up(TEST_USER).expect("useradd has made the user"))
    }

    /// Whether the tests run as root and the daemon as somebody else.
    #[must_use]
    pub fn is_dedicated(&self) -> bool {
        self.uid != Uid::effective().as_raw()
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }
    }
}

fn look_up(name: &str) -> Option<User> {
    User::from_name(name).expect("read passwd")
}

/// The files of `subuid(5)` without an entry for `user`, with the option of `usermod(8)` that adds one.
fn missing_subordinate_ids(user: &str) -> Vec<(&'static str, &'static str)> {
    let files = [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")];
    let has_entry = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.split(':').next() == Some(user))
    };
    files.into_iter().filter(|(file, _)| !has_entry(file)).collect()
}

/// The first id above every range in `text`, which is in the format of `subuid(5)`.
fn first_free_id(text: &str) -> u32 {
    let end = |line: &str| {
        let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u32>().ok());
        Some(fields.next()?? + fields.next()??)
    };
    text.lines().filter_map(end).max().unwrap_or(0).max(FIRST_SUBORDINATE_ID)
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    let status = status.unwrap_or_else(|error| panic!("{program} {args:?}: {error}"));
    assert!(status.success(), "{program} {args:?}: {status}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ids_lie_above_every_range() {
        assert_eq!(first_free_id(""), 100_000);
        assert_eq!(first_free_id("a:100000:65536\nb:300000:10\nc:200000:65536\n"), 300_010);
        assert_eq!(first_free_id("broken\na:1:2\n"), 100_000);
    }
}
