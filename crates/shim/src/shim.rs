//! The shim's state, and what happens to it without a request: exits, output, connections.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    process::ExitStatus,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::epoll::{Epoll, EpollEvent, EpollFlags},
    unistd::Pid,
};
use shim_api::v1::{Done, ExecExited, Reply, reply, to_daemon};
use sys::process::SingleThreaded;

use crate::{
    cgroups,
    connection::{Connection, Received},
    container::Container,
    error::ShimError,
    exec::{Exec, Phase},
    log::{Stream, TEXT_MAX_BYTES},
    output::Progress,
    pod::Pod,
    state::{Event, State},
    token::Token,
};

/// How long a process that is not the container's, but holds its output open, may delay its exit.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// How long containers may take to die when the pod is stopped.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// 128 + SIGKILL
const KILLED: i32 = 137;

/// Everything that a shim knows.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) proof: SingleThreaded,
    pub(crate) epoll: Epoll,
    pub(crate) connection: Option<Connection>,
    pub(crate) pod: Option<Pod>,
    /// By id.
    pub(crate) containers: BTreeMap<String, Container>,
    /// By id.
    pub(crate) execs: BTreeMap<String, Exec>,
    stopping: Option<Stopping>,
    next_number: u32,
    /// Where output is read to; one for all containers, made when the first of them says something.
    buffer: Vec<u8>,
}

/// All containers have been killed and are awaited.
#[derive(Debug)]
struct Stopping {
    /// The request to reply to, if one has asked for it.
    request: Option<u64>,
    deadline: Instant,
}

impl Shim {
    pub(crate) fn new(proof: SingleThreaded, epoll: Epoll) -> Self {
        Self {
            proof,
            epoll,
            connection: None,
            pod: None,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            stopping: None,
            next_number: 0,
            buffer: Vec::new(),
        }
    }

    /// A number for tokens that is not in use.
    pub(crate) fn next_number(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }

    pub(crate) fn watch(
        &self,
        fd: impl AsFd,
        token: Token,
        flags: EpollFlags,
    ) -> Result<(), ShimError> {
        self.epoll.add(fd, EpollEvent::new(flags, token.encode())).map_err(ShimError::Events)
    }

    /// Before a descriptor is closed: processes that are being started may hold copies, which would keep it watched.
    fn unwatch(&self, fd: impl AsFd) {
        // What is not watched need not be removed.
        self.epoll.delete(fd).ok();
    }

    // --- connection ---

