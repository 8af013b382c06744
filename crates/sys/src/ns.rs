//! Namespaces: making, naming and configuring them.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sched::CloneFlags,
    sys::stat::{Mode, fstat},
    unistd::Pid,
};

/// One kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// `CLONE_NEWUSER`
    User,
    /// `CLONE_NEWNS`
    Mount,
    /// `CLONE_NEWCGROUP`
    Cgroup,
    /// `CLONE_NEWNET`
    Network,
    /// `CLONE_NEWIPC`
    Ipc,
    /// `CLONE_NEWUTS`
    Uts,
    /// `CLONE_NEWPID`; as an entry of `/proc/PID/ns` the namespace of the process itself.
    Pid,
}

impl Namespace {
    /// All kinds, the user namespace first: joining it gives the rights over the others.
    pub const ALL: [Self; 7] =
        [Self::User, Self::Mount, Self::Cgroup, Self::Network, Self::Ipc, Self::Uts, Self::Pid];

    /// The name below `/proc/PID/ns`.
    #[must_use]
    pub fn proc_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Cgroup => "cgroup",
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Pid => "pid",
        }
    }

    /// The flag of `clone(2)`, `unshare(2)` and `setns(2)`.
    #[must_use]
    pub fn flag(self) -> CloneFlags {
        match self {
            Self::User => CloneFlags::CLONE_NEWUSER,
            Self::Mount => CloneFlags::CLONE_NEWNS,
            Self::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            Self::Network => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::Pid => CloneFlags::CLONE_NEWPID,
        }
    }

    /// Opens this namespace of `pid`, or of the caller when `None`.
    ///
    /// # Errors
    /// `ENOENT` when the process is gone, `EACCES` without the right to trace it.
    pub fn open(self, pid: Option<Pid>) -> Result<OwnedFd, Errno> {
        let owner = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let path = format!("/proc/{owner}/ns/{}", self.proc_name());
        open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
    }
}

/// Whether two namespace descriptors name the same namespace.
///
/// # Errors
/// As `fstat(2)`.
pub fn same(a: impl AsFd, b: impl AsFd) -> Result<bool, Errno> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// The user namespace that owns the namespace behind `fd`.
///
/// Source: `ioctl_ns(2)` `NS_GET_USERNS`, Linux 4.9.
///
/// # Errors
/// `EPERM` when the owner is not the caller's user namespace or one of its descendants.
pub fn owner(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: this ioctl takes no argument and returns a new descriptor.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_USERNS) };
    let raw = Errno::result(ret)?;
    // SAFETY: `raw` has just been returned to us and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sets `lo` of the caller's network namespace up, which gives it 127.0.0.1 and ::1.
///
/// Source: `netdevice(7)` `SIOCSIFFLAGS`.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` in the owner of the network namespace.
pub fn loopback_up() -> Result<(), Errno> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(flags).map_err(|_out_of_range| Errno::EINVAL)?;
    // SAFETY: `request` is a valid ifreq that outlives the call, as SIOCSIFFLAGS expects.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(ret).map(drop)
}

/// Writes one sysctl of the caller's namespaces; `key` in dotted form.
///
/// # Errors
/// Those of opening and writing `/proc/sys/…`: `ENOENT` for an unknown key, `EINVAL` for a value the kernel refuses.
pub fn write_sysctl(key: &str, value: &str) -> io::Result<()> {
    use io::Write;
    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespaces_open_and_are_themselves() {
        for kind in Namespace::ALL {
            let a = kind.open(None).expect("own namespace");
            let b = kind.open(Some(Pid::this())).expect("by pid");
            assert!(same(&a, &b).expect("stat"));
        }
    }

    #[test]
    fn different_kinds_differ() {
        let net = Namespace::Network.open(None).expect("net");
        let uts = Namespace::Uts.open(None).expect("uts");
        assert!(!same(&net, &uts).expect("stat"));
    }
}
