//! Who a container's first process is.
//!
//! Names are looked up in the image's `passwd(5)` and `group(5)`, which are hostile: lines that are not entirely
//! well-formed do not exist, and a number is never a name, however the image calls its users.

mod database;

use model::{ContainerSecurity, GroupPolicy, InvalidField, ResolvedUser, RunAs};
use thiserror::Error;

use crate::command::check_home;
use database::{GroupFile, PasswdFile, is_digits, parse_id};

/// `NGROUPS_MAX` of `setgroups(2)`.
const MOST_GROUPS: usize = 65_536;

/// How many ids, from 0 on, are mapped in the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdLimits {
    /// User ids.
    pub uids: u32,
    /// Group ids.
    pub gids: u32,
}

/// Why a user cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UserError {
    /// Request or image are at fault. CRI: `InvalidArgument`.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The user of the host has been given too few ids. CRI: `FailedPrecondition`.
    #[error(
        "{kind} {id} is not mapped in the node (mapped: {mapped} from 0 on); give this user a longer range in \
         /etc/sub{kind}"
    )]
    NotMapped {
        /// `uid` or `gid`.
        kind: &'static str,
        /// As asked for.
        id: u32,
        /// Count of mapped ids.
        mapped: u32,
    },
}

/// Decides user, groups and home directory.
///
/// The user is the request's `run_as_user` or `run_as_username`, else the image's (`uid`, `name`, either with `:gid` or
/// `:group`, or nothing, which is root). The primary group is the one that is named, else that of the user's line in
/// `passwd`, else 0. The primary group is also the first additional one: without it, a program that changes its group
/// would leave a group that file permissions exclude. `passwd` and `group` are the content of the image's files, bounded
/// by the caller; `None` where there is none. In single-id mode the groups of the image do not count.
///
/// # Errors
/// See [`UserError`].
pub fn resolve(
    security: &ContainerSecurity,
    image_user: &str,
    passwd: Option<&str>,
    group: Option<&str>,
    mapped: IdLimits,
) -> Result<ResolvedUser, UserError> {
    let passwd = PasswdFile::new(passwd.unwrap_or_default());
    let groups = GroupFile::new(group.unwrap_or_default());
    let who = who(security, image_user, passwd, groups)?;
    let mut gids = vec![who.gid];
    // With a single id mapped nobody can be in further groups: those of the image are left out, as its owners are.
    let single_id = mapped.gids == 1;
    if let (GroupPolicy::Merge, Some(name), false) = (security.group_policy, who.name, single_id) {
        gids.extend(groups.of_member(name));
    }
    gids.extend(&security.supplemental_groups);
    let additional_gids = without_repetitions(gids)?;
    check_mapped("uid", who.uid, mapped.uids)?;
    additional_gids.iter().try_for_each(|gid| check_mapped("gid", *gid, mapped.gids))?;
    check_home("image /etc/passwd", who.home)?;
    Ok(ResolvedUser { uid: who.uid, gid: who.gid, additional_gids, home: who.home.to_owned() })
}

struct Who<'a> {
    uid: u32,
    gid: u32,
    name: Option<&'a str>,
    home: &'a str,
}

fn who<'a>(
    security: &ContainerSecurity,
    image_user: &str,
    passwd: PasswdFile<'a>,
    groups: GroupFile<'_>,
) -> Result<Who<'a>, InvalidField> {
    const IMAGE: &str = "image.config.User";
    let (mut who, group) = match &security.run_as {
        Some(RunAs::Uid(uid)) => (by_uid(*uid, passwd), None),
        Some(RunAs::Name(name)) => (by_text("run_as_username", name, passwd)?, None),
        None => {
            let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
            let user = if user.is_empty() { "0" } else { user };
            (by_text(IMAGE, user, passwd)?, Some(group).filter(|group| !group.is_empty()))
        }
    };
    match (security.run_as_group, group) {
        (Some(gid), _) => who.gid = gid,
        (None, Some(text)) => who.gid = group_by_text(IMAGE, text, groups)?,
        (None, None) => {}
    }
    Ok(who)
}

fn by_uid(uid: u32, passwd: PasswdFile<'_>) -> Who<'_> {
    match passwd.entries().find(|entry| entry.uid == uid) {
        Some(entry) => entry.into(),
        None => Who { uid, gid: 0, name: None, home: "/" },
    }
}

fn by_text<'a>(field: &str, text: &str, passwd: PasswdFile<'a>) -> Result<Who<'a>, InvalidField> {
    if is_digits(text) {
        return number(field, text).map(|uid| by_uid(uid, passwd));
    }
    let entry = passwd.entries().find(|entry| entry.name == text);
    let reason = "is neither a number nor a user in the image's /etc/passwd";
    entry.map(Who::from).ok_or_else(|| InvalidField::new(field, text, reason))
}

fn group_by_text(field: &str, text: &str, groups: GroupFile<'_>) -> Result<u32, InvalidField> {
    if is_digits(text) {
        return number(field, text);
    }
    let entry = groups.entries().find(|entry| entry.name == text);
    let reason = "is neither a number nor a group in the image's /etc/group";
    entry.map(|entry| entry.gid).ok_or_else(|| InvalidField::new(field, text, reason))
}

fn number(field: &str, text: &str) -> Result<u32, InvalidField> {
    parse_id(text).ok_or_else(|| InvalidField::new(field, text, "is outside 0 to 2147483647"))
}

impl<'a> From<database::PasswdEntry<'a>> for Who<'a> {
    fn from(entry: database::PasswdEntry<'a>) -> Self {
        let home = if entry.home.is_empty() { "/" } else { entry.home };
        Self { uid: entry.uid, gid: entry.gid, name: Some(entry.name), home }
    }
}

fn without_repetitions(gids: Vec<u32>) -> Result<Vec<u32>, InvalidField> {
    let mut seen = std::collections::BTreeSet::new();
    let unique: Vec<u32> = gids.into_iter().filter(|gid| seen.insert(*gid)).collect();
    if unique.len() > MOST_GROUPS {
        let count = unique.len().to_string();
        return Err(InvalidField::new("supplemental_groups", count, "are more than 65536 groups"));
    }
    Ok(unique)
}

fn check_mapped(kind: &'static str, id: u32, mapped: u32) -> Result<(), UserError> {
    if id < mapped { Ok(()) } else { Err(UserError::NotMapped { kind, id, mapped }) }
}

#[cfg(test)]
mod tests;
