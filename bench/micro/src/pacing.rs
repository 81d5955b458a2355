//! The pacer, through the rate control that owns it.

use anyhow::{Result, ensure};
use tradewind_proto::rate::RateController;

use crate::Workload;
use crate::lane::{CHUNK, MS, PACKET_BYTES, RATE, sender_config};

const PACKETS: u64 = 4096;

struct Pacing {
    rate: RateController,
    now_ns: u64,
    sent: u64,
    begun_ns: u64,
}

pub(crate) fn packets() -> Result<Box<dyn Workload>> {
    let rate = RateController::new(sender_config(CHUNK, PACKET_BYTES, RATE, 10 * MS).rate, 0);
    Ok(Box::new(Pacing { rate, now_ns: 0, sent: 0, begun_ns: 0 }))
}

impl Workload for Pacing {
    fn operations(&self) -> u64 {
        PACKETS
    }

    fn prepare(&mut self) -> Result<()> {
        // Where nothing is heard, rate control slows down.
        self.rate.on_feedback(self.now_ns, 10 * MS, &[], self.sent, 0, 0);
        self.begun_ns = self.now_ns;
        Ok(())
    }

    fn run(&mut self) -> u64 {
        let until = self.sent + PACKETS;
        while self.sent < until {
            self.now_ns = self.now_ns.max(self.rate.next_send_ns());
            let admission = self.rate.admit(self.now_ns);
            for _ in 0..u64::from(admission.packets).min(until - self.sent) {
                self.rate.on_sent(self.now_ns, self.sent, PACKET_BYTES, admission.train);
                self.sent += 1;
            }
        }
        PACKETS
    }

    fn check(&mut self, result: u64) -> Result<()> {
        let took_ns = (self.now_ns - self.begun_ns) as f64;
        let due_ns = PACKETS as f64 * f64::from(PACKET_BYTES) * 1e9 / RATE as f64;
        ensure!(result == PACKETS && (took_ns / due_ns - 1.0).abs() < 0.05, "{result} packets took {took_ns} ns instead of {due_ns}");
        Ok(())
    }
}
