//! Name keys: of several requests for the same object one does the work, the others get its result.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::EngineError;

/// Result of the request that did the work; `None` while it works.
type Outcome<Id> = Option<Result<Id, Arc<EngineError>>>;

/// Who holds each key.
#[derive(Debug)]
pub(crate) struct Keys<Key, Id> {
    holders: Mutex<HashMap<Key, watch::Receiver<Outcome<Id>>>>,
}

/// What a request finds out about its key.
#[derive(Debug)]
pub(crate) enum Claim<Id> {
    /// Nobody holds it: do the work and settle.
    Ours(watch::Sender<Outcome<Id>>),
    /// Somebody does, or did, the work.
    Theirs(watch::Receiver<Outcome<Id>>),
}

impl<Key: Clone + Eq + Hash, Id: Clone> Keys<Key, Id> {
    pub(crate) fn new() -> Self {
        Self { holders: Mutex::new(HashMap::new()) }
    }

    /// Takes `key` unless it is held.
    pub(crate) fn claim(&self, key: &Key) -> Claim<Id> {
        let mut holders = self.lock();
        if let Some(holder) = holders.get(key)
            && (holder.borrow().is_some() || holder.has_changed().is_ok())
        {
            return Claim::Theirs(holder.clone());
        }
        // Free, or its holder panicked before it could settle.
        let (sender, receiver) = watch::channel(None);
        holders.insert(key.clone(), receiver);
        Claim::Ours(sender)
    }

    /// Notes that an object which was loaded from its record holds `key`.
    pub(crate) fn restore(&self, key: Key, id: Id) {
        let (_, receiver) = watch::channel(Some(Ok(id)));
        self.lock().insert(key, receiver);
    }

    /// Ends a claim: success keeps the key, failure frees it.
    pub(crate) fn settle(
        &self,
        key: &Key,
        ours: &watch::Sender<Outcome<Id>>,
        result: Result<Id, EngineError>,
    ) -> Result<Id, EngineError> {
        let result = result.map_err(Arc::new);
        if result.is_err() {
            self.release(key);
        }
        ours.send_replace(Some(result.clone()));
        result.map_err(EngineError::Shared)
    }

    /// Frees `key` when its object is removed.
    pub(crate) fn release(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Outcome<Id>>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the result of somebody else's work; `None` when that request ended without one.
pub(crate) async fn join<Id: Clone>(
    mut theirs: watch::Receiver<Outcome<Id>>,
) -> Option<Result<Id, Arc<EngineError>>> {
    let settled = theirs.wait_for(Option::is_some).await.ok()?;
    settled.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> EngineError {
        EngineError::Precondition { what: "no".to_owned() }
    }

    #[tokio::test]
    async fn the_second_request_gets_the_first_ones_result() {
        let keys = Keys::<&str, u32>::new();
        let Claim::Ours(ours) = keys.claim(&"a") else { panic!("free key") };
        let Claim::Theirs(theirs) = keys.claim(&"a") else { panic!("held key") };
        let waiting = tokio::spawn(join(theirs));
        keys.settle(&"a", &ours, Ok(7)).expect("settled");
        let joined = waiting.await.expect("task").expect("result");
        assert_eq!(joined.expect("success"), 7);
        assert!(matches!(keys.claim(&"a"), Claim::Theirs(_)));
    }

    #[tokio::test]
    async fn a_claim_that_was_dropped_unsettled_is_free_again() {
        let keys = Keys::<&str, u32>::new();
        let Claim::Ours(ours) = keys.claim(&"a") else { panic!("free key") };
        drop(ours);
        assert!(matches!(keys.claim(&"a"), Claim::Ours(_)));
    }

    #[tokio::test]
    async fn failure_frees_the_key_and_reaches_everyone() {
        let keys = Keys::<&str, u32>::new();
        let Claim::Ours(ours) = keys.claim(&"a") else { panic!("free key") };
        let Claim::Theirs(theirs) = keys.claim(&"a") else { panic!("held key") };
        keys.settle(&"a", &ours, Err(failure())).expect_err("failed");
        join(theirs).await.expect("result").expect_err("failed");
        assert!(matches!(keys.claim(&"a"), Claim::Ours(_)));
    }
}
