//! One retry loop for every request to every store: bounded in number and time, paused with jitter, a deadline on each try.
//!
//! The SDK's own retries are switched off: two loops inside each other multiply, the inner one is invisible in our statistics,
//! and its shared token bucket runs dry exactly when a store throttles. One request has a second loop around it: the abort of a probe.

use std::future::Future;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::StoreError;

/// How often and with which pauses a request is repeated.
///
/// The pause before try n is uniform in `0..=min(pause_max_ms, pause_base_ms * 2^(n-1))` ("full jitter", AWS Architecture
/// Blog, "Exponential Backoff and Jitter").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, at least 1. Default 8.
    pub tries_max: u32,
    /// Upper bound of the first pause, milliseconds. Default 200.
    pub pause_base_ms: u64,
    /// Upper bound of any pause, milliseconds. Default 20,000.
    pub pause_max_ms: u64,
    /// Deadlines of the single tries.
    pub deadlines: Deadlines,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { tries_max: 8, pause_base_ms: 200, pause_max_ms: 20_000, deadlines: Deadlines::default() }
    }
}

/// How long one try may take: `request_ms`, and for every byte the time it takes at `bytes_per_s_min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a request without data, milliseconds. Default 60,000.
    pub request_ms: u64,
    /// Slowest acceptable rate of one request, bytes per second. Default 65,536.
    pub bytes_per_s_min: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { request_ms: 60_000, bytes_per_s_min: 65_536 }
    }
}

impl Deadlines {
    /// The time a request over `bytes` bytes may take.
    #[must_use]
    pub fn for_bytes(&self, bytes: u64) -> Duration {
        let data_ms = u128::from(bytes) * 1000 / u128::from(self.bytes_per_s_min.max(1));
        Duration::from_millis(self.request_ms.saturating_add(u64::try_from(data_ms).unwrap_or(u64::MAX)))
    }
}

impl RetryPolicy {
    /// Runs `request` until it succeeds, fails for good (`again` says no), or the tries are used up; the last error is returned.
    /// `bytes` sets the deadline of a try, `on_retry` is called before each pause.
    ///
    /// # Errors
    /// The last try's error, [`StoreError::Timeout`] if it met its deadline.
    pub async fn run<T, F>(
        &self,
        action: &'static str,
        bytes: u64,
        again: fn(&StoreError) -> bool,
        mut on_retry: impl FnMut(&StoreError),
        mut request: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let after = self.deadlines.for_bytes(bytes);
        let mut tries = 0;
        loop {
            tries += 1;
            // A deadline too far away for the clock is no deadline that anybody would notice.
            let deadline = Instant::now().checked_add(after).unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
            let error = match timeout_at(deadline, request()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => StoreError::Timeout { action, after },
            };
            if tries >= self.tries_max || !again(&error) {
                return Err(error);
            }
            on_retry(&error);
            let pause = self.pause(tries);
            tracing::debug!(action, tries, pause_ms = pause.as_millis(), %error, "trying again");
            sleep(pause).await;
        }
    }

    fn pause(&self, tries: u32) -> Duration {
        let bound = self.pause_base_ms.saturating_mul(1 << (tries - 1).min(31)).min(self.pause_max_ms);
        Duration::from_millis(rand::rng().random_range(0..=bound))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn policy(tries_max: u32) -> RetryPolicy {
        RetryPolicy { tries_max, pause_base_ms: 1, pause_max_ms: 3, deadlines: Deadlines { request_ms: 40, bytes_per_s_min: 1_000_000 } }
    }

    fn busy() -> StoreError {
        StoreError::Throttled { place: "p".into(), detail: "d".into() }
    }

    async fn run(tries_max: u32, failures: u32, error: fn() -> StoreError) -> (Result<u32, StoreError>, u32) {
        let (calls, retries) = (AtomicU32::new(0), AtomicU32::new(0));
        let count = |_: &StoreError| {
            retries.fetch_add(1, Ordering::Relaxed);
        };
        let request = || async {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            if call < failures { Err(error()) } else { Ok(call) }
        };
        let result = policy(tries_max).run("test", 0, StoreError::is_retryable, count, request).await;
        (result, retries.into_inner())
    }

    #[tokio::test]
    async fn the_last_allowed_try_counts_and_one_more_does_not() {
        assert!(matches!(run(4, 3, busy).await, (Ok(3), 3)));
        assert!(matches!(run(4, 4, busy).await, (Err(StoreError::Throttled { .. }), 3)));
    }

    #[tokio::test]
    async fn what_will_not_change_is_not_repeated() {
        let exists = || StoreError::DestinationExists { object: "o".into() };
        assert!(matches!(run(4, 1, exists).await, (Err(StoreError::DestinationExists { .. }), 0)));
    }

    #[tokio::test]
    async fn a_request_that_never_answers_ends_with_a_name() {
        let never = || std::future::pending::<Result<(), StoreError>>();
        let result = policy(2).run("put", 0, StoreError::is_retryable, |_| {}, never).await;
        assert!(matches!(result, Err(StoreError::Timeout { action: "put", .. })));
    }

    #[test]
    fn deadlines_grow_with_the_data_and_pauses_stay_bounded() {
        let deadlines = Deadlines { request_ms: 10, bytes_per_s_min: 1000 };
        assert_eq!(deadlines.for_bytes(0), Duration::from_millis(10));
        assert_eq!(deadlines.for_bytes(2000), Duration::from_millis(2010));
        let _ = deadlines.for_bytes(u64::MAX);
        for tries in 1..200 {
            assert!(policy(9).pause(tries) <= Duration::from_millis(3));
        }
    }
}
