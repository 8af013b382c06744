//! Finding the node, starting its holder when there is none, and going in.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
    unistd::{chdir, geteuid},
};
use sys::{
    cgroup::Cgroup,
    ns::{self, Namespace},
    process::{SingleThreaded, set_undumpable},
    seqpacket,
};

use crate::{
    cgroup,
    config::NodeConfig,
    error::NodeError,
    facts::{CgroupFacts, Ids, NodeFacts},
    origin::Origin,
    protocol::{Call, Descriptors, MAX_BYTES, Reply, Request, VERSION},
    start::{HolderCommand, Started},
    subordinate::become_root,
};

/// How long a holder may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// Between two looks for it; making the namespaces takes some 20 ms.
const PAUSE: Duration = Duration::from_millis(3);

/// A node that can be entered.
#[derive(Debug)]
pub struct Node {
    facts: NodeFacts,
    descriptors: Descriptors,
}

/// What a daemon has once it is in.
#[derive(Debug)]
pub struct Entered {
    /// The node's facts; the cgroup's are read anew.
    pub facts: NodeFacts,
    /// The delegated cgroup, `/` of the node; none without delegation.
    pub cgroup_root: Option<Cgroup>,
    /// Why this process is not in the cgroup `system/`, though there is one.
    pub placement_problem: Option<String>,
    /// The listening CRI socket; blocking, and shared with the holder.
    pub cri_listener: UnixListener,
    /// The network namespace of the node. This process is still in the host's.
    pub network: OwnedFd,
    /// The network namespace the holder was started in.
    pub host_network: OwnedFd,
}

