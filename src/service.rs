//! Tells the service manager how a server is, if one has started it and wants to know (sd_notify(3)).

use qbulk::event::ServeEvent;
use sd_notify::NotifyState;

/// Tells it that the server is ready, or is being stopped.
pub(crate) fn tell(event: &ServeEvent) {
    let (state, status) = match event {
        ServeEvent::Listening { address, .. } => {
            (NotifyState::Ready, format!("Listening on {address} (UDP)"))
        }
        ServeEvent::Draining { transfers } => {
            (NotifyState::Stopping, format!("Waiting for the end of {transfers} transfers"))
        }
        _ => return,
    };
    // Without one, nothing is done.
    if let Err(error) = sd_notify::notify(&[state, NotifyState::Status(&status)]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
