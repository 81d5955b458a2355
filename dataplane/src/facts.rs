//! What is known of the engine before its first lane.

use std::time::Duration;

use tradewind_ipc::{DataEndpoint, Ready};
use tradewind_storage::StoreError;

use crate::options::Options;
use crate::resume::State;
use crate::topology::Opened;

/// What the control side must know of how the engine was started.
pub struct Facts {
    pub(crate) ready: Ready,
    pub(crate) chunk_bytes: usize,
    pub(crate) block_bytes: usize,
    pub(crate) idle_timeout_ns: u64,
    pub(crate) state: Option<State>,
}

impl Facts {
    /// The facts of what was opened with these options.
    ///
    /// # Errors
    /// [`StoreError::Journal`] when the state directory cannot be used.
    pub fn of(opened: &Opened, options: &Options) -> Result<Self, StoreError> {
        let keep = Duration::from_secs(options.resume_keep_s);
        let state = options.state_dir.as_ref().map(|directory| State::open(directory, keep, options.pool_bytes)).transpose()?;
        let ready = Ready {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            endpoints: vec![DataEndpoint { address: opened.listen }],
            xdp: opened.xdp.clone(),
            workers: options.workers,
            pool_bytes: (opened.pool.capacity() * opened.pool.slot_bytes()) as u64,
        };
        let idle_timeout_ns = options.idle_timeout_s.saturating_mul(1_000_000_000);
        Ok(Self { ready, chunk_bytes: opened.chunk_bytes, block_bytes: options.block_bytes, idle_timeout_ns, state })
    }
}
