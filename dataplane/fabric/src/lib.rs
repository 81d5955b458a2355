//! What the data processes share: a block pool, a clock, counters and core affinity.

pub mod affinity;
pub mod block_pool;
pub mod clock;
pub mod counters;
pub mod wake;

pub use block_pool::{BlockBuf, BlockPool, BlockSlice, PoolError, SharedBlock};
