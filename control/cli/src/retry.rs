//! What starts again by itself: a transfer that broke for a reason that a new lane can cure.

use std::time::Duration;

use tradewind_api::{ApiCode, ClientError, ErrorCode, ProblemCode, TrustError};
use tradewind_client::UploadError;

use crate::display;
use crate::events;
use crate::failure::Failure;
use crate::interrupt::Interrupts;

/// Wait before the first restart; each further one waits twice as long.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MOST: Duration = Duration::from_secs(30);
/// Sizes of IP packets to fall back to, bytes: Ethernet, IPv6's least MTU (RFC 8200 §5), and what every IPv4 host takes (RFC 791).
const PACKET_BYTES: [usize; 4] = [1_500, 1_280, 1_000, 576];

/// What a restart changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cure {
    /// The same again.
    Again,
    /// IP packets of at most so many bytes.
    SmallerPackets(usize),
}

/// The attempts of a command at one transfer.
pub(crate) struct Attempts {
    /// Of the one that runs, from 1.
    pub(crate) number: u32,
    /// What the failures so far have made the most for an IP packet.
    pub(crate) packet_bytes_max: Option<usize>,
    retries: u32,
    is_json: bool,
    is_quiet: bool,
}

impl Attempts {
    /// Before the first one. `retries`: how many may follow it.
    pub(crate) const fn new(retries: u32, is_json: bool, is_quiet: bool) -> Self {
        Self { number: 1, packet_bytes_max: None, retries, is_json, is_quiet }
    }

    /// What makes it worth trying again after this failure, if anything does and there is an attempt left.
    pub(crate) fn cure(&self, failure: &Failure) -> Option<Cure> {
        cure(failure, self.number > 1).filter(|_| self.number <= self.retries)
    }

    /// Says that the next attempt comes, and waits for its time.
    ///
    /// # Errors
    /// [`Failure::Interrupted`].
    pub(crate) async fn go_on(&mut self, failure: &Failure, cure: Cure, interrupts: &mut Interrupts) -> Result<(), Failure> {
        if let Cure::SmallerPackets(bytes) = cure {
            self.packet_bytes_max = Some(bytes);
        }
        let wait = wait(cure, self.number);
        if self.is_json {
            events::emit(&events::retry(failure, self.number, wait, self.packet_bytes_max));
        } else if !self.is_quiet {
            let smaller = self.packet_bytes_max.map_or(String::new(), |bytes| format!(" with packets of at most {bytes} bytes"));
            display::note(&format!("{failure}; going on{smaller} ({} of {})", self.number, self.retries));
        }
        let interrupted = |signal| Failure::Interrupted { signal, transfer_id: failure.transfer_id().map(str::to_owned) };
        interrupts.unless(tokio::time::sleep(wait)).await.map_err(interrupted)?;
        self.number += 1;
        Ok(())
    }
}

/// What may cure a failure. `begun`: an attempt of this command had reached the server before.
///
/// An engine or a server that ends while it opens the lane is not the same as none: it is started again.
fn cure(failure: &Failure, begun: bool) -> Option<Cure> {
    match failure {
        Failure::Upload { source: UploadError::PathMtu { packet_bytes, .. }, .. } => {
            PACKET_BYTES.into_iter().find(|bytes| *bytes < *packet_bytes as usize).map(Cure::SmallerPackets)
        }
        Failure::Upload { source: UploadError::Lost { .. }, .. } => Some(Cure::Again),
        Failure::Transfer {
            code: ErrorCode::EngineDied | ErrorCode::StagingFailed | ErrorCode::Draining | ErrorCode::PeerGone | ErrorCode::IdleTimeout,
            ..
        } => Some(Cure::Again),
        Failure::Server(ClientError::Refused(problem)) if problem.code == ProblemCode::Transfer(ErrorCode::EngineDied) => Some(Cure::Again),
        Failure::Server(ClientError::Unreachable { was_connected: true, .. }) => Some(Cure::Again),
        Failure::Trust(TrustError::Unreachable { .. }) if begun => Some(Cure::Again),
        Failure::Server(error) if begun => match error {
            ClientError::Unreachable { .. } | ClientError::Timeout { .. } => Some(Cure::Again),
            ClientError::Refused(problem) if problem.code == ProblemCode::Api(ApiCode::EngineUnavailable) => Some(Cure::Again),
            _ => None,
        },
        _ => None,
    }
}

/// Wait before restart number `attempt`, from 1.
fn wait(cure: Cure, attempt: u32) -> Duration {
    match cure {
        Cure::SmallerPackets(_) => Duration::ZERO,
        Cure::Again => WAIT_FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(8)).min(WAIT_MOST),
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::Problem;

    use super::*;

    fn upload(source: UploadError) -> Failure {
        Failure::Upload { transfer_id: "t".into(), source }
    }

    fn path_mtu(packet_bytes: u32) -> Failure {
        upload(UploadError::PathMtu { endpoint: ([192, 0, 2, 1], 1).into(), packet_bytes, text: String::new() })
    }

    #[test]
    fn only_what_a_new_lane_can_cure_starts_again() {
        let transfer = |code: ErrorCode| Failure::Transfer { transfer_id: "t".into(), code, detail: String::new(), hint: String::new() };
        let refused = |code: ApiCode| Failure::Server(ClientError::Refused(Problem::new(code, "d")));
        let lost = upload(UploadError::Lost { endpoint: ([192, 0, 2, 1], 1).into(), text: String::new() });
        assert_eq!(cure(&lost, false), Some(Cure::Again));
        for code in ErrorCode::ALL {
            let curable =
                [ErrorCode::EngineDied, ErrorCode::StagingFailed, ErrorCode::Draining, ErrorCode::PeerGone, ErrorCode::IdleTimeout]
                    .contains(&code);
            assert_eq!(cure(&transfer(code), true).is_some(), curable, "{code}");
        }
        assert_eq!(cure(&refused(ApiCode::EngineUnavailable), true), Some(Cure::Again));
        assert_eq!(cure(&refused(ApiCode::EngineUnavailable), false), None, "before anything was sent the user is told at once");
        assert_eq!(cure(&refused(ApiCode::Unauthorized), true), None);
        let unreachable = |was_connected| {
            let server = "192.0.2.1".parse().unwrap();
            Failure::Server(ClientError::Unreachable { server, reason: "r".into(), was_connected })
        };
        assert_eq!(cure(&unreachable(false), false), None);
        assert_eq!([(true, false), (false, true)].map(|(had, begun)| cure(&unreachable(had), begun)), [Some(Cure::Again); 2]);
        let died = Failure::Server(ClientError::Refused(Problem::new(ErrorCode::EngineDied, "d")));
        assert_eq!(cure(&died, false), Some(Cure::Again), "the server has taken the request and starts a new engine");
        assert_eq!(cure(&upload(UploadError::Cancelled), true), None);
        assert_eq!(cure(&upload(UploadError::Refused { code: 5, text: "disk_full".into() }), true), None);
    }

    #[test]
    fn packets_shrink_step_by_step_and_not_for_ever() {
        let mut sizes = Vec::new();
        let mut bytes = 9_000;
        while let Some(Cure::SmallerPackets(smaller)) = cure(&path_mtu(bytes), true) {
            sizes.push(smaller);
            bytes = smaller as u32;
        }
        assert_eq!(sizes, PACKET_BYTES);
        assert_eq!(wait(Cure::SmallerPackets(1_280), 3), Duration::ZERO);
        assert_eq!([1, 2, 3, 60].map(|attempt| wait(Cure::Again, attempt).as_secs()), [1, 2, 4, 30]);
    }
}
