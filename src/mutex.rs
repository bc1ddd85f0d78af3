//! Taking mutexes.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for `mutex`. A panic of whoever held it ends that task's work and nobody else's.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
