//! No more requests a second than NetStorage takes well (Akamai TechDocs, "Technical limits with NetStorage").

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Requests to one host, one after the other, at least so far apart.
#[derive(Debug)]
pub(super) struct Pace {
    apart: Duration,
    /// When the next one may go. Whoever waits holds it, in turn; whoever gives up waiting uses no turn.
    next: tokio::sync::Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(requests_per_s: u32) -> Self {
        Self { apart: Duration::from_secs(1) / requests_per_s.max(1), next: tokio::sync::Mutex::new(Instant::now()) }
    }

    /// Waits for one's turn.
    pub(super) async fn turn(&self) {
        let mut next = self.next.lock().await;
        sleep_until(*next).await;
        *next = Instant::now() + self.apart;
    }
}

/// By host and requests a second.
type Paces = HashMap<(String, u32), Arc<Pace>>;

/// The pace that all stores of this process at that host share, whoever opened them.
pub(super) fn of_host(host: &str, requests_per_s: u32) -> Arc<Pace> {
    static PACES: LazyLock<Mutex<Paces>> = LazyLock::new(Mutex::default);
    let mut paces = PACES.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(paces.entry((host.to_owned(), requests_per_s)).or_insert_with(|| Arc::new(Pace::new(requests_per_s))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_as_far_apart_as_they_have_to_be() {
        let (pace, start) = (of_host("h", 50), Instant::now());
        assert!(Arc::ptr_eq(&pace, &of_host("h", 50)) && !Arc::ptr_eq(&pace, &of_host("i", 50)));
        // One that gives up takes no turn.
        pace.turn().await;
        assert!(tokio::time::timeout(Duration::from_millis(1), pace.turn()).await.is_err());
        for _ in 0..5 {
            pace.turn().await;
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(100), "{took:?}");
    }
}
