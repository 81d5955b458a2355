//! Giving up what the engine needed only to start.

use caps::{CapSet, CapsHashSet};

/// Drops every capability of the calling thread, and with it of all threads that it starts later; a later exec cannot bring
/// them back. Sockets, XDP program and pinned memory that exist stay usable. Call it before any thread is started.
///
/// # Errors
/// The text says which step the kernel refused.
pub fn drop_capabilities() -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("cannot set no_new_privs: {error}"))?;
    let refused = |set: &'static str| move |error: caps::errors::CapsError| format!("cannot clear the {set} capabilities: {error}");
    let effective: CapsHashSet = caps::read(None, CapSet::Effective).map_err(refused("effective"))?;
    if effective.contains(&caps::Capability::CAP_SETPCAP) {
        caps::clear(None, CapSet::Bounding).map_err(refused("bounding"))?;
    }
    caps::clear(None, CapSet::Ambient).map_err(refused("ambient"))?;
    caps::clear(None, CapSet::Inheritable).map_err(refused("inheritable"))?;
    caps::clear(None, CapSet::Effective).map_err(refused("effective"))?;
    caps::clear(None, CapSet::Permitted).map_err(refused("permitted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_dropped_them_has_none_left() {
        // Capabilities belong to threads, so this one's fate does not touch the other tests.
        let left = std::thread::spawn(|| {
            drop_capabilities().unwrap();
            [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable].map(|set| caps::read(None, set).unwrap().len())
        });
        assert_eq!(left.join().unwrap(), [0, 0, 0]);
    }
}
