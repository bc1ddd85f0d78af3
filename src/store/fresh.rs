//! What is made now, and is like nothing at a source.

use std::time::{SystemTime, UNIX_EPOCH};

use super::meta::default_mode;
use crate::wire::Meta;

/// What a file has that is made now, as far as this process's mask lets it.
pub fn meta_of_new() -> Meta {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    Meta {
        mode: 0o666 & default_mode(),
        mtime_s: i64::try_from(now.as_secs()).unwrap_or_default(),
        mtime_ns: now.subsec_nanos(),
    }
}
