//! Opponents: models of a bulk TCP flow, packet by packet, with ideal loss detection (one round trip after the drop, nothing else is ever retransmitted
//! or timed out, so the models are somewhat better than the real ones).

mod bbr;
mod cubic;

use std::collections::VecDeque;

use bbr::Bbr;
use cubic::Cubic;

/// Bytes of a segment, as an IP packet.
pub(super) const SEGMENT_BYTES: u32 = 1500;

/// Congestion control of an opponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// CUBIC (RFC 9438).
    Cubic,
    /// BBR, first version (draft-cardwell-iccrg-bbr-congestion-control-00).
    Bbr,
}

/// What is remembered of a segment under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) sent_ns: u64,
    /// Segments that had been delivered when it was sent, and when the last of them was.
    delivered: u64,
    delivered_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Notice {
    at_ns: u64,
    segment: Segment,
    lost: bool,
}

enum Controller {
    Cubic(Cubic),
    Bbr(Bbr),
}

/// A bulk flow.
pub(super) struct Tcp {
    controller: Controller,
    notices: VecDeque<Notice>,
    in_flight: u64,
    delivered: u64,
    delivered_ns: u64,
    pace_ns: f64,
    /// Losses of segments sent before this are part of a recovery that has begun.
    recovery_ns: u64,
}

impl Tcp {
    pub(super) fn new(control: Control, now_ns: u64) -> Self {
        let controller = match control {
            Control::Cubic => Controller::Cubic(Cubic::new()),
            Control::Bbr => Controller::Bbr(Bbr::new(now_ns)),
        };
        Self {
            controller,
            notices: VecDeque::new(),
            in_flight: 0,
            delivered: 0,
            delivered_ns: now_ns,
            pace_ns: now_ns as f64,
            recovery_ns: 0,
        }
    }

    /// Segments delivered so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// When something happens next.
    pub(super) fn next_ns(&self) -> u64 {
        let notice = self.notices.front().map_or(u64::MAX, |notice| notice.at_ns);
        if self.in_flight < self.window() { notice.min(self.pace_ns as u64) } else { notice }
    }

    fn window(&self) -> u64 {
        match &self.controller {
            Controller::Cubic(cubic) => cubic.window(),
            Controller::Bbr(bbr) => bbr.window(),
        }
    }

    /// The next segment if one may be sent now.
    pub(super) fn poll(&mut self, now_ns: u64) -> Option<Segment> {
        if self.in_flight >= self.window() || self.pace_ns as u64 > now_ns {
            return None;
        }
        if let Controller::Bbr(bbr) = &self.controller {
            self.pace_ns = self.pace_ns.max(now_ns as f64 - 1e6) + f64::from(SEGMENT_BYTES) * 1e9 / bbr.pacing_bytes_per_s();
        }
        if self.in_flight == 0 {
            self.delivered_ns = now_ns;
        }
        self.in_flight += 1;
        Some(Segment { sent_ns: now_ns, delivered: self.delivered, delivered_ns: self.delivered_ns })
    }

    /// The sender will know at `at_ns` whether the segment arrived.
    pub(super) fn notify(&mut self, at_ns: u64, segment: Segment, lost: bool) {
        let at_ns = at_ns.max(self.notices.back().map_or(0, |last| last.at_ns));
        self.notices.push_back(Notice { at_ns, segment, lost });
    }

    /// Handles what is known by now.
    pub(super) fn advance(&mut self, now_ns: u64) {
        while let Some(notice) = self.notices.front().copied().filter(|notice| notice.at_ns <= now_ns) {
            self.notices.pop_front();
            self.in_flight -= 1;
            if notice.lost {
                if notice.segment.sent_ns >= self.recovery_ns {
                    self.recovery_ns = now_ns;
                    if let Controller::Cubic(cubic) = &mut self.controller {
                        cubic.on_loss(now_ns);
                    }
                }
                continue;
            }
            self.delivered += 1;
            self.delivered_ns = now_ns;
            let rtt_ns = now_ns - notice.segment.sent_ns;
            match &mut self.controller {
                Controller::Cubic(cubic) => cubic.on_ack(now_ns, rtt_ns),
                Controller::Bbr(bbr) => {
                    let elapsed_ns = (now_ns - notice.segment.delivered_ns).max(1);
                    let rate = (self.delivered - notice.segment.delivered) as f64 * f64::from(SEGMENT_BYTES) * 1e9 / elapsed_ns as f64;
                    bbr.on_ack(now_ns, rtt_ns, rate, notice.segment.delivered, self.delivered, self.in_flight);
                }
            }
        }
    }
}
