//! A second request for a part that takes much longer than the others did: of many parts the slowest decides when an object is complete.
//!
//! The first answer counts (a "hedged request"; Dean and Barroso, "The Tail at Scale", 2013). A store that is slow as a whole must not get more to
//! do: what is late is measured against the store's own answers, one part at a time is asked for again, at most one in [`ONE_IN`], and none for a
//! while after the store has asked to slow down.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::stats::UploadStats;
use crate::error::StoreError;
use crate::store::{Part, PartReceipt, Upload};

/// How many answers are remembered.
const REMEMBERED: usize = 64;
/// How many must be known before one can be late.
const KNOWN_MIN: usize = 8;
/// So many times as long as all but the slowest twentieth took is late.
const LATE: u32 = 3;
/// Nothing that takes less is late.
const LATE_MIN: Duration = Duration::from_millis(500);
/// At most one part in so many is asked for again.
const ONE_IN: u64 = 16;
/// How long none is after a request to slow down.
const TRUCE: Duration = Duration::from_secs(30);

/// What the parts of one [`crate::Uploader`] have taken.
#[derive(Debug, Default)]
pub(super) struct Hedge(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    took: VecDeque<Duration>,
    answered: u64,
    begun: u64,
    is_running: bool,
    throttled: u64,
    truce_until: Option<Instant>,
}

/// Its owner has asked for a part again.
struct Turn<'a>(&'a Hedge);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().is_running = false;
    }
}

impl State {
    /// How long a part may take before it is late.
    fn patience(&self) -> Option<Duration> {
        if self.took.len() < KNOWN_MIN {
            return None;
        }
        let mut sorted: Vec<Duration> = self.took.iter().copied().collect();
        sorted.sort_unstable();
        Some((sorted[(sorted.len() - 1) * 19 / 20] * LATE).max(LATE_MIN))
    }
}

