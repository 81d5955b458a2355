//! One transfer and its legal states.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tradewind_api::limits::STATUS_FILES_MAX;
use tradewind_api::{
    FileStatus, LaneOffer, Outcome, Problem, RateRequest, RateStatus, ResumePolicy, SubmitRequest, SubmitResponse, Totals, TransferState,
    TransferStatus,
};
use tradewind_ipc::{ErrorCode, LaneReport};

use super::rates::Rates;

/// Somebody who waits for the engine's word on a lane.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) reply: oneshot::Sender<Result<SubmitResponse, Problem>>,
    pub(super) offer: LaneOffer,
    pub(super) deadline: Instant,
}

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) owner: String,
    pub(super) lane_id: u64,
    pub(super) waiting: Option<Waiting>,
    request: SubmitRequest,
    state: TransferState,
    submitted: Instant,
    submitted_unix_ms: u64,
    ended: Option<Instant>,
    pub(super) last_progress: Instant,
    /// The engine's list of what was durable before, while the lane is open.
    pub(super) durable: Option<PathBuf>,
    totals: Totals,
    files: VecDeque<FileStatus>,
    outcome: Option<Outcome>,
    /// Objects left out, and why the first.
    left_out: (u64, Option<String>),
    /// The sender's newest word.
    report: Option<LaneReport>,
}

impl Transfer {
    pub(super) fn new(owner: String, lane_id: u64, request: SubmitRequest, waiting: Waiting, now: Instant) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            owner,
            lane_id,
            waiting: Some(waiting),
            request,
            state: TransferState::Opening,
            submitted: now,
            submitted_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            ended: None,
            last_progress: now,
            durable: None,
            totals: Totals::default(),
            files: VecDeque::new(),
            outcome: None,
            left_out: (0, None),
            report: None,
        }
    }

    /// Whether the engine sends to the client.
    pub(super) const fn is_download(&self) -> bool {
        self.request.source.is_some() && self.request.destination.is_none()
    }

    /// Whether the files come from another server.
    pub(super) const fn is_called(&self) -> bool {
        self.request.from.is_some()
    }

    /// Whether the client may still say what it has already.
    pub(super) fn wants_list(&self) -> bool {
        self.is_download() && self.request.resume == ResumePolicy::Attributes && self.state == TransferState::Waiting
    }

    /// Rates as they were asked for.
    pub(super) const fn rate(&self) -> RateRequest {
        self.request.rate
    }

    pub(super) fn set_rate(&mut self, rate: RateRequest) {
        self.request.rate = rate;
    }

    pub(super) fn reported(&mut self, report: LaneReport) {
        self.report = Some(report);
    }

    /// The round trip that the sender sees; zero while unknown.
    pub(super) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.report.map_or(0, |report| report.round_trip_us.into()))
    }

    pub(super) fn is_final(&self) -> bool {
        self.state.is_final()
    }

    pub(super) const fn state(&self) -> TransferState {
        self.state
    }

    /// When it ended, if it has.
    pub(super) const fn ended(&self) -> Option<Instant> {
        self.ended
    }

    pub(super) const fn submitted(&self) -> Instant {
        self.submitted
    }

    /// Opening → Waiting.
    pub(super) fn opened(&mut self, now: Instant) {
        if self.state == TransferState::Opening {
            self.state = TransferState::Waiting;
            self.last_progress = now;
        }
    }

    /// Waiting → Running with the first bytes; later, new totals. Totals that do not move are no progress.
    pub(super) fn progressed(&mut self, totals: Totals, now: Instant) {
        if self.is_final() || totals == self.totals {
            return;
        }
        if totals.bytes_received > 0 && self.state == TransferState::Waiting {
            self.state = TransferState::Running;
        }
        self.totals = totals;
        self.last_progress = now;
    }

    pub(super) fn file_done(&mut self, mut file: FileStatus, now: Instant) {
        file.lane_id = 0;
        if self.files.len() == STATUS_FILES_MAX {
            self.files.pop_front();
        }
        self.files.push_back(file);
        self.last_progress = now;
    }

    /// Any state that is not final → Done.
    pub(super) fn done(&mut self, totals: Totals, left_out: (u64, Option<String>), now: Instant) {
        if !self.is_final() {
            self.left_out = left_out;
            self.state = TransferState::Done;
            self.totals = totals;
            self.ended = Some(now);
        }
    }

    /// Any state that is not final → Cancelled for [`ErrorCode::Cancelled`], Failed for all others.
    pub(super) fn failed(&mut self, code: ErrorCode, detail: &str, now: Instant) {
        if !self.is_final() {
            self.state = if code == ErrorCode::Cancelled { TransferState::Cancelled } else { TransferState::Failed };
            self.outcome = Some(Outcome { code, detail: detail.to_owned(), hint: code.hint().to_owned() });
            self.ended = Some(now);
        }
    }

    pub(super) fn status(&self, id: &str, with_files: bool, now: Instant, rates: &Rates) -> TransferStatus {
        let elapsed = self.ended.unwrap_or(now).saturating_duration_since(self.submitted);
        TransferStatus {
            transfer_id: id.to_owned(),
            state: self.state,
            destination: self.request.destination.clone().unwrap_or_default(),
            source: self.request.source.clone(),
            submitted_unix_ms: self.submitted_unix_ms,
            elapsed_ms: millis(elapsed),
            files_announced: self.request.files,
            bytes_announced: self.request.bytes,
            totals: self.totals.clone(),
            rate: self.rate_status(rates),
            files: if with_files { self.files.iter().cloned().collect() } else { Vec::new() },
            files_failed: self.left_out.0,
            first_failure: self.left_out.1.clone(),
            outcome: self.outcome.clone(),
        }
    }
}

impl Transfer {
    fn rate_status(&self, rates: &Rates) -> RateStatus {
        let RateRequest { policy, target_rate_bps, minimum_rate_bps } = self.request.rate;
        let Some(view) = rates.view(self.lane_id).filter(|_| !self.is_final()) else {
            return RateStatus { policy, target_rate_bps, minimum_rate_bps, in_force: true, ..RateStatus::default() };
        };
        let of_report = |value: fn(&LaneReport) -> u32| self.report.as_ref().map(|report| u64::from(value(report)) * 1000);
        RateStatus {
            policy: view.grant.policy,
            target_rate_bps: view.grant.target_rate_bps,
            minimum_rate_bps: view.grant.minimum_rate_bps,
            cap: view.cap,
            lease_rate_bps: view.grant.lease_rate_bps,
            group: view.grant.group,
            limiter: self.report.and_then(|report| report.limiter),
            allowed_rate_bps: of_report(|report| report.rate_kbps),
            sent_rate_bps: of_report(|report| report.sent_kbps),
            round_trip_us: self.report.map(|report| report.round_trip_us.into()).filter(|&time| time > 0),
            in_force: view.in_force,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
