//! Work that several ask for is done once, and ends when nobody waits for it any more.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Running work by key.
#[derive(Debug)]
pub(crate) struct Joint<K, T> {
    running: Mutex<HashMap<K, Weak<Work<T>>>>,
}

impl<K, T> Default for Joint<K, T> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

/// A task and its result; held by everybody who waits for it.
#[derive(Debug)]
struct Work<T> {
    task: AbortHandle,
    result: watch::Receiver<Option<T>>,
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What came of it, and for whom.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    /// This call began the work.
    Own(T),
    /// It joined work that was running.
    Joined(T),
    /// The work ended without a result: it panicked, or the process is ending.
    Interrupted,
}

impl<K: Clone + Eq + Hash, T: Clone + Send + Sync + 'static> Joint<K, T> {
    /// Waits for the running work with this key, or begins it.
    ///
    /// Dropping the future leaves the work; the last one to leave ends it.
    pub(crate) async fn run<F>(&self, key: K, begin: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (work, own) = self.join_or_begin(key, begin);
        let mut result = work.result.clone();
        let finished = result.wait_for(Option::is_some).await;
        let value = finished.ok().and_then(|value| value.clone());
        match value {
            Some(value) if own => Outcome::Own(value),
            Some(value) => Outcome::Joined(value),
            None => Outcome::Interrupted,
        }
    }

    fn join_or_begin<F>(&self, key: K, begin: impl FnOnce() -> F) -> (Arc<Work<T>>, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let known = running.get(&key).and_then(Weak::upgrade);
        // What has ended is not joined, though somebody may not have looked at it yet.
        if let Some(work) = known.filter(|work| work.result.borrow().is_none()) {
            return (work, false);
        }
        running.retain(|_, work| work.strong_count() > 0);
        let (sender, result) = watch::channel(None);
        let work = begin();
        let task = tokio::spawn(async move { sender.send_replace(Some(work.await)) });
        let work = Arc::new(Work { task: task.abort_handle(), result });
        running.insert(key, Arc::downgrade(&work));
        (work, true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn work_is_done_once_for_all_who_ask_meanwhile() {
        let joint = Arc::new(Joint::<u8, usize>::default());
        let begun = Arc::new(AtomicUsize::new(0));
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (joint, begun) = (Arc::clone(&joint), Arc::clone(&begun));
            calls.spawn(async move {
                let count = move || async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    begun.fetch_add(1, Ordering::SeqCst) + 1
                };
                joint.run(7, count).await
            });
        }
        let outcomes = calls.join_all().await;
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Own(1)).count(), 1);
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Joined(1)).count(), 9);
        // What comes later is not joined to what has ended.
        assert_eq!(joint.run(7, || async { 2 }).await, Outcome::Own(2));
    }

    #[tokio::test]
    async fn work_ends_when_the_last_one_leaves() {
        let joint = Joint::<u8, ()>::default();
        let (alive, ended) = oneshot::channel::<()>();
        let work = || async move {
            tokio::time::sleep(LONG).await;
            drop(alive);
        };
        let first = joint.run(1, work);
        let second = async {
            tokio::task::yield_now().await;
            joint.run(1, || async {}).await
        };
        let both =
            async { tokio::join!(tokio::time::timeout(Duration::from_millis(10), first), second) };
        tokio::time::timeout(Duration::from_millis(50), both).await.expect_err("goes on");
        // Both have left: the task is dropped, and with it the sender.
        tokio::time::timeout(LONG, ended).await.expect("ends").expect_err("dropped");
    }

    #[tokio::test]
    async fn a_panic_interrupts_all_who_wait() {
        let joint = Joint::<u8, ()>::default();
        assert_eq!(joint.run(1, || async { panic!("a bug") }).await, Outcome::Interrupted);
    }
}
