//! The thread of one upload that has its link for itself.

use tradewind_fabric::clock::now_ns;
use tradewind_netio::udp::precise_timers;

use crate::error::UploadError;
use crate::lane::{Lane, Step};
use crate::link::{SLEEP_MAX_NS, ServerLink, local};
use crate::progress::{Progress, UploadReport};

/// Drives `lane` to its end.
pub(crate) fn run(mut link: ServerLink, mut lane: Lane, mut progress: impl FnMut(&Progress)) -> Result<UploadReport, UploadError> {
    // A refusal only makes pacing coarser.
    let _ = precise_timers();
    loop {
        link.receive(&mut |meta, datagram| lane.receive(meta, datagram)).map_err(local)?;
        let step = lane.step(now_ns(), &mut link, &mut progress).map_err(local)?;
        link.flush().map_err(local)?;
        match step {
            Step::Goes { full } => link.sleep(full, lane.poll_timeout(now_ns()), SLEEP_MAX_NS).map_err(local)?,
            Step::Over(result) => return *result,
        }
    }
}
