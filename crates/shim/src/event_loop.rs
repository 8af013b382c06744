//! The shim's one loop: waits for events, hands each to what it is about, and lets nothing wait for long.

use std::{os::fd::OwnedFd, time::Instant};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        signal::{SigSet, SigmaskHow, Signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{Backlog, listen},
        stat::{Mode, umask},
    },
};
use sys::process::{self, SingleThreaded};

use crate::{error::ShimError, shim::Shim, token::Token};

/// The descriptor under which the daemon passes the listening socket.
const LISTENER: i32 = 3;

/// How many events one round takes in.
const EVENTS: usize = 16;

/// Serves a pod until it is stopped.
pub(crate) fn run() -> Result<(), ShimError> {
    let proof = SingleThreaded::prove().map_err(ShimError::Threads)?;
    let listener = inherit_listener()?;
    let signals = prepare_process().map_err(ShimError::Prepare)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(ShimError::Events)?;
    let mut shim = Shim::new(proof, epoll);
    shim.watch(&listener, Token::Listener, EpollFlags::EPOLLIN)?;
    shim.watch(&signals, Token::Signals, EpollFlags::EPOLLIN)?;

    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let ready = wait(&shim, &mut events)?;
        for event in &events[..ready] {
            dispatch(&mut shim, event.data(), &listener, &signals);
        }
        if !shim.settle() {
            shim.end();
            return Ok(());
        }
    }
}

fn inherit_listener() -> Result<OwnedFd, ShimError> {
    let listener =
        sys::fd::adopt_inherited(LISTENER).ok_or(ShimError::NoListener { number: LISTENER })?;
    sys::fd::set_nonblocking(&listener, true).map_err(ShimError::Prepare)?;
    // Again, in this process's name: SO_PEERCRED of who connects from now on names the shim.
    listen(&listener, Backlog::MAXCONN).map_err(ShimError::Prepare)?;
    Ok(listener)
}

/// Makes this process what the parent of containers has to be; returns where its signals arrive.
fn prepare_process() -> Result<SignalFd, Errno> {
    process::become_subreaper()?;
    process::set_undumpable()?;
    umask(Mode::from_bits_truncate(0o022));
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGCHLD);
    awaited.add(Signal::SIGTERM);
    awaited.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    SignalFd::with_flags(&awaited, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn wait(shim: &Shim, events: &mut [EpollEvent]) -> Result<usize, ShimError> {
    let timeout = match shim.next_deadline() {
        None => EpollTimeout::NONE,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the deadline has passed when the wait is over.
            let milliseconds = left.as_micros().div_ceil(1000);
            EpollTimeout::try_from(milliseconds).unwrap_or(EpollTimeout::MAX)
        }
    };
    match shim.epoll.wait(events, timeout) {
        Err(Errno::EINTR) => Ok(0),
        result => result.map_err(ShimError::Events),
    }
}

fn dispatch(shim: &mut Shim, data: u64, listener: &OwnedFd, signals: &SignalFd) {
    match Token::decode(data) {
        Some(Token::Listener) => shim.accept(listener),
        Some(Token::Connection) => shim.converse(),
        Some(Token::Signals) => handle_signals(shim, signals),
        Some(Token::Output(number, stream)) => shim.forward(number, stream),
        Some(Token::ExecCgroup(number)) => shim.exec_cgroup_changed(number),
        // We have registered nothing else.
        None => {}
    }
}

fn handle_signals(shim: &mut Shim, signals: &SignalFd) {
    while let Ok(Some(signal)) = signals.read_signal() {
        let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
        if Signal::try_from(number) == Ok(Signal::SIGTERM) {
            shim.stop(None);
        }
    }
    shim.reap();
}
