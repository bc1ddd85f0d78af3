//! Where a path is.

use std::path::Path;

/// The folder that a path is in: for a name alone, the current one.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
