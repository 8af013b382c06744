//! `usnea node hold`: makes the namespaces and keeps them while daemons come and go.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{SystemTime, UNIX_EPOCH},
};

use model::UnixNanos;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
    unistd::{Pid, getegid, geteuid},
};
use sys::{
    ns::{self, Namespace},
    process::{SingleThreaded, set_undumpable},
    seqpacket,
};

use crate::{
    cgroup,
    config::NodeConfig,
    error::{NodeError, chain},
    facts::{CgroupFacts, Mode, NodeFacts},
    listen::{Sockets, private_directory},
    mounts,
    origin::{Origin, adopted_ids},
    protocol::{Call, Descriptors, MAX_BYTES, Reply, Request, VERSION},
    subordinate,
};

/// How long a client may take for its one message.
const CLIENT_SECONDS: i64 = 2;

/// Makes a node, or adopts the namespaces it is started in, and serves it until SIGTERM, SIGINT or SIGHUP.
///
/// The process must have one thread and is not good for anything else afterwards: it stays in the node.
///
/// # Errors
/// [`NodeError::RealRoot`] for the machine's root, [`NodeError::AlreadyHeld`] when the node exists, else what failed.
/// Where the host offers less (no subordinate ids, no delegated cgroup) there is a node all the same, and its
/// [`NodeFacts`] say so.
pub fn hold(config: &NodeConfig) -> Result<(), NodeError> {
    let proof = SingleThreaded::prove()?;
    let origin = Origin::detect()?;
    private_directory(&config.data_dir)?;
    let sockets = Sockets::open(config)?;
    let (facts, namespaces) = make(config, origin, &proof)?;
    // Only now: newuidmap looks at the owner of our /proc directory, which this changes.
    set_undumpable().map_err(NodeError::namespace("hide this process"))?;
    serve(&sockets, &facts, &namespaces)
}

/// Everything that clients get, but the listener.
#[derive(Debug)]
struct Namespaces {
    user: OwnedFd,
    mount: OwnedFd,
    cgroup: OwnedFd,
    network: OwnedFd,
    host_network: OwnedFd,
}

fn make(
    config: &NodeConfig,
    origin: Origin,
    proof: &SingleThreaded,
) -> Result<(NodeFacts, Namespaces), NodeError> {
    let open = |kind: Namespace| {
        kind.open(None).map_err(NodeError::namespace("open a namespace of this process"))
    };
    let host_network = open(Namespace::Network)?;
    let (mode, network, ids, mut warnings) = match origin {
        Origin::User => {
            let (plan, warnings) = subordinate::plan(geteuid(), getegid())?;
            (Mode::Own, Mode::Own, plan.carry_out(proof)?, warnings)
        }
        Origin::NamespaceRoot { network } => (Mode::Adopted, network, adopted_ids(), Vec::new()),
    };
    let cgroup = enter_cgroup()?;
    let mounts = mounts::make(config)?;
    warnings.extend(mounts.warnings);
    if network == Mode::Own {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(NodeError::namespace("make a network namespace"))?;
        ns::loopback_up().map_err(NodeError::namespace("set the loopback interface up"))?;
    }
    let namespaces = Namespaces {
        user: open(Namespace::User)?,
        mount: open(Namespace::Mount)?,
        cgroup: open(Namespace::Cgroup)?,
        network: open(Namespace::Network)?,
        host_network,
    };
    let facts = NodeFacts {
        pid: Pid::this().as_raw(),
        started_at: now(),
        mode,
        network,
        ids,
        cgroup,
        directories: mounts.directories,
        warnings,
    };
    Ok((facts, namespaces))
}

/// Makes a cgroup namespace whose root is the delegated cgroup, then leaves that root.
///
/// The order matters: the root of a new cgroup namespace is where its maker is at that moment.
fn enter_cgroup() -> Result<CgroupFacts, NodeError> {
    let delegation = cgroup::find();
    unshare(CloneFlags::CLONE_NEWCGROUP)
        .map_err(NodeError::namespace("make a cgroup namespace"))?;
    let delegation = match delegation {
        Ok(delegation) => delegation,
        Err(missing) => {
            let reason = format!("{}; {}", chain(&missing), missing.remedy());
            return Ok(CgroupFacts::Missing { reason });
        }
    };
    match cgroup::move_to(&delegation.root, cgroup::SYSTEM) {
        Ok(()) => Ok(cgroup::enable(&delegation.root, &delegation.path)),
        Err(error) => {
            let path = delegation.path.display();
            let reason = format!("this process may not move to {path}/{}: {error}", cgroup::SYSTEM);
            Ok(CgroupFacts::Missing { reason })
        }
    }
}

fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Answers one client after the other; all are this user's own, and none can hold up the others for long.
fn serve(sockets: &Sockets, facts: &NodeFacts, namespaces: &Namespaces) -> Result<(), NodeError> {
    let failed = |operation| NodeError::namespace(operation);
    let signals = end_signals().map_err(failed("wait for signals"))?;
    loop {
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(sockets.node.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(failed("wait for clients")(errno)),
        }
        if ready[0].any() == Some(true) {
            return Ok(());
        }
        if let Ok(client) = seqpacket::accept(&sockets.node) {
            // A client that went away, or is too slow, has itself been told by its own side.
            answer(&client, sockets, facts, namespaces).ok();
        }
    }
}

fn end_signals() -> Result<SignalFd, Errno> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
}

fn answer(
    client: &OwnedFd,
    sockets: &Sockets,
    facts: &NodeFacts,
    namespaces: &Namespaces,
) -> Result<(), Errno> {
    // Inside the node its maker is root; anybody else is another number.
    if seqpacket::peer(client)?.uid() != geteuid().as_raw() {
        return Err(Errno::EPERM);
    }
    let limit = TimeVal::new(CLIENT_SECONDS, 0);
    setsockopt(client, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(client, sockopt::SendTimeout, &limit)?;
    let message = seqpacket::recv(client, MAX_BYTES)?;
    match serde_json::from_slice(&message.bytes) {
        Ok(Request { version: VERSION, call: Call::Join }) => {
            let reply = Reply::Joined { version: VERSION, facts: Box::new(facts.clone()) };
            send(client, &reply, &descriptors(sockets, namespaces))
        }
        Ok(Request { version, .. }) => {
            refuse(client, format!("it speaks protocol {VERSION}, the client {version}"))
        }
        Err(error) => refuse(client, format!("it does not understand the request: {error}")),
    }
}

/// In the order of [`Descriptors`].
fn descriptors<'a>(
    sockets: &'a Sockets,
    namespaces: &'a Namespaces,
) -> [BorrowedFd<'a>; Descriptors::COUNT] {
    [
        namespaces.user.as_fd(),
        namespaces.mount.as_fd(),
        namespaces.cgroup.as_fd(),
        namespaces.network.as_fd(),
        namespaces.host_network.as_fd(),
        sockets.cri.as_fd(),
    ]
}

fn refuse(client: &OwnedFd, reason: String) -> Result<(), Errno> {
    send(client, &Reply::Refused { version: VERSION, reason }, &[])
}

fn send(client: &OwnedFd, reply: &Reply, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(reply).or(Err(Errno::EIO))?;
    seqpacket::send(client, &bytes, fds)
}
