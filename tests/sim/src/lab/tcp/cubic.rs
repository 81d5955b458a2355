//! CUBIC, RFC 9438, with fast convergence and the Reno-friendly region; without HyStart.

/// RFC 9438 §4.1 and §4.6.
const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// Initial window, segments (RFC 6928).
const INITIAL: f64 = 10.0;

/// Window and epoch, in segments and seconds.
pub(super) struct Cubic {
    window: f64,
    threshold: f64,
    w_max: f64,
    k_s: f64,
    epoch_ns: u64,
    reno: f64,
}

impl Cubic {
    pub(super) fn new() -> Self {
        Self { window: INITIAL, threshold: f64::INFINITY, w_max: 0.0, k_s: 0.0, epoch_ns: 0, reno: 0.0 }
    }

    pub(super) fn window(&self) -> u64 {
        self.window as u64
    }

    pub(super) fn on_ack(&mut self, now_ns: u64, rtt_ns: u64) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let rtt_s = rtt_ns as f64 * 1e-9;
        let elapsed_s = now_ns.saturating_sub(self.epoch_ns) as f64 * 1e-9;
        let aim = (C * (elapsed_s + rtt_s - self.k_s).powi(3) + self.w_max).clamp(self.window, 1.5 * self.window);
        self.reno += 3.0 * (1.0 - BETA) / (1.0 + BETA) / self.window;
        self.window = (self.window + (aim - self.window) / self.window).max(self.reno);
    }

    pub(super) fn on_loss(&mut self, now_ns: u64) {
        self.w_max = if self.window < self.w_max { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(2.0);
        self.threshold = self.window;
        self.reno = self.window;
        self.epoch_ns = now_ns;
        self.k_s = ((self.w_max - self.window).max(0.0) / C).cbrt();
    }
}
