//! Where a holder was started, which decides what is its own to make.

use std::fs;

use nix::{
    errno::Errno,
    unistd::{Uid, User, geteuid},
};
use sys::ns::{self, Namespace};

use crate::{
    error::NodeError,
    facts::{Ids, Mode},
    idmap::IdMap,
};

/// The number that the kernel gives to its first user namespace, on every machine since Linux 3.8
/// (`PROC_USER_INIT_INO`, since 6.18 `USER_NS_INIT_INO` in `linux/nsfs.h`).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Who started the holder, and in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An ordinary user: every namespace is to be made.
    User,
    /// Root of a user namespace that somebody made before.
    NamespaceRoot {
        /// [`Mode::Adopted`] when that namespace owns the network namespace too.
        network: Mode,
    },
}

impl Origin {
    /// Looks at the caller.
    ///
    /// # Errors
    /// [`NodeError::RealRoot`] for root of the machine; [`NodeError::Namespace`] without `/proc`.
    pub(crate) fn detect() -> Result<Self, NodeError> {
        if !geteuid().is_root() {
            return Ok(Self::User);
        }
        let failed = NodeError::namespace("look at this process's namespaces");
        match root_of().map_err(failed)? {
            None => Err(NodeError::RealRoot),
            Some(network) => Ok(Self::NamespaceRoot { network }),
        }
    }
}

/// For root: `None` on the machine itself, else whether the network namespace comes along.
fn root_of() -> Result<Option<Mode>, Errno> {
    let user = Namespace::User.open(None)?;
    if nix::sys::stat::fstat(&user)?.st_ino == INITIAL_USER_NAMESPACE {
        return Ok(None);
    }
    let network = Namespace::Network.open(None)?;
    // EPERM: the owner is above our user namespace.
    let adopted = match ns::owner(&network) {
        Ok(owner) => ns::same(&owner, &user)?,
        Err(Errno::EPERM) => false,
        Err(errno) => return Err(errno),
    };
    Ok(Some(if adopted { Mode::Adopted } else { Mode::Own }))
}

/// The ids of the user namespace that this process is in.
pub(crate) fn adopted_ids() -> Ids {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        IdMap::from_proc(&text)
    };
    let (uids, gids) = (read("uid_map"), read("gid_map"));
    if uids.len() > 1 && gids.len() > 1 {
        return Ids::Mapped { uids, gids };
    }
    let reason =
        "the surrounding user namespace maps one id only; give it the subordinate ids of the user";
    Ids::SingleId { reason: reason.to_owned() }
}

/// The login name of `uid`; `None` when there is none or the user database is out of reach.
pub(crate) fn login_name(uid: Uid) -> Option<String> {
    User::from_uid(uid).ok().flatten().map(|user| user.name)
}
