//! Trains: runs of packets sent at one known rate, and what the receiver said about them.
//!
//! A train is final when the receiver has reported a later one and nothing of it can still be under way, or when all of it has arrived. Only final
//! trains are measured, each once, in the order in which they were sent.

use super::TrainReport;
use super::delay::BaseDelay;

/// Wire identities are sequence numbers modulo this; the value itself means "not measured".
pub(super) const TRAIN_IDS: u64 = 255;

/// The oldest unfinished train is given up when this many are open, so that a wire identity is never in use twice.
const OPEN_TRAINS_MOST: u64 = 200;

/// A later train's last arrival must be this much after a train's own for the train to be final, microseconds: the reordering that is waited for
/// (transport.md §3 starts its reordering window at the same 1 ms).
const REORDERING_US: u32 = 1_000;

/// Longest span of one train that is believed, microseconds. The longest dip lasts 150 ms, half a dither period of one of a thousand slow lanes 0.8 s.
const SPAN_MOST_US: u32 = 2_000_000;

/// What a train was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Start-up: a few packets at a multiple of the mean rate, then silence.
    Pulse,
    /// Upper half of a dither period.
    Up,
    /// Lower half of a dither period.
    Down,
    /// First part of a dip: the queue drains.
    Dip,
    /// Second part of a dip: base delay and random loss are measured.
    DipTail,
    /// Sent at the rate of a limit, measured for loss and delay only.
    Steady,
}

/// What the receiver reported, checked and converted: seconds, and delays as offsets of [`BaseDelay`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) received: u32,
    pub(super) first_packet: u64,
    pub(super) last_packet: u64,
    pub(super) send_span_s: f64,
    pub(super) arrival_span_s: f64,
    pub(super) first_delay_s: f64,
    pub(super) last_delay_s: f64,
    pub(super) least_delay_s: f64,
    pub(super) last_arrival_us: u32,
}

/// One train, from its first packet to its last report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Train {
    pub(super) sequence: u64,
    pub(super) kind: Kind,
    /// Generation: trains from before a change of mode or of start-up step do not count after it.
    pub(super) generation: u32,
    /// Nominal rate, bytes/s, and the mean rate around which it is dithered.
    pub(super) rate: f64,
    pub(super) centre: f64,
    /// Dither amplitude relative to the centre.
    pub(super) amplitude: f64,
    /// Times of the first and of the last packet.
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) first_packet: u64,
    pub(super) last_packet: u64,
    pub(super) sent: u32,
    pub(super) bytes: u64,
    /// The sender was late by more than it may catch up: spans of this train say more about the host than about the path.
    pub(super) disturbed: bool,
    /// The sender ran out of data or credit in it.
    pub(super) limited: bool,
    pub(super) arrival: Option<Arrival>,
}

impl Train {
    pub(super) fn new(sequence: u64) -> Self {
        Self {
            sequence,
            kind: Kind::Steady,
            generation: 0,
            rate: 0.0,
            centre: 0.0,
            amplitude: 0.0,
            start_ns: 0,
            end_ns: 0,
            first_packet: 0,
            last_packet: 0,
            sent: 0,
            bytes: 0,
            disturbed: false,
            limited: false,
            arrival: None,
        }
    }

    /// Share of the train's packets that did not arrive; `None` if it was never reported.
    pub(super) fn loss(&self) -> Option<f64> {
        let arrival = self.arrival?;
        (self.sent > 0).then(|| 1.0 - f64::from(arrival.received) / f64::from(self.sent))
    }

    /// Mean size of its packets, bytes.
    pub(super) fn packet_bytes(&self) -> f64 {
        self.bytes as f64 / f64::from(self.sent.max(1))
    }
}

/// The trains whose fate is open, in a ring indexed by wire identity.
#[derive(Clone, Debug)]
pub(super) struct Trains {
    ring: Box<[Train]>,
    /// Sequence of the train that is being sent.
    current: u64,
    /// Sequence of the oldest train that is not final.
    oldest: u64,
    /// Newest train that was reported, and the latest arrival in it.
    newest_reported: Option<(u64, u32)>,
}

