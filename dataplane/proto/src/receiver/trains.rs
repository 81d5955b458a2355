//! Arrival records of the sender's measuring trains.

use tradewind_wire::data::TRAIN_NONE;
use tradewind_wire::feedback::Train;

/// Trains remembered: several feedbacks' worth, so that each is reported many times.
const TRAINS: usize = 16;

/// The last trains seen, oldest first, and how often each was reported since its last packet came.
pub(super) struct Trains {
    ring: [(Train, u8); TRAINS],
    count: usize,
}

impl Trains {
    pub(super) fn new() -> Self {
        Self { ring: [(Train::default(), 0); TRAINS], count: 0 }
    }

    /// Records a packet of a train.
    pub(super) fn on_packet(&mut self, train: u8, number: u64, sent_us: u32, arrival_us: u32) {
        if train == TRAIN_NONE {
            return;
        }
        let one_way = arrival_us.wrapping_sub(sent_us);
        let number = number as u32;
        if let Some((known, reports)) = self.ring[..self.count].iter_mut().rev().find(|(known, _)| known.train == train) {
            *reports = 0;
            known.received += 1;
            if number.wrapping_sub(known.last_packet) < u32::MAX / 2 {
                (known.last_packet, known.last_sent_us, known.last_arrival_us) = (number, sent_us, arrival_us);
            } else if known.first_packet.wrapping_sub(number) < u32::MAX / 2 {
                (known.first_packet, known.first_sent_us, known.first_arrival_us) = (number, sent_us, arrival_us);
            }
            // Clock offsets make one-way values arbitrary, so compare their wrapping difference.
            if known.least_one_way_us.wrapping_sub(one_way) < u32::MAX / 2 {
                known.least_one_way_us = one_way;
            }
            return;
        }
        if self.count == TRAINS {
            self.ring.rotate_left(1);
            self.count -= 1;
        }
        let begun = Train {
            train,
            received: 1,
            first_packet: number,
            last_packet: number,
            first_sent_us: sent_us,
            last_sent_us: sent_us,
            first_arrival_us: arrival_us,
            last_arrival_us: arrival_us,
            least_one_way_us: one_way,
        };
        self.ring[self.count] = (begun, 0);
        self.count += 1;
    }

    /// Offers the newest `most` trains that were reported fewer than `times` since their last packet came, oldest first, to `write`.
    pub(super) fn report(&mut self, most: usize, times: u8, mut write: impl FnMut(&Train) -> bool) {
        let due = self.ring[..self.count].iter().filter(|(_, reports)| *reports < times).count();
        let skip = due.saturating_sub(most);
        for (train, reports) in self.ring[..self.count].iter_mut().filter(|(_, reports)| *reports < times).skip(skip) {
            if write(train) {
                *reports += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(trains: &mut Trains) -> Vec<Train> {
        let mut out = Vec::new();
        trains.report(8, 3, |train| {
            out.push(*train);
            true
        });
        out
    }

    #[test]
    fn a_train_keeps_its_ends_and_its_least_delay_under_reordering() {
        let mut trains = Trains::new();
        let offset = u32::MAX - 50;
        for (number, sent, arrival) in [(11, 20, 130), (10, 10, 140), (12, 30, 150)] {
            trains.on_packet(7, number, sent, offset.wrapping_add(arrival));
        }
        trains.on_packet(TRAIN_NONE, 13, 0, 0);
        let train = reported(&mut trains)[0];
        assert_eq!((train.received, train.first_packet, train.last_packet), (3, 10, 12));
        assert_eq!((train.first_sent_us, train.last_sent_us), (10, 30));
        assert_eq!(train.least_one_way_us, offset.wrapping_add(110));
    }

    #[test]
    fn only_the_newest_trains_are_kept() {
        let mut trains = Trains::new();
        for train in 0..100 {
            trains.on_packet(train, u64::from(train), 0, 0);
        }
        let names = |trains: &[Train]| trains.iter().map(|train| train.train).collect::<Vec<_>>();
        for _ in 0..3 {
            assert_eq!(names(&reported(&mut trains)), (92..100).collect::<Vec<_>>());
        }
        trains.on_packet(99, 100, 0, 0);
        assert_eq!(names(&reported(&mut trains)).last(), Some(&99), "news of an old one");
    }
}
