//! Turns at something that is begun once, by the first of many that ask for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use crate::mutex::lock;

/// One turn at a time for each key.
#[derive(Debug)]
pub(super) struct Turns<K> {
    turns: Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { turns: Mutex::default() }
    }
}

impl<K: Copy + Eq + Hash> Turns<K> {
    /// Does `work` when nobody else is at work for `key`; `None` if `gone` resolves before that.
    pub(super) async fn take<T>(
        &self,
        key: K,
        gone: impl Future<Output = ()>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let turn = Arc::clone(lock(&self.turns).entry(key).or_default());
        let done = tokio::select! {
            own = turn.lock() => {
                let _own = own;
                Some(work.await)
            }
            () = gone => None,
        };
        let mut turns = lock(&self.turns);
        // Others may still wait with it: the map's and this one are two.
        if Arc::strong_count(&turn) == 2 {
            turns.remove(&key);
        }
        done
    }
}