impl Trains {
    /// The ring is the only allocation; train 0 is open.
    pub(super) fn new() -> Self {
        let ring = (0..TRAIN_IDS).map(Train::new).collect();
        Self { ring, current: 0, oldest: 0, newest_reported: None }
    }

    fn slot(sequence: u64) -> usize {
        (sequence % TRAIN_IDS) as usize
    }

    /// The train that is being sent.
    pub(super) fn current(&mut self) -> &mut Train {
        &mut self.ring[Self::slot(self.current)]
    }

    /// Wire identity of the train that is being sent.
    pub(super) fn current_id(&self) -> u8 {
        Self::slot(self.current) as u8
    }

    /// Starts a train and returns it for its owner to describe. A train in which nothing was sent is used again.
    pub(super) fn start(&mut self) -> &mut Train {
        if self.current().sent > 0 {
            self.current += 1;
        }
        if self.current - self.oldest >= OPEN_TRAINS_MOST {
            self.oldest = self.current - OPEN_TRAINS_MOST + 1;
        }
        let sequence = self.current;
        let train = self.current();
        *train = Train::new(sequence);
        train
    }

    /// Counts a packet that was sent in the present train.
    pub(super) fn on_sent(&mut self, now_ns: u64, packet_number: u64, bytes: u32) {
        let train = self.current();
        if train.sent == 0 {
            train.start_ns = now_ns;
            train.first_packet = packet_number;
        }
        train.end_ns = now_ns;
        train.last_packet = packet_number;
        train.sent = train.sent.saturating_add(1);
        train.bytes = train.bytes.saturating_add(u64::from(bytes));
    }

    /// Takes a report in if it can be true of a train that is open, and its least delay into the base. Returns whether it was believed.
    pub(super) fn on_report(&mut self, report: &TrainReport, base: &mut BaseDelay) -> bool {
        let Some(sequence) = self.open_sequence(report.train) else { return false };
        let train = &self.ring[Self::slot(sequence)];
        let span_us = |from: u32, to: u32| to.wrapping_sub(from);
        let packets = train.first_packet..=train.last_packet;
        let sent_us = span_us(report.first_sent_us, report.last_sent_us);
        let arrived_us = span_us(report.first_arrival_us, report.last_arrival_us);
        let first = report.first_arrival_us.wrapping_sub(report.first_sent_us);
        let last = report.last_arrival_us.wrapping_sub(report.last_sent_us);
        let above_least = |delay: u32| span_us(report.least_one_way_us, delay) <= SPAN_MOST_US;
        let plausible = report.received > 0
            && report.received <= train.sent
            && packets.contains(&report.first_packet)
            && packets.contains(&report.last_packet)
            && report.first_packet <= report.last_packet
            && sent_us <= SPAN_MOST_US
            && arrived_us <= SPAN_MOST_US
            && above_least(first)
            && above_least(last);
        let newer = train.arrival.is_none_or(|known| report.received >= known.received);
        if !plausible || !newer {
            return false;
        }
        let arrival = Arrival {
            received: report.received,
            first_packet: report.first_packet,
            last_packet: report.last_packet,
            send_span_s: f64::from(sent_us) * 1e-6,
            arrival_span_s: f64::from(arrived_us) * 1e-6,
            first_delay_s: base.offset_s(first),
            last_delay_s: base.offset_s(last),
            least_delay_s: base.offset_s(report.least_one_way_us),
            last_arrival_us: report.last_arrival_us,
        };
        base.observe(arrival.least_delay_s);
        self.ring[Self::slot(sequence)].arrival = Some(arrival);
        if self.newest_reported.is_none_or(|(newest, _)| sequence >= newest) {
            self.newest_reported = Some((sequence, report.last_arrival_us));
        }
        true
    }

    /// The open train that has this wire identity.
    fn open_sequence(&self, id: u8) -> Option<u64> {
        let id = u64::from(id);
        if id >= TRAIN_IDS {
            return None;
        }
        let back = (self.current % TRAIN_IDS + TRAIN_IDS - id) % TRAIN_IDS;
        let sequence = self.current.checked_sub(back)?;
        (sequence >= self.oldest && self.ring[Self::slot(sequence)].sent > 0).then_some(sequence)
    }

