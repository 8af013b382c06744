//! The holder's sockets, and who may have them.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::stat::{Mode, umask},
    unistd::geteuid,
};
use sys::seqpacket;

use crate::{config::NodeConfig, error::NodeError};

/// Listening sockets of the one holder of a runtime directory. Dropping it removes them.
///
/// They exist before the namespaces do: who connects meanwhile waits, and loses the connection when it fails.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) node: OwnedFd,
    pub(crate) cri: UnixListener,
    paths: [PathBuf; 2],
    /// Last, so that the next holder finds the sockets removed.
    _lock: Flock<File>,
}

impl Sockets {
    /// Takes the lock, removes what a dead holder left, and listens.
    pub(crate) fn open(config: &NodeConfig) -> Result<Self, NodeError> {
        private_directory(&config.runtime_dir)?;
        let lock = lock(config)?;
        let paths = [config.node_socket(), config.cri_socket()];
        for path in &paths {
            match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(NodeError::file("remove", path))?,
            }
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let node = seqpacket::listen_at(&paths[0]).map_err(socket(&paths[0]));
        let cri = UnixListener::bind(&paths[1]).map_err(NodeError::file("listen at", &paths[1]));
        umask(before);
        Ok(Self { node: node?, cri: cri?, paths, _lock: lock })
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.paths {
            // Whoever removed it earlier did what is wanted here.
            fs::remove_file(path).ok();
        }
    }
}

fn socket(path: &Path) -> impl FnOnce(Errno) -> NodeError {
    let path = path.to_owned();
    move |source| NodeError::Socket { operation: "listen at", path, source }
}

fn lock(config: &NodeConfig) -> Result<Flock<File>, NodeError> {
    let path = config.lock_file();
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(NodeError::file("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_file, errno)| match errno {
        Errno::EWOULDBLOCK => NodeError::AlreadyHeld { path: config.runtime_dir.clone() },
        other => NodeError::file("lock", &path)(other.into()),
    })
}

/// Makes `path` a directory that nobody but the caller may enter.
///
/// # Errors
/// [`NodeError::ForeignDirectory`] when it is another user's.
pub(crate) fn private_directory(path: &Path) -> Result<(), NodeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(NodeError::file("create", path))?;
    let metadata = fs::metadata(path).map_err(NodeError::file("look at", path))?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(NodeError::ForeignDirectory { path: path.to_owned(), owner: metadata.uid() });
    }
    if metadata.mode() & 0o077 != 0 {
        let private = Permissions::from_mode(0o700);
        fs::set_permissions(path, private).map_err(NodeError::file("restrict", path))?;
    }
    Ok(())
}
