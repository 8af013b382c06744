//! What the daemon may ask for.

use std::{os::fd::OwnedFd, time::Duration};

use nix::{errno::Errno, sys::epoll::EpollFlags, unistd::Pid};
use shim_api::v1::{
    ContainerCreated, ContainerStarted, CreateContainer, Done, Exec as ExecRequest, ExecStarted,
    PidNamespace, PodUp, ReopenLog, Request, SetUpPod, SignalContainer, State as StateReply, reply,
    request::Call,
};
use sys::{ns::Namespace, pidfd};

use crate::{
    container::Container,
    create::Creation,
    error::ShimError,
    exec,
    pod::Pod,
    shim::{Shim, unix_nanos},
    state::{Event, State},
    token::Token,
};

/// How long a program may take to be executed once its container is started. The event loop waits meanwhile.
const EXEC_WITHIN: Duration = Duration::from_secs(10);

/// A reply and the descriptors that go with it.
type Answer = Result<(reply::Result, Vec<OwnedFd>), ShimError>;

/// The answer of a call that has nothing to tell.
fn done() -> Answer {
    Ok((reply::Result::Done(Done {}), Vec::new()))
}

impl Shim {
    /// Does what `request` asks for, and replies; to [`Call::StopPod`] when the pod has stopped.
    pub(crate) fn serve(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let answer = match request.call {
            Some(Call::StopPod(_)) => return self.stop(Some(request.id)),
            Some(call) => self.call(call, fds),
            None => Err(ShimError::UnknownCall),
        };
        let (result, fds) =
            answer.unwrap_or_else(|error| (reply::Result::Failure(error.to_failure()), Vec::new()));
        self.reply(request.id, result, fds);
    }

    fn call(&mut self, call: Call, fds: Vec<OwnedFd>) -> Answer {
        match call {
            Call::SetUpPod(request) => self.set_up_pod(&request, fds),
            Call::CreateContainer(request) => self.create_container(&request),
            Call::StartContainer(request) => self.start_container(&request.container_id),
            Call::SignalContainer(request) => self.signal_container(&request),
            Call::KillContainer(request) => self.kill_container(&request.container_id),
            Call::RemoveContainer(request) => self.remove_container(&request.container_id),
            Call::Exec(request) => self.exec(&request, fds),
            Call::KillExec(request) => self.kill_exec(&request.exec_id),
            Call::ReopenLog(request) => self.reopen_log(&request),
            Call::GetState(_) => self.get_state(),
            // Served before, because its reply comes later.
            Call::StopPod(_) => Err(ShimError::PodIsStopping),
        }
    }

    fn set_up_pod(&mut self, request: &SetUpPod, fds: Vec<OwnedFd>) -> Answer {
        if self.pod.is_some() {
            return Err(ShimError::PodIsUp);
        }
        if self.is_stopping() {
            return Err(ShimError::PodIsStopping);
        }
        let pod = Pod::set_up(request, fds.into_iter(), &self.proof)?;
        let pause_pid = pod.pause_pid();
        let network = match Pod::network_namespace() {
            Ok(network) => network,
            Err(error) => {
                pod.take_down();
                return Err(error);
            }
        };
        self.pod = Some(pod);
        Ok((reply::Result::PodUp(PodUp { pause_pid }), vec![network]))
    }

    fn create_container(&mut self, request: &CreateContainer) -> Answer {
        let id = &request.container_id;
        check_id("a container", id)?;
        if self.is_stopping() {
            return Err(ShimError::PodIsStopping);
        }
        if self.containers.contains_key(id) {
            return Err(ShimError::ContainerExists { id: id.clone() });
        }
        let number = self.next_number();
        let pod = self.pod.as_ref().ok_or(ShimError::PodIsNotUp)?;
        let creation = Creation {
            request,
            pod,
            pid_namespace: self.pid_namespace(request, pod)?,
            own_pid_namespace: request.pid_namespace() == PidNamespace::Container,
            others: self.containers.values().map(|container| container.pid).collect(),
            number,
        };
        let container = creation.run()?;
        let pid = container.pid.as_raw();
        self.watch_output(&container);
        self.containers.insert(id.clone(), container);
        Ok((reply::Result::ContainerCreated(ContainerCreated { pid }), Vec::new()))
    }

    /// The namespace that the container joins; `None` when it makes one or stays in the shim's.
    fn pid_namespace(
        &self,
        request: &CreateContainer,
        pod: &Pod,
    ) -> Result<Option<OwnedFd>, ShimError> {
        let owner = match request.pid_namespace() {
            PidNamespace::Container | PidNamespace::Node => return Ok(None),
            PidNamespace::Pod => {
                pod.pause
                    .as_ref()
                    .ok_or(ShimError::MissingField { what: "a pod with a PID namespace" })?
                    .pid
            }
            PidNamespace::Target => {
                let target = self.container(&request.target_container_id)?;
                match target.state {
                    State::Created | State::Running { .. } => target.pid,
                    State::CannotRun { .. } | State::Ending { .. } | State::Exited { .. } => {
                        return Err(target.wrong_state("join"));
                    }
                }
            }
        };
        let opened = Namespace::Pid.open(Some(owner));
        opened
            .map(Some)
            .map_err(|source| ShimError::OpenPidNamespace { pid: owner.as_raw(), source })
    }

    fn watch_output(&self, container: &Container) {
        for (stream, pipe) in container.output.pipes() {
            let token = Token::Output(container.number, stream);
            // It fails without memory only; the container then runs without a log.
            if let Err(error) = self.watch(pipe, token, EpollFlags::EPOLLIN) {
                error.report();
            }
        }
    }

