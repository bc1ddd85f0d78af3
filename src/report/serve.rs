//! What `qbulk serve` tells.

use std::net::SocketAddr;

use qbulk::event::{ServeEvent, ServedRoot};
use qbulk::identity::Fingerprint;

use super::Output;
use super::json::{Json, now};
use super::units::{count, rate, size};
use crate::out::{self, Weight};

/// Tells a server's events.
pub(crate) struct ServeReport {
    output: Output,
    json: Json,
    own: Fingerprint,
}

impl ServeReport {
    pub(crate) fn new(output: Output, own: Fingerprint) -> Self {
        Self { output, json: Json::start(), own }
    }

    pub(crate) fn tell(&self, event: &ServeEvent) {
        if self.output.json {
            self.json.serve(event);
        } else if !self.output.quiet
            || matches!(
                event,
                ServeEvent::Aborted { .. }
                    | ServeEvent::Refused { .. }
                    | ServeEvent::RefusedMore { .. }
            )
        {
            out::say(&format!("{} qbulk: {}", now(), self.line(event)), Weight::Kept);
        }
    }

    /// Says where Prometheus is answered.
    pub(crate) fn tell_of_metrics(&self, address: SocketAddr) {
        if !self.output.quiet {
            out::say(
                &format!("{} qbulk: metrics at http://{address}/metrics", now()),
                Weight::Kept,
            );
        }
    }

    fn line(&self, event: &ServeEvent) -> String {
        match event {
            ServeEvent::Listening { address, roots } => {
                let roots: Vec<_> = roots.iter().map(root).collect();
                format!("listening on {address} (UDP), {}, key {}", roots.join(", "), self.own)
            }
            ServeEvent::Started { transfer, client, remote, destination } => {
                format!("{transfer}: from {remote} ({client}) to /{destination}")
            }
            ServeEvent::Finished { transfer, files, bytes, failed, seconds, .. } => format!(
                "{transfer}: done, {}, {} in {seconds:.2} s, {}, {failed} failed",
                count(*files, "file"),
                size(*bytes),
                rate(*bytes as f64 / seconds)
            ),
            ServeEvent::Sending { transfer, client, remote, sources } => {
                format!("{transfer}: to {remote} ({client}) from /{}", sources.join(", /"))
            }
            ServeEvent::Sent { transfer, files, bytes, failed, seconds, .. } => format!(
                "{transfer}: sent, {}, {} in {seconds:.2} s, {}, {failed} failed",
                count(*files, "file"),
                size(*bytes),
                rate(*bytes as f64 / seconds)
            ),
            ServeEvent::Aborted { transfer, reason, .. } => {
                format!("{transfer}: ended before it was done: {reason}")
            }
            ServeEvent::Draining { transfers: 0 } => "stopping".into(),
            ServeEvent::Draining { transfers } => format!(
                "stopping; {} may still end, a second signal ends them at once",
                count(*transfers as u64, "transfer")
            ),
            ServeEvent::Verified { client, remote, destination, compared, seconds } => format!(
                "{remote} ({client}) has compared {} below /{destination} in {seconds:.2} s",
                count(*compared, "item")
            ),
            ServeEvent::Listed { client, remote, path, entries, seconds } => format!(
                "{remote} ({client}) has listed {} below /{path} in {seconds:.2} s",
                count(*entries, "item")
            ),
            ServeEvent::Refused { remote, reason } => format!("{remote} was turned away: {reason}"),
            ServeEvent::RefusedMore { count, seconds } => {
                format!("{count} more were turned away within {seconds:.0} s")
            }
            other => format!("{other:?}"),
        }
    }
}

/// What may be done where.
fn root(root: &ServedRoot) -> String {
    let ServedRoot { name, path, access } = root;
    let name = name.as_ref().map_or(String::new(), |name| format!("{name} = "));
    format!("root {name}{path} (access: {access})")
}
