//! Locks that tell a file that is worked on from one that was left behind.
//!
//! They are a courtesy among processes: some file systems have none (Lustre without `flock`, NFS without
//! its lock service, many that live in user space), and nothing else depends on them.

use std::fs::File;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// What became of an attempt to lock a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// Nobody else has it.
    Taken,
    /// Somebody else has it.
    Busy,
    /// There are no locks here: whether somebody works on it cannot be told.
    Unknown,
}

/// Locks `file` for as long as it is open, without waiting.
pub(super) fn lock_file(file: &File) -> Lock {
    loop {
        // If a signal comes in between, it is tried again.
        if let Some(lock) = outcome(flock(file, FlockOperation::NonBlockingLockExclusive)) {
            return lock;
        }
    }
}

/// `None` if it is to be tried again.
fn outcome(locked: Result<(), Errno>) -> Option<Lock> {
    match locked {
        Ok(()) => Some(Lock::Taken),
        Err(Errno::WOULDBLOCK) => Some(Lock::Busy),
        Err(Errno::INTR) => None,
        Err(error) => {
            tracing::debug!(%error, "no lock");
            Some(Lock::Unknown)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_somebody_elses_lock_counts_as_one() {
        let lacking =
            [Errno::NOSYS, Errno::NOLCK, Errno::OPNOTSUPP, Errno::INVAL, Errno::PERM, Errno::IO];
        for errno in lacking {
            assert_eq!(outcome(Err(errno)), Some(Lock::Unknown), "{errno:?}");
        }
        assert_eq!(outcome(Err(Errno::WOULDBLOCK)), Some(Lock::Busy));
        assert_eq!(outcome(Err(Errno::INTR)), None);
    }

    #[test]
    fn one_has_it_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::create(dir.path().join("file")).unwrap();
        let (first, second) = (open(), open());
        assert_eq!((lock_file(&first), lock_file(&second)), (Lock::Taken, Lock::Busy));
        drop(first);
        assert_eq!(lock_file(&second), Lock::Taken);
    }
}
