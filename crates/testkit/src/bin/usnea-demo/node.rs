//! The node of the show's daemon.

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use testkit::{Instance, audit::Scope, processes::Process};

use crate::client::Result;

/// Ends with this value at the latest.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) holder: Process,
    user_namespace: String,
}

impl Node {
    /// Asks the product, because daemon and holder hide themselves from an ordinary user's `/proc`.
    pub(crate) fn of(instance: &Instance) -> Result<Self> {
        let facts: Value = serde_json::from_str(&instance.usnea_ok(&["node", "status"]))?;
        let pid = facts["pid"].as_i64().ok_or("`usnea node status` shows no pid")?;
        let holder = Process { pid: i32::try_from(pid)? };
        let ask = ["node", "exec", "--", "readlink", "/proc/self/ns/user"];
        Ok(Self { holder, user_namespace: instance.usnea_ok(&ask).trim().to_owned() })
    }

    /// What belongs to the instance, for the leak audit.
    pub(crate) fn scope(&self, instance: &Instance) -> Scope {
        let mut scope = instance.scope();
        scope.user_namespace = Some(self.user_namespace.clone());
        if !scope.residents.contains(&self.holder) {
            scope.residents.push(self.holder);
            scope.mount_views.push(self.holder);
        }
        scope
    }

    pub(crate) fn runs(&self) -> bool {
        self.holder.command_line().ends_with("node hold")
    }

    /// Asks it to end.
    pub(crate) fn end(&self) -> Result<()> {
        match kill(Pid::from_raw(self.holder.pid), Signal::SIGTERM) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.runs() {
            // One that cannot be ended now has just ended.
            drop(self.end());
        }
    }
}
