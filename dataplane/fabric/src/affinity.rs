//! Pinning threads to cores.

/// Pins the calling thread to the core with this index among those the process may use.
/// Returns `false` when there is no such core or the kernel refuses; the thread then runs unpinned.
#[must_use]
pub fn pin_current_thread(index: usize) -> bool {
    core_affinity::get_core_ids().and_then(|cores| cores.get(index).copied()).is_some_and(core_affinity::set_for_current)
}

/// How many cores this process may use.
#[must_use]
pub fn core_count() -> usize {
    core_affinity::get_core_ids().map_or(1, |cores| cores.len().max(1))
}