    fn start_container(&mut self, id: &str) -> Answer {
        let pod = self.pod.as_ref().ok_or(ShimError::PodIsNotUp)?;
        let state_root = pod.state_root();
        let container = self.container_mut(id)?;
        if container.state != State::Created {
            return Err(container.wrong_state("start"));
        }
        let Some(exec_status) = container.exec_status.take() else {
            return Err(container.wrong_state("start"));
        };
        let at = unix_nanos();
        let status = runtime::start::release(&state_root, id)
            .and_then(|()| runtime::start::read_exec_status(exec_status, EXEC_WITHIN));
        let message = match status {
            Ok(runtime::start::ExecStatus::Running) => {
                container.apply(Event::Started { at })?;
                let started = ContainerStarted { started_at: at };
                return Ok((reply::Result::ContainerStarted(started), Vec::new()));
            }
            Ok(runtime::start::ExecStatus::Failed { message }) => message,
            Err(error) => ShimError::Runtime(error).to_failure().message,
        };
        container.apply(Event::StartFailed { start_error: message.clone() })?;
        // Its init ends by itself, unless that is what went wrong.
        container.kill()?;
        Err(ShimError::CannotRun { id: id.to_owned(), message })
    }

    fn signal_container(&mut self, request: &SignalContainer) -> Answer {
        let container = self.container(&request.container_id)?;
        match container.state {
            State::Created | State::Running { .. } => {}
            State::CannotRun { .. } | State::Ending { .. } | State::Exited { .. } => {
                return Err(container.wrong_state("signal"));
            }
        }
        let signal = request.signal;
        let sent = match signal {
            1..=64 => pidfd::send_signal_number(&container.pidfd, signal),
            _ => Err(Errno::EINVAL),
        };
        sent.map_err(|source| ShimError::Signal { id: container.id.clone(), signal, source })?;
        done()
    }

    fn kill_container(&mut self, id: &str) -> Answer {
        let container = self.container(id)?;
        match container.state {
            State::Created
            | State::CannotRun { .. }
            | State::Running { .. }
            | State::Ending { .. } => {
                container.kill()?;
            }
            State::Exited { .. } => {}
        }
        done()
    }

    fn remove_container(&mut self, id: &str) -> Answer {
        let Some(container) = self.containers.get(id) else { return done() };
        if !matches!(container.state, State::Exited { .. }) {
            return Err(container.wrong_state("remove"));
        }
        if let Some(cgroup) = &container.cgroup {
            cgroup.remove()?;
        }
        let pod = self.pod.as_ref().ok_or(ShimError::PodIsNotUp)?;
        let mut failures = pod.forget(id, &container.paths.rootfs).into_iter();
        if let Some(first) = failures.next() {
            failures.for_each(|error| error.report());
            return Err(first);
        }
        self.containers.remove(id);
        done()
    }

    fn exec(&mut self, request: &ExecRequest, fds: Vec<OwnedFd>) -> Answer {
        let exec_id = &request.exec_id;
        check_id("an exec", exec_id)?;
        if self.execs.contains_key(exec_id) {
            return Err(ShimError::ExecExists { id: exec_id.clone() });
        }
        let streams = <[OwnedFd; 3]>::try_from(fds)
            .map_err(|_wrong_number| ShimError::MissingDescriptor { what: "standard streams" })?;
        let number = self.next_number();
        let container = self.container(&request.container_id)?;
        if !matches!(container.state, State::Running { .. }) {
            return Err(container.wrong_state("run a program in"));
        }
        let exec = exec::start(&self.proof, container, exec_id, &request.argv, &streams, number)?;
        let pid = exec.pid.map_or(0, Pid::as_raw);
        self.execs.insert(exec_id.clone(), exec);
        Ok((reply::Result::ExecStarted(ExecStarted { pid }), Vec::new()))
    }

    fn kill_exec(&mut self, id: &str) -> Answer {
        if let Some(exec) = self.execs.get(id) {
            exec.kill()?;
        }
        done()
    }

    fn reopen_log(&mut self, request: &ReopenLog) -> Answer {
        let id = &request.container_id;
        let container = self.containers.get_mut(id).ok_or_else(|| unknown(id))?;
        if !matches!(container.state, State::Running { .. }) {
            return Err(container.wrong_state("reopen the log of"));
        }
        let directory = self.pod.as_ref().and_then(|pod| pod.log_directory.as_ref());
        match (directory, container.output.log_mut(), &container.paths.log) {
            (Some(directory), Some(log), Some(path)) => log.reopen(directory, path)?,
            _ => return Err(ShimError::NoLog { id: id.clone() }),
        }
        done()
    }

    fn get_state(&self) -> Answer {
        let state = StateReply {
            containers: self.containers.values().map(Container::describe).collect(),
            pod_is_up: self.pod.is_some(),
            pause_pid: self.pod.as_ref().map_or(0, Pod::pause_pid),
        };
        Ok((reply::Result::State(state), Vec::new()))
    }

    fn container(&self, id: &str) -> Result<&Container, ShimError> {
        self.containers.get(id).ok_or_else(|| unknown(id))
    }

    fn container_mut(&mut self, id: &str) -> Result<&mut Container, ShimError> {
        self.containers.get_mut(id).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &str) -> ShimError {
    ShimError::UnknownContainer { id: id.to_owned() }
}

/// An id becomes part of file names: it may not lead anywhere else.
fn check_id(what: &'static str, id: &str) -> Result<(), ShimError> {
    const ID_MAX_BYTES: usize = 128;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=ID_MAX_BYTES).contains(&id.len()) && id.bytes().all(allowed) {
        Ok(())
    } else {
        Err(ShimError::InvalidId { what, id: id.to_owned() })
    }
}