    /// The next train that has become final, oldest first. Nothing more is sent in the present train if it `is_over`.
    pub(super) fn next_final(&mut self, is_over: bool) -> Option<Train> {
        let (newest, newest_arrival_us) = self.newest_reported?;
        if self.oldest >= self.current + u64::from(is_over) {
            return None;
        }
        let train = self.ring[Self::slot(self.oldest)];
        let done = match train.arrival {
            Some(arrival) => {
                let after_us = newest_arrival_us.wrapping_sub(arrival.last_arrival_us) as i32;
                arrival.received == train.sent
                    || newest >= train.sequence + 2
                    || (newest > train.sequence && after_us >= REORDERING_US as i32)
            }
            None => newest >= train.sequence + 2,
        };
        done.then(|| {
            self.oldest += 1;
            train
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(train: u8, first: u64, last: u64) -> TrainReport {
        TrainReport {
            train,
            received: (last - first + 1) as u32,
            first_packet: first,
            last_packet: last,
            first_sent_us: 100,
            last_sent_us: 200,
            first_arrival_us: 1_100,
            last_arrival_us: 1_300 + 2_000 * u32::from(train),
            least_one_way_us: 1_000,
        }
    }

    fn with_two_trains() -> (Trains, BaseDelay) {
        let mut trains = Trains::new();
        for packet in 0..10 {
            trains.on_sent(packet * 1_000, packet, 1_500);
        }
        trains.start();
        for packet in 10..20 {
            trains.on_sent(packet * 1_000, packet, 1_500);
        }
        (trains, BaseDelay::new(0))
    }

    #[test]
    fn a_train_is_final_when_complete_or_overtaken() {
        let (mut trains, mut base) = with_two_trains();
        assert!(trains.on_report(&report(0, 0, 8), &mut base));
        assert!(trains.next_final(false).is_none(), "one packet may still be under way");
        assert!(trains.on_report(&report(1, 10, 12), &mut base));
        let train = trains.next_final(false).expect("overtaken");
        assert!((train.loss().expect("reported") - 0.1).abs() < 1e-12);
        assert!(trains.on_report(&report(1, 10, 19), &mut base));
        assert!(trains.next_final(false).is_none(), "the train that is being sent is not final");
        assert_eq!(trains.next_final(true).expect("complete and over").loss(), Some(0.0));
        assert!(trains.next_final(true).is_none(), "only once");
        trains.start();
        trains.on_sent(30_000, 20, 1_500);
        assert!(trains.on_report(&report(2, 20, 20), &mut base));
        assert!(trains.next_final(false).is_none());
    }

    #[test]
    fn reports_that_cannot_be_true_are_refused() {
        let (mut trains, mut base) = with_two_trains();
        let good = report(0, 0, 8);
        for bad in [
            TrainReport { train: 255, ..good },
            TrainReport { train: 7, ..good },
            TrainReport { received: 0, ..good },
            TrainReport { received: 11, ..good },
            TrainReport { last_packet: 10, ..good },
            TrainReport { first_packet: 8, last_packet: 0, ..good },
            TrainReport { last_sent_us: 99, ..good },
            TrainReport { last_arrival_us: 1_000, ..good },
            TrainReport { least_one_way_us: 1_050, ..good },
        ] {
            assert!(!trains.on_report(&bad, &mut base), "{bad:?}");
        }
        assert!(trains.on_report(&good, &mut base));
        assert!(!trains.on_report(&report(0, 0, 5), &mut base), "an older report came late");
    }

    #[test]
    fn identities_come_round_without_confusion() {
        let (mut trains, mut base) = (Trains::new(), BaseDelay::new(0));
        for packet in 0..1_000 {
            trains.on_sent(0, packet, 1_500);
            trains.start();
        }
        // 1000 % 255 = 235 is being sent; 36 (train 801) is the oldest that may be open.
        assert_eq!(trains.current_id(), 235);
        assert!(!trains.on_report(&report(35, 800, 800), &mut base));
        assert!(trains.on_report(&report(36, 801, 801), &mut base));
    }
}
