//! The node's cgroup tree, as far as the daemon makes and removes it.

use std::{io, path::Path, time::Duration};

use sys::cgroup::Cgroup;

/// How long killed processes may take to leave their cgroup.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The delegated part of the cgroup tree, and which controllers it has.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: Cgroup,
    controllers: Vec<String>,
}

impl Cgroups {
    /// `root` must be writable by the daemon.
    pub(crate) fn new(root: Cgroup, controllers: Vec<String>) -> Self {
        Self { root, controllers }
    }

    pub(crate) fn root(&self) -> &Cgroup {
        &self.root
    }

    pub(crate) fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Makes the cgroup at `path`, in which cgroups with limits can be made.
    pub(crate) fn make_parent(&self, path: &Path) -> io::Result<Cgroup> {
        let mut at = self.root.try_clone()?;
        self.enable_controllers(&at);
        for component in path.components() {
            at = at.make(Path::new(component.as_os_str()))?;
            self.enable_controllers(&at);
        }
        Ok(at)
    }

    /// One by one, because one that is busy must not keep the others out.
    fn enable_controllers(&self, cgroup: &Cgroup) {
        for controller in &self.controllers {
            if let Err(error) = cgroup.write("cgroup.subtree_control", &format!("+{controller}")) {
                tracing::debug!(%controller, %error, "enable cgroup controller");
            }
        }
    }

    /// Kills whatever lives at `path`; absent is dead already.
    pub(crate) fn kill(&self, path: &Path) -> io::Result<()> {
        absent_is_none(self.root.descend(path))?.map_or(Ok(()), |cgroup| cgroup.kill())
    }

    /// Kills whatever lives at `parent/name` and removes it; absent is removed already.
    pub(crate) fn destroy(&self, parent: &Path, name: &str) -> io::Result<()> {
        let Some(parent) = absent_is_none(self.root.descend(parent))? else { return Ok(()) };
        let Some(cgroup) = absent_is_none(parent.descend(Path::new(name)))? else { return Ok(()) };
        if cgroup.populated() {
            cgroup.kill()?;
            cgroup.wait_empty(KILL_TIMEOUT)?;
        }
        parent.remove(name)
    }

    /// Removes `parent/name` if nothing is in it.
    pub(crate) fn remove_empty(&self, parent: &Path, name: &str) -> io::Result<()> {
        match absent_is_none(self.root.descend(parent))? {
            Some(parent) => parent.remove(name),
            None => Ok(()),
        }
    }

    /// Names of the cgroups below `parent`.
    pub(crate) fn names(&self, parent: &Path) -> io::Result<Vec<String>> {
        let Some(parent) = absent_is_none(self.root.descend(parent))? else {
            return Ok(Vec::new());
        };
        let names = parent.child_names()?.into_iter();
        Ok(names.filter_map(|name| name.into_string().ok()).collect())
    }
}

fn absent_is_none(result: Result<Cgroup, nix::errno::Errno>) -> io::Result<Option<Cgroup>> {
    match result {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(nix::errno::Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
