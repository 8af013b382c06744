//! How a call is answered: under its span, with its error logged once, and without taking others down.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::task::JoinSet;
use tonic::{Response, Status};
use tracing::{Instrument, Span};

use crate::status::{CallError, to_status};

/// What every method of a service gives back.
pub(crate) type Reply<T> = Result<Response<T>, Status>;

/// Longest identifier or reference that a span shows, in bytes.
const SHOWN_BYTES: usize = 256;

/// Answers a call whose work goes on when the caller leaves: what is begun in a pod is finished or undone, and a
/// caller that asks again finds one of both. A panic is this call's alone.
pub(crate) async fn to_its_end<T: Send + 'static>(
    rpc: &'static str,
    span: Span,
    work: impl Future<Output = Result<T, CallError>> + Send + 'static,
) -> Reply<T> {
    let task = tokio::spawn(reply_to(work).instrument(span.clone()));
    task.await.unwrap_or_else(|_| panicked(rpc, &span))
}

/// Answers a call whose work ends when the caller leaves. A panic is this call's alone.
pub(crate) async fn while_wanted<T: Send + 'static>(
    rpc: &'static str,
    span: Span,
    work: impl Future<Output = Result<T, CallError>> + Send + 'static,
) -> Reply<T> {
    // A set of one: dropping it ends its task.
    let mut tasks = JoinSet::new();
    tasks.spawn(reply_to(work).instrument(span.clone()));
    tasks.join_next().await.and_then(Result::ok).unwrap_or_else(|| panicked(rpc, &span))
}

/// Answers a call from memory. A panic is this call's alone.
pub(crate) fn at_once<T>(
    rpc: &'static str,
    span: &Span,
    work: impl FnOnce() -> Result<T, CallError>,
) -> Reply<T> {
    let result = span.in_scope(|| catch_unwind(AssertUnwindSafe(|| replied(work()))));
    result.unwrap_or_else(|_| panicked(rpc, span))
}

/// The error is logged where the work is done, also when nobody waits for the answer.
async fn reply_to<T>(work: impl Future<Output = Result<T, CallError>>) -> Reply<T> {
    replied(work.await)
}

fn replied<T>(result: Result<T, CallError>) -> Reply<T> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

fn panicked<T>(rpc: &'static str, span: &Span) -> Reply<T> {
    span.in_scope(|| replied(Err(CallError::Panicked { rpc })))
}

/// An identifier or reference as spans show it: a log line is no place for control characters or 10 kB.
pub(crate) fn shown(text: &str) -> &str {
    if text.len() > SHOWN_BYTES || text.contains(char::is_control) { "(malformed)" } else { text }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tonic::Code;

    use super::*;

    /// Tells whether the work that holds `done` was finished or dropped.
    async fn outcome(done: oneshot::Receiver<()>) -> bool {
        tokio::time::timeout(Duration::from_secs(10), done).await.expect("either").is_ok()
    }

    async fn slow(done: oneshot::Sender<()>) -> Result<(), CallError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        done.send(()).map_err(|()| CallError::Panicked { rpc: "test" })
    }

    /// C15
    #[tokio::test]
    async fn work_goes_on_without_its_caller() {
        let (done, finished) = oneshot::channel();
        let call = to_its_end("test", Span::none(), slow(done));
        tokio::time::timeout(Duration::from_millis(1), call).await.expect_err("cancelled");
        assert!(outcome(finished).await);
    }

    #[tokio::test]
    async fn work_that_only_its_caller_wants_ends_with_it() {
        let (done, finished) = oneshot::channel();
        let call = while_wanted("test", Span::none(), slow(done));
        tokio::time::timeout(Duration::from_millis(1), call).await.expect_err("cancelled");
        assert!(!outcome(finished).await);
    }

    #[tokio::test]
    async fn a_panic_is_internal_to_its_call() {
        async fn broken() -> Result<(), CallError> {
            panic!("a bug")
        }
        for reply in [
            to_its_end("test", Span::none(), broken()).await,
            while_wanted("test", Span::none(), broken()).await,
            at_once::<()>("test", &Span::none(), || panic!("a bug")),
        ] {
            let status = reply.expect_err("panicked");
            assert_eq!((status.code(), status.message()), (Code::Internal, "test panicked"));
        }
    }

    #[test]
    fn spans_show_only_short_plain_text() {
        assert_eq!(shown("abcd"), "abcd");
        assert_eq!(shown("a\nb"), "(malformed)");
        assert_eq!(shown(&"a".repeat(10_000)), "(malformed)");
    }
}
