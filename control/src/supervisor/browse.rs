//! Questions about the objects of stores that wait for the engine's answer. No I/O, like the rest of the supervisor's state.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tradewind_api::{ApiCode, ErrorCode, Problem};
use tradewind_ipc::{Browse, BrowseAnswer, BrowseQuestion, Browsed, Store, ToEngine};

/// Questions waiting at the same time. The engine asks stores a few at a time; the rest wait there.
pub(super) const WAITING_MAX: usize = 128;

/// Where the answer goes.
pub(crate) type Reply = oneshot::Sender<Result<BrowseAnswer, Problem>>;

/// The questions under way.
#[derive(Debug, Default)]
pub(super) struct Browsing {
    waiting: HashMap<u64, Waiting>,
    asked: u64,
}

#[derive(Debug)]
struct Waiting {
    reply: Reply,
    deadline: Instant,
}

impl Browsing {
    /// Takes a question; returns what the engine is to be told, unless there are too many.
    pub(super) fn ask(&mut self, store: Store, question: BrowseQuestion, deadline: Instant, reply: Reply) -> Option<ToEngine> {
        // Who has gone makes room for others.
        self.waiting.retain(|_, waiting| !waiting.reply.is_closed());
        if self.waiting.len() >= WAITING_MAX {
            let detail = format!("{WAITING_MAX} questions about stores wait for their answers");
            let _ = reply.send(Err(Problem::new(ErrorCode::ResourceExhausted, detail).with_hint("try again in a moment")));
            return None;
        }
        self.asked += 1;
        self.waiting.insert(self.asked, Waiting { reply, deadline });
        Some(ToEngine::Browse(Box::new(Browse { request_id: self.asked, store, question })))
    }

    /// Hands an answer to whoever waits for it; one that came too late is dropped.
    pub(super) fn answered(&mut self, browsed: Browsed) {
        if let Some(waiting) = self.waiting.remove(&browsed.request_id) {
            let _ = waiting.reply.send(Ok(browsed.answer));
        }
    }

    /// Nobody will answer any more.
    pub(super) fn engine_ended(&mut self, reason: &str) {
        for (_, waiting) in self.waiting.drain() {
            let _ = waiting.reply.send(Err(Problem::new(ErrorCode::EngineDied, format!("the engine {reason}")).with_hint("try again")));
        }
    }

    /// Ends the waits that have lasted too long.
    pub(super) fn expire(&mut self, now: Instant, patience: Duration) {
        for (_, waiting) in self.waiting.extract_if(|_, waiting| now >= waiting.deadline) {
            let detail = format!("no answer about the store within {} s", patience.as_secs());
            let _ = waiting.reply.send(Err(Problem::new(ApiCode::EngineUnavailable, detail)));
        }
    }
}