    /// A daemon connects. One that is connected already is replaced by it, once it has been accepted and greeted.
    pub(crate) fn accept(&mut self, listener: &OwnedFd) {
        let accepted = Connection::accept(listener).and_then(|connection| {
            self.watch(&connection, Token::Connection, EpollFlags::EPOLLIN)?;
            Ok(connection)
        });
        match accepted {
            Ok(connection) => {
                self.disconnect();
                self.connection = Some(connection);
            }
            Err(error) => error.report(),
        }
    }

    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.unwatch(&connection);
        }
    }

    /// The connection has something for us, or room for what we have.
    pub(crate) fn converse(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        match connection.flush().and_then(|()| connection.receive()) {
            Ok(Received::Nothing) => self.rearm(),
            Ok(Received::Request(request, fds)) => self.serve(*request, fds),
            Ok(Received::Closed) => self.disconnect(),
            Err(error) => {
                error.report();
                self.disconnect();
            }
        }
    }

    /// Tells the daemon, if one is connected; the next one asks for the state.
    pub(crate) fn tell(&mut self, message: to_daemon::Message, fds: Vec<OwnedFd>) {
        let Some(connection) = &mut self.connection else { return };
        match connection.send(message, fds) {
            Ok(()) => self.rearm(),
            Err(error) => {
                error.report();
                self.disconnect();
            }
        }
    }

    pub(crate) fn reply(&mut self, id: u64, result: reply::Result, fds: Vec<OwnedFd>) {
        self.tell(to_daemon::Message::Reply(Reply { id, result: Some(result) }), fds);
    }

    /// Waits for room in the socket exactly while there is something to send.
    fn rearm(&self) {
        let Some(connection) = &self.connection else { return };
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, connection.is_backed_up());
        let mut event = EpollEvent::new(flags, Token::Connection.encode());
        if let Err(errno) = self.epoll.modify(connection, &mut event) {
            ShimError::Events(errno).report();
        }
    }

    // --- output ---

    /// Moves some output of a container to its log.
    pub(crate) fn forward(&mut self, number: u32, stream: Stream) {
        let Some(container) = self.containers.values_mut().find(|c| c.number == number) else {
            return;
        };
        if container.output.forward(stream, prepared(&mut self.buffer)) == Progress::Ended
            && let Some(pipe) = container.output.take_pipe(stream)
        {
            self.unwatch(pipe);
        }
    }

    // --- exits ---

    /// Reaps every child that has ended: inits, exec'd programs, pause, and strays that nobody waits for.
    pub(crate) fn reap(&mut self) {
        loop {
            match sys::wait::reap_any() {
                Ok(Some((pid, status))) => self.reaped(pid, exit_code(status)),
                Ok(None) => return,
                Err(errno) => return ShimError::Reap(errno).report(),
            }
        }
    }

    fn reaped(&mut self, pid: Pid, exit_code: i32) {
        let is_running =
            |exec: &Exec| exec.pid == Some(pid) && matches!(exec.phase, Phase::Running);
        if let Some(exec) = self.execs.values_mut().find(|exec| is_running(exec)) {
            exec.phase = Phase::Ended { exit_code };
        } else if let Some(container) = self.containers.values_mut().find(|c| c.has_init(pid)) {
            let deadline = Instant::now() + DRAIN_WITHIN;
            let applied = container.apply(Event::Reaped { at: unix_nanos(), exit_code, deadline });
            // Its other processes, where the kernel has not killed them with the init.
            for error in [applied, container.kill()].into_iter().filter_map(Result::err) {
                error.report();
            }
        } else if let Some(pod) = &mut self.pod {
            pod.reaped(pid);
        }
    }

    /// The cgroup of an exec that has outlived its program may be empty.
    pub(crate) fn exec_cgroup_changed(&mut self, number: u32) {
        let Some((id, exec)) = self.execs.iter_mut().find(|(_, exec)| exec.number == number) else {
            return;
        };
        if let Phase::Outlived { events } = &mut exec.phase
            && !cgroups::acknowledge(events)
        {
            let id = id.clone();
            self.forget_exec(&id);
        }
    }

    fn forget_exec(&mut self, id: &str) {
        let Some(exec) = self.execs.remove(id) else { return };
        if let Some(events) = exec.watched() {
            self.unwatch(events);
        }
        if let Err(error) = exec.remove_cgroup() {
            error.report();
        }
    }

    // --- after each round of events ---

    /// Tells what has come to its end. Returns false when the shim has nothing left to do.
    pub(crate) fn settle(&mut self) -> bool {
        let now = Instant::now();
        self.settle_execs();
        let ended: Vec<String> = self
            .containers
            .values()
            .filter(|c| self.is_over(c, now))
            .map(|c| c.id.clone())
            .collect();
        for id in ended {
            self.finish_container(&id);
        }
        !self.is_stopped(now)
    }

    fn settle_execs(&mut self) {
        let ended = |(id, exec): (&String, &Exec)| match exec.phase {
            Phase::Ended { exit_code } => Some((id.clone(), exit_code)),
            Phase::Running | Phase::Outlived { .. } => None,
        };
        let ended: Vec<_> = self.execs.iter().filter_map(ended).collect();
        for (exec_id, exit_code) in ended {
            let exited = ExecExited { exec_id: exec_id.clone(), exit_code };
            self.tell(to_daemon::Message::ExecExited(exited), Vec::new());
            if !self.outlives(&exec_id) {
                self.forget_exec(&exec_id);
            }
        }
    }

    /// Whether something of an exec lives on after its program; it is watched then.
    fn outlives(&mut self, exec_id: &str) -> bool {
        let Some(exec) = self.execs.get_mut(exec_id) else { return false };
        let token = Token::ExecCgroup(exec.number);
        let watched = exec.outlive().and_then(|events| match events {
            None => Ok(false),
            Some(events) => {
                let event = EpollEvent::new(EpollFlags::EPOLLPRI, token.encode());
                self.epoll.add(events, event).map_err(ShimError::Events)?;
                Ok(true)
            }
        });
        watched.unwrap_or_else(|error| {
            error.report();
            false
        })
    }

    /// Whether a container's exit can be told: its output has ended and so have its execs, or time is up.
    fn is_over(&self, container: &Container, now: Instant) -> bool {
        let State::Ending { deadline, .. } = container.state else { return false };
        let is_silent = container.output.pipes().next().is_none();
        let running =
            |exec: &Exec| exec.container_id == container.id && matches!(exec.phase, Phase::Running);
        now >= deadline || (is_silent && !self.execs.values().any(running))
    }

    fn finish_container(&mut self, id: &str) {
        self.finish_execs_of(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        for (_, pipe) in container.output.pipes() {
            self.epoll.delete(pipe).ok();
        }
        // Its time may be up because something else kept us from reading.
        container.output.drain(prepared(&mut self.buffer));
        container.finish();
        if let Some(exited) = container.exited() {
            self.tell(to_daemon::Message::ContainerExited(exited), Vec::new());
        }
    }

    /// Ends the execs of a container that is over. They were killed with it.
    fn finish_execs_of(&mut self, container_id: &str) {
        for exec in self.execs.values_mut().filter(|exec| exec.container_id == container_id) {
            if matches!(exec.phase, Phase::Running) {
                exec.phase = Phase::Ended { exit_code: KILLED };
            }
        }
        self.settle_execs();
        let left =
            |(id, exec): (&String, &Exec)| (exec.container_id == container_id).then(|| id.clone());
        for id in self.execs.iter().filter_map(left).collect::<Vec<_>>() {
            self.forget_exec(&id);
        }
    }

    /// How long to wait for events at most; `None`: until there is one.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let draining = self.containers.values().filter_map(|container| match container.state {
            State::Ending { deadline, .. } => Some(deadline),
            State::Created
            | State::CannotRun { .. }
            | State::Running { .. }
            | State::Exited { .. } => None,
        });
        draining.chain(self.stopping.as_ref().map(|stopping| stopping.deadline)).min()
    }

    // --- the end ---

    /// Kills all containers. The shim ends when they have.
    pub(crate) fn stop(&mut self, request: Option<u64>) {
        for container in
            self.containers.values().filter(|c| !matches!(c.state, State::Exited { .. }))
        {
            if let Err(error) = container.kill() {
                error.report();
            }
        }
        let deadline = Instant::now() + STOP_WITHIN;
        match &mut self.stopping {
            Some(stopping) => stopping.request = request.or(stopping.request),
            None => self.stopping = Some(Stopping { request, deadline }),
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    fn is_stopped(&self, now: Instant) -> bool {
        let is_over = |container: &Container| matches!(container.state, State::Exited { .. });
        self.stopping.as_ref().is_some_and(|stopping| {
            now >= stopping.deadline || self.containers.values().all(is_over)
        })
    }

    /// Takes the pod down and replies to the request that has asked for it.
    pub(crate) fn end(mut self) {
        if let Some(pod) = self.pod.take() {
            pod.take_down();
        }
        if let Some(id) = self.stopping.as_ref().and_then(|stopping| stopping.request) {
            self.reply(id, reply::Result::Done(Done {}), Vec::new());
        }
    }
}

/// The buffer for output, which is made on first use.
fn prepared(buffer: &mut Vec<u8>) -> &mut [u8] {
    if buffer.is_empty() {
        *buffer = vec![0; TEXT_MAX_BYTES];
    }
    buffer
}

/// 128 + signal number for one that a signal has ended, as shells and kubelets count.
fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(KILLED)
}

/// The present time in Unix nanoseconds.
pub(crate) fn unix_nanos() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
