//! What a client asks to be sent, and whether it may have that.

use super::access::{Access, Reached};
use super::refusal::Refusal;
use crate::error::reason;
use crate::identity::Fingerprint;
use crate::send::distinct;
use crate::store::own::{RESERVED, has_reserved};
use crate::store::start::Start;
use crate::store::{join, named, shown};
use crate::wire::{Right, is_path_safe};
use crate::work::Work;

/// Where what is asked for leads, if `client` may read it.
pub(super) fn reach(
    access: &Access,
    client: Fingerprint,
    sources: &[Vec<u8>],
) -> Result<Vec<Reached>, Refusal> {
    if sources.is_empty() {
        return Err(Refusal::Final("it names nothing to send".to_owned()));
    }
    let reach = |source: &Vec<u8>| {
        let trimmed = source.strip_suffix(b"/").unwrap_or(source);
        if !trimmed.is_empty() && !is_path_safe(trimmed) {
            return Err(Refusal::Final(format!("the path {:?} is not allowed", shown(source))));
        }
        if has_reserved(trimmed) {
            let path = shown(source);
            return Err(Refusal::Final(format!("the path {path:?} is not allowed: {RESERVED}")));
        }
        access.root_for(client, source, Right::Read).map_err(Refusal::Denied)
    };
    sources.iter().map(reach).collect()
}

/// Looks at what is asked for. Nobody is told more of what cannot be had than that.
pub(super) async fn starts(work: &Work, sources: Vec<Reached>) -> Result<Vec<Start>, Refusal> {
    let look = move || {
        let mut starts = Vec::with_capacity(sources.len());
        for Reached { root, name, path, .. } in sources {
            let folder = root.current().map_err(|error| error.to_string())?;
            let start = Start::below(&folder, &path, &name);
            let whole = join(&name, &path);
            let cannot = |error| format!("cannot read {}: {}", named(&whole), reason(&error));
            starts.push(start.map_err(cannot)?);
        }
        distinct(&starts).map_err(|error| error.to_string())?;
        Ok(starts)
    };
    let looked = work.run(look).await;
    looked.map_err(|error| error.to_string())?.map_err(Refusal::Final)
}
