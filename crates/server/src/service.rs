//! What the services answer from.

use std::path::Path;

use engine::Engine;

use crate::convert::HostTraits;

/// Both services of the CRI; `runtime_service` and `image_service` implement them.
#[derive(Clone, Debug)]
pub(crate) struct Cri {
    pub(crate) engine: Engine,
    pub(crate) host: HostTraits,
}

impl Cri {
    /// Looks at the host once.
    pub(crate) fn new(engine: Engine) -> Self {
        // The kernel makes the file when SELinux is on.
        let selinux = Path::new("/sys/fs/selinux/enforce").exists();
        Self { engine, host: HostTraits { selinux } }
    }
}