impl Hedge {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, took: Duration) {
        let mut state = self.state();
        state.answered += 1;
        if state.took.len() == REMEMBERED {
            state.took.pop_front();
        }
        state.took.push_back(took);
    }

    /// Whether a part that was asked for at `since` is to be asked for again now; else, when to look again.
    fn turn(&self, since: Instant, now: Instant, throttled: u64) -> Result<Turn<'_>, Instant> {
        let mut state = self.state();
        if throttled > state.throttled {
            (state.throttled, state.truce_until) = (throttled, Some(now + TRUCE));
        }
        let Some(patience) = state.patience() else { return Err(now + LATE_MIN) };
        if now < since + patience {
            return Err(since + patience);
        }
        let is_truce = state.truce_until.is_some_and(|until| now < until);
        if state.is_running || is_truce || state.begun * ONE_IN > state.answered {
            return Err(now + LATE_MIN);
        }
        (state.is_running, state.begun) = (true, state.begun + 1);
        Ok(Turn(self))
    }

    /// Stores a part, by two requests if the first is late.
    pub(super) async fn put(&self, upload: &dyn Upload, part: &Part, stats: &UploadStats) -> Result<PartReceipt, StoreError> {
        if !upload.takes_parts_twice() {
            return upload.put_part(part.clone()).await;
        }
        let since = Instant::now();
        let mut first = pin!(upload.put_part(part.clone()));
        let mut look = since + LATE_MIN;
        let _turn = loop {
            tokio::select! {
                result = &mut first => {
                    if result.is_ok() {
                        self.answered(since.elapsed());
                    }
                    return result;
                }
                () = sleep_until(look) => match self.turn(since, Instant::now(), stats.throttled.load(Relaxed)) {
                    Ok(turn) => break turn,
                    Err(later) => look = later,
                },
            }
        };
        stats.hedged.fetch_add(1, Relaxed);
        tracing::debug!(part = part.number, waited_ms = since.elapsed().as_millis(), "a part is late and asked for again");
        let mut second = pin!(upload.put_part(part.clone()));
        // The first success; where one fails, whatever the other says.
        let (result, other_is_first) = tokio::select! {
            result = &mut first => (result, false),
            result = &mut second => (result, true),
        };
        let result = match result {
            Ok(receipt) => Ok(receipt),
            Err(_) if other_is_first => first.await,
            Err(_) => second.await,
        };
        if result.is_ok() {
            self.answered(since.elapsed());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use async_trait::async_trait;
    use tokio::time::sleep;

    use super::*;
    use crate::checksum::Crc64;
    use crate::store::{Body, StoredObject};

    const PARTS: u32 = 60;

    /// How long a try of a part takes, milliseconds, and whether it fails then. The first part is 0, the first try 1.
    type Takes = fn(u32, u32) -> (u64, bool);

    #[derive(Debug)]
    struct Slow {
        takes: Takes,
        takes_twice: bool,
        tries: Vec<AtomicU32>,
    }

    #[async_trait]
    impl Upload for Slow {
        async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
            let number = part.number;
            let attempt = self.tries[number as usize].fetch_add(1, Relaxed) + 1;
            let (takes_ms, fails) = (self.takes)(number, attempt);
            sleep(Duration::from_millis(takes_ms)).await;
            if fails {
                return Err(StoreError::Unavailable { place: String::new(), detail: format!("try {attempt}") });
            }
            Ok(PartReceipt { number, len: 0, crc: Crc64::default(), etag: Some(attempt.to_string()) })
        }

        fn takes_parts_twice(&self) -> bool {
            self.takes_twice
        }

        async fn complete(&self, _: &[PartReceipt], _: Crc64) -> Result<StoredObject, StoreError> {
            unreachable!("no test completes anything")
        }

        async fn abort(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn handle(&self) -> String {
            String::new()
        }

        fn keep(&self) {}

        async fn recall(&self, _: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
            Ok(Vec::new())
        }
    }

    struct Played {
        /// Numbers of the parts whose second try counted.
        second: Vec<u32>,
        failed: Vec<u32>,
        took: Duration,
        hedged: u64,
    }

    /// Puts all parts, four at once.
    async fn play(takes_twice: bool, throttled: u64, takes: Takes) -> Played {
        let tries = (0..PARTS).map(|_| AtomicU32::new(0)).collect();
        let (upload, hedge, stats) = (Slow { takes, takes_twice, tries }, Hedge::default(), UploadStats::default());
        stats.throttled.store(throttled, Relaxed);
        let since = Instant::now();
        let next = AtomicU32::new(0);
        let (second, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let worker = async || {
            while let number @ 0..PARTS = next.fetch_add(1, Relaxed) {
                match hedge.put(&upload, &Part { number, offset: 0, body: Body::default() }, &stats).await {
                    Ok(receipt) if receipt.etag.as_deref() == Some("2") => second.lock().unwrap().push(number),
                    Ok(_) => {}
                    Err(_) => failed.lock().unwrap().push(number),
                }
            }
        };
        tokio::join!(worker(), worker(), worker(), worker());
        let hedged = stats.hedged.load(Relaxed);
        Played { second: second.into_inner().unwrap(), failed: failed.into_inner().unwrap(), took: since.elapsed(), hedged }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_is_late_is_asked_for_again() {
        let played = play(true, 0, |number, attempt| (if number == 40 && attempt == 1 { 60_000 } else { 400 }, false)).await;
        assert_eq!((played.second, played.hedged), (vec![40], 1));
        assert!(played.took < Duration::from_secs(10), "{:?}", played.took);
        // Where that would change something, it is not.
        let played = play(false, 0, |number, attempt| (if number == 40 && attempt == 1 { 60_000 } else { 400 }, false)).await;
        assert_eq!((played.second, played.hedged), (vec![], 0));
        assert!(played.took > Duration::from_secs(60), "{:?}", played.took);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_counts_and_a_failure_waits_for_the_other() {
        // The second is slower than what is left of the first.
        let slower = play(true, 0, |number, attempt| (if number == 40 { [2000, 5000][attempt as usize - 1] } else { 400 }, false)).await;
        assert_eq!((slower.second, slower.hedged), (vec![], 1));
        let second_fails = play(true, 0, |number, attempt| (if number == 40 && attempt == 1 { 9000 } else { 400 }, attempt == 2)).await;
        assert_eq!((second_fails.second, second_fails.failed, second_fails.hedged), (vec![], vec![], 1));
        let first_fails = play(true, 0, |number, attempt| match (number, attempt) {
            (40, 1) => (1500, true),
            (40, _) => (1000, false),
            _ => (400, false),
        });
        let first_fails = first_fails.await;
        assert_eq!((first_fails.second, first_fails.failed), (vec![40], vec![]));
        let both_fail = play(true, 0, |number, _| (if number == 40 { 1500 } else { 400 }, number == 40)).await;
        assert_eq!(both_fail.failed, [40]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_slow_as_a_whole_is_not_asked_more() {
        // Every part from the twentieth on: one in sixteen, one at a time.
        let slow = play(true, 0, |number, _| (if number > 20 { 10_000 } else { 100 }, false)).await;
        assert!(slow.hedged <= u64::from(PARTS) / ONE_IN + 1, "{}", slow.hedged);
        // It has asked to slow down: nothing within half a minute, the last part later.
        let throttled = play(true, 1, |number, attempt| match (number, attempt) {
            (20, 1) => (20_000, false),
            (59, 1) => (60_000, false),
            _ => (400, false),
        });
        let throttled = throttled.await;
        assert_eq!((throttled.second, throttled.hedged), (vec![59], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_late_before_others_are_known() {
        let played = play(true, 0, |number, attempt| (if number < 4 && attempt == 1 { 20_000 } else { 100 }, false)).await;
        assert_eq!(played.hedged, 0);
    }
}
