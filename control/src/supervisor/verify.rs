//! Readings of stored objects under way. No I/O, like the rest of the supervisor's state.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};
use tradewind_api::{ErrorCode, Problem};
use tradewind_ipc::{Destination, ToEngine, Verified, Verify};

/// Readings at the same time; each takes its turn at the engine.
const READINGS_MAX: usize = 32;

/// What the engine finds, as it finds it. The end of the stream before one that has `ended` means that the engine has gone.
pub(crate) type Findings = mpsc::UnboundedReceiver<Verified>;

/// The readings under way.
#[derive(Debug, Default)]
pub(super) struct Verifying {
    listening: HashMap<u64, mpsc::UnboundedSender<Verified>>,
    asked: u64,
}

impl Verifying {
    /// Takes a question; returns what the engine is to be told, unless there are too many.
    pub(super) fn ask(
        &mut self,
        destination: Destination,
        lines: Vec<String>,
        reply: oneshot::Sender<Result<Findings, Problem>>,
    ) -> Option<ToEngine> {
        if self.listening.len() >= READINGS_MAX {
            let detail = format!("{READINGS_MAX} verifications are running");
            let _ = reply.send(Err(Problem::new(ErrorCode::ResourceExhausted, detail).with_hint("try again when one has ended")));
            return None;
        }
        let (listener, findings) = mpsc::unbounded_channel();
        // Whoever does not wait for it listens to nothing.
        reply.send(Ok(findings)).ok()?;
        self.asked += 1;
        self.listening.insert(self.asked, listener);
        Some(ToEngine::Verify(Box::new(Verify { request_id: self.asked, destination, lines })))
    }

    /// Hands findings on; returns what the engine is to be told if nobody listens any more.
    pub(super) fn found(&mut self, verified: Verified) -> Option<ToEngine> {
        let (request_id, ended) = (verified.request_id, verified.ended);
        let is_heard = self.listening.get(&request_id)?.send(verified).is_ok();
        if ended || !is_heard {
            self.listening.remove(&request_id);
        }
        (!ended && !is_heard).then_some(ToEngine::StopVerify { request_id })
    }

    /// Nobody will find anything any more.
    pub(super) fn engine_ended(&mut self) {
        self.listening.clear();
    }
}

#[cfg(test)]
mod tests {
    use tradewind_ipc::{DestinationName, Store};

    use super::*;

    fn ask(verifying: &mut Verifying) -> (Option<ToEngine>, Result<Findings, Problem>) {
        let destination = Destination { store: Store::Local { root: "/".into() }, name: DestinationName::Into(String::new()) };
        let (reply, mut answer) = oneshot::channel();
        let told = verifying.ask(destination, vec!["{}".to_owned()], reply);
        (told, answer.try_recv().unwrap())
    }

    fn found(request_id: u64, ended: bool) -> Verified {
        Verified { request_id, bytes: 0, verdicts: Vec::new(), ended }
    }

    #[test]
    fn a_reading_ends_with_its_last_word_or_its_listener() {
        let mut verifying = Verifying::default();
        let (told, findings) = ask(&mut verifying);
        assert!(matches!(told, Some(ToEngine::Verify(verify)) if verify.request_id == 1));
        assert_eq!(verifying.found(found(1, false)), None);
        drop(findings);
        assert_eq!(verifying.found(found(1, false)), Some(ToEngine::StopVerify { request_id: 1 }));
        assert_eq!(verifying.found(found(1, false)), None, "what was on its way");
        let mut findings = ask(&mut verifying).1.unwrap();
        verifying.found(found(2, true));
        assert!(findings.try_recv().unwrap().ended && verifying.listening.is_empty());
    }

    #[test]
    fn more_than_may_run_are_refused_until_the_engine_ends() {
        let mut verifying = Verifying::default();
        let held: Vec<_> = (0..READINGS_MAX).map(|_| ask(&mut verifying).1.unwrap()).collect();
        assert!(ask(&mut verifying).1.is_err());
        verifying.engine_ended();
        assert!(ask(&mut verifying).1.is_ok());
        drop(held);
    }
}
