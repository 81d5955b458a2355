//! A lane's blocks on the disk until the store has them, so that they need not be sent again whoever dies (`engine.staging_mode = "always"`).

use std::collections::HashSet;

use tradewind_fabric::SharedBlock;
use tradewind_proto::block::{BlockTable, FileRecord};
use tradewind_staging::{Keep, KeptLane, Staging};

/// Where blocks outlive the engine, and what finds those of a lane again.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) keep: Keep,
    pub(crate) scope: u128,
}

/// What a lane keeps.
#[derive(Debug)]
pub(crate) struct Keeping {
    staging: Staging,
    kept: Kept,
    lane: KeptLane,
    /// Blocks that give files up: without them what came of these before would count.
    withdrawing: HashSet<u32>,
}

impl Keeping {
    pub(crate) fn new(staging: &Staging, kept: Kept) -> Self {
        let lane = kept.keep.lane(kept.scope);
        Self { staging: staging.clone(), kept, lane, withdrawing: HashSet::new() }
    }

    pub(crate) fn arrived(&mut self, block: u32, image: &SharedBlock, table: &BlockTable) {
        let is_withdrawing = table.files.iter().any(FileRecord::is_withdrawn);
        if is_withdrawing {
            self.withdrawing.insert(block);
        }
        // Each disk may be the only one that comes back.
        self.staging.keep(&self.lane, block, image, is_withdrawing);
    }

    pub(crate) fn became_durable(&self, block: u32) {
        if !self.withdrawing.contains(&block) {
            self.lane.done(block);
        }
    }

    /// The store has everything: what this lane and those before it kept is of no use any more.
    pub(crate) async fn finish(self) {
        let Self { kept: Kept { keep, scope }, lane, .. } = self;
        lane.close();
        // Removing large files takes its time.
        let _ = tokio::task::spawn_blocking(move || keep.forget(scope)).await;
    }
}
