//! The states of a container, and what leads from one to the next.

use std::time::Instant;

use thiserror::Error;

/// Where a container is in its life. Times of day are Unix nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its init waits to be released.
    Created,
    /// The program could not be executed; its init is about to end.
    CannotRun { start_error: String },
    /// The program runs.
    Running { started_at: i64 },
    /// Its init was reaped; other processes are being killed and the rest of the output is awaited, until `deadline`.
    Ending { exit: Exit, deadline: Instant },
    /// Nothing of it runs and its log is complete.
    Exited { exit: Exit, oom_killed: bool },
}

/// How a container's init ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// `None` when it was never started.
    pub(crate) started_at: Option<i64>,
    pub(crate) finished_at: i64,
    /// 0 to 255
    pub(crate) exit_code: i32,
    /// Why it could not be started, else empty.
    pub(crate) start_error: String,
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The program was executed.
    Started { at: i64 },
    /// The program could not be executed.
    StartFailed { start_error: String },
    /// Its init was reaped.
    Reaped { at: i64, exit_code: i32, deadline: Instant },
    /// All its output is in the log, or nobody waits for it any longer.
    Finished { oom_killed: bool },
}

/// The exit code of a program that could not be executed.
const CANNOT_RUN: i32 = 128;

/// An event that does not exist in a state.
#[derive(Debug, Error)]
#[error("a container that is {state} cannot be {event}")]
pub(crate) struct TransitionError {
    state: &'static str,
    event: &'static str,
}

impl State {
    /// The state after `event`.
    pub(crate) fn apply(&self, event: Event) -> Result<Self, TransitionError> {
        use {Event as E, State as S};
        let exited = |started_at, at, exit_code, start_error, deadline| S::Ending {
            exit: Exit { started_at, finished_at: at, exit_code, start_error },
            deadline,
        };
        match (self, event) {
            (S::Created, E::Started { at }) => Ok(S::Running { started_at: at }),
            (S::Created, E::StartFailed { start_error }) => Ok(S::CannotRun { start_error }),
            (S::Created, E::Reaped { at, exit_code, deadline }) => {
                Ok(exited(None, at, exit_code, String::new(), deadline))
            }
            (S::CannotRun { start_error }, E::Reaped { at, exit_code: _, deadline }) => {
                Ok(exited(None, at, CANNOT_RUN, start_error.clone(), deadline))
            }
            (S::Running { started_at }, E::Reaped { at, exit_code, deadline }) => {
                Ok(exited(Some(*started_at), at, exit_code, String::new(), deadline))
            }
            (S::Ending { exit, .. }, E::Finished { oom_killed }) => {
                Ok(S::Exited { exit: exit.clone(), oom_killed })
            }
            (
                state @ (S::Created
                | S::CannotRun { .. }
                | S::Running { .. }
                | S::Ending { .. }
                | S::Exited { .. }),
                event,
            ) => Err(TransitionError { state: state.name(), event: event.name() }),
        }
    }

    /// For messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::CannotRun { .. } => "unable to run",
            Self::Running { .. } => "running",
            Self::Ending { .. } => "ending",
            Self::Exited { .. } => "exited",
        }
    }
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::StartFailed { .. } => "found unable to run",
            Self::Reaped { .. } => "reaped",
            Self::Finished { .. } => "finished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_meets_every_event() {
        let deadline = Instant::now();
        let exit = |started_at, exit_code, start_error: &str| Exit {
            started_at,
            finished_at: 20,
            exit_code,
            start_error: start_error.to_owned(),
        };
        let error = "no such file".to_owned();
        let started = Event::Started { at: 10 };
        let start_failed = Event::StartFailed { start_error: error.clone() };
        let reaped = Event::Reaped { at: 20, exit_code: 3, deadline };
        let finished = Event::Finished { oom_killed: true };
        let ending = |exit| Some(State::Ending { exit, deadline });

        let cannot_run = State::CannotRun { start_error: error.clone() };
        let running = State::Running { started_at: 10 };
        let is_ending = State::Ending { exit: exit(Some(10), 3, ""), deadline };
        let exited = State::Exited { exit: exit(Some(10), 3, ""), oom_killed: true };
        let table = [
            (
                State::Created,
                [Some(running.clone()), Some(cannot_run.clone()), ending(exit(None, 3, "")), None],
            ),
            (cannot_run, [None, None, ending(exit(None, 128, &error)), None]),
            (running, [None, None, ending(exit(Some(10), 3, "")), None]),
            (is_ending, [None, None, None, Some(exited.clone())]),
            (exited, [None, None, None, None]),
        ];
        for (state, expected) in table {
            let events = [started.clone(), start_failed.clone(), reaped.clone(), finished.clone()];
            for (event, expected) in events.into_iter().zip(expected) {
                assert_eq!(state.apply(event.clone()).ok(), expected, "{state:?} and {event:?}");
            }
        }
    }

    #[test]
    fn a_refused_event_is_named() {
        let error =
            State::Running { started_at: 1 }.apply(Event::Started { at: 2 }).expect_err("twice");
        assert_eq!(error.to_string(), "a container that is running cannot be started");
    }
}