/// Joins the holder of `config`, after starting it by `holder` when there is none.
///
/// # Errors
/// [`NodeError::HolderEnded`] with the holder's own words when it could not be made, [`NodeError::HolderSlow`] after
/// 10 s, [`NodeError::RealRoot`] for the machine's root.
pub fn find_or_start(config: &NodeConfig, holder: &HolderCommand) -> Result<Node, NodeError> {
    // Said here too: the message reaches the user without a detour through a log.
    Origin::detect()?;
    let deadline = Instant::now() + READY;
    let mut started: Option<Started> = None;
    loop {
        if let Some(node) = find(config)? {
            if let Some(started) = &started {
                started.give_way_to(&node);
            }
            return Ok(node);
        }
        match &started {
            None => started = Some(Started::new(config, holder)?),
            Some(started) => started.check(config)?,
        }
        if Instant::now() > deadline {
            return Err(NodeError::HolderSlow { seconds: READY.as_secs(), log: config.log_file() });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks the holder of `config`; `None` when there is none.
///
/// # Errors
/// [`NodeError::ForeignHolder`] when another user listens there, [`NodeError::Socket`] and [`NodeError::Protocol`] when
/// it cannot be talked to.
pub fn find(config: &NodeConfig) -> Result<Option<Node>, NodeError> {
    let path = config.node_socket();
    let socket = |operation| {
        let path = path.clone();
        move |source| NodeError::Socket { operation, path, source }
    };
    let holder = match seqpacket::connect_to(&path) {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(None),
        result => result.map_err(socket("connect to"))?,
    };
    let uid = seqpacket::peer(&holder).map_err(socket("look at"))?.uid();
    if uid != geteuid().as_raw() {
        return Err(NodeError::ForeignHolder { path, uid });
    }
    let seconds = i64::try_from(READY.as_secs()).unwrap_or(i64::MAX);
    setsockopt(&holder, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0))
        .map_err(socket("configure"))?;
    let request = Request { version: VERSION, call: Call::Join };
    let request = serde_json::to_vec(&request).map_err(|error| NodeError::Protocol(Some(error)))?;
    let answer =
        seqpacket::send(&holder, &request, &[]).and_then(|()| seqpacket::recv(&holder, MAX_BYTES));
    match answer {
        // It ended between listening and being ready.
        Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(None),
        Ok(message) if message.bytes.is_empty() => Ok(None),
        Err(Errno::EAGAIN) => {
            Err(NodeError::HolderSlow { seconds: READY.as_secs(), log: config.log_file() })
        }
        result => understand(result.map_err(socket("talk through"))?).map(Some),
    }
}

fn understand(message: seqpacket::Message) -> Result<Node, NodeError> {
    let reply = serde_json::from_slice(&message.bytes);
    match reply.map_err(|error| NodeError::Protocol(Some(error)))? {
        Reply::Refused { reason, .. } => Err(NodeError::Refused { reason }),
        Reply::Joined { facts, .. } => {
            let descriptors = Descriptors::received(message.fds);
            let descriptors = descriptors.ok_or(NodeError::Protocol(None))?;
            Ok(Node { facts: *facts, descriptors })
        }
    }
}

impl Node {
    /// What the holder said when it was asked.
    #[must_use]
    pub fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// Moves this process into the node: root of its user namespace, its mounts and cgroups, but the host's network.
    ///
    /// The working directory is kept when it exists inside. The process can no longer be traced or inspected by
    /// others of the user.
    ///
    /// # Errors
    /// [`NodeError::Namespace`]: `EPERM` when this process is neither the user of the node nor its root.
    pub fn enter(self, _proof: SingleThreaded) -> Result<Entered, NodeError> {
        set_undumpable().map_err(NodeError::namespace("hide this process"))?;
        self.join_namespaces()?;
        let Self { mut facts, descriptors } = self;
        let (cgroup_root, placement_problem) = take_place(&mut facts, cgroup::SYSTEM);
        Ok(Entered {
            facts,
            cgroup_root,
            placement_problem,
            cri_listener: descriptors.cri_listener.into(),
            network: descriptors.network,
            host_network: descriptors.host_network,
        })
    }

    /// Moves this process into the node, its network included, and into the cgroup for commands.
    ///
    /// A process without the right to leave its cgroup stays there: the command is of use all the same.
    pub(crate) fn enter_for_command(mut self, _proof: SingleThreaded) -> Result<(), NodeError> {
        self.join_namespaces()?;
        setns(&self.descriptors.network, CloneFlags::CLONE_NEWNET)
            .map_err(NodeError::namespace("join the node's network namespace"))?;
        take_place(&mut self.facts, cgroup::EXEC);
        Ok(())
    }

    fn join_namespaces(&self) -> Result<(), NodeError> {
        let directory = std::env::current_dir().ok();
        let failed = |operation| NodeError::namespace(operation);
        let own = Namespace::User.open(None).map_err(failed("look at the user namespace"))?;
        let adopted =
            ns::same(&own, &self.descriptors.user).map_err(failed("look at the user namespace"))?;
        // The kernel refuses to join the namespace one is in.
        if !adopted {
            setns(&self.descriptors.user, CloneFlags::CLONE_NEWUSER)
                .map_err(failed("join the node's user namespace"))?;
            become_root(matches!(self.facts.ids, Ids::Mapped { .. }))?;
        }
        setns(&self.descriptors.cgroup, CloneFlags::CLONE_NEWCGROUP)
            .map_err(failed("join the node's cgroup namespace"))?;
        setns(&self.descriptors.mount, CloneFlags::CLONE_NEWNS)
            .map_err(failed("join the node's mount namespace"))?;
        // Joining a mount namespace leads to its `/`, where one stays when the directory is not there.
        if let Some(directory) = directory {
            chdir(&directory).ok();
        }
        Ok(())
    }
}

/// Moves the caller to the cgroup `name` and tries again to enable controllers, which the caller itself may have been
/// in the way of. Returns the root, and why the move failed.
fn take_place(facts: &mut NodeFacts, name: &str) -> (Option<Cgroup>, Option<String>) {
    let CgroupFacts::Delegated { path, .. } = &facts.cgroup else { return (None, None) };
    let root = match Cgroup::open(Path::new(cgroup::MOUNT_POINT)) {
        Ok(root) => root,
        Err(errno) => {
            let reason = format!("{} of the node is unusable: {errno}", cgroup::MOUNT_POINT);
            facts.cgroup = CgroupFacts::Missing { reason };
            return (None, None);
        }
    };
    let problem = cgroup::move_to(&root, name).err().map(|error| {
        let path = path.display();
        format!("this process may not move to {path}/{name}; start it in the same cgroup as the holder: {error}")
    });
    facts.cgroup = cgroup::enable(&root, path);
    (Some(root), problem)
}
