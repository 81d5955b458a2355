//! Who may hold how much of the block pool: every block that a sender may still open is counted, so the pool never runs dry.
//!
//! A lane begins with a small part of what is free and gets more as it uses what it has, so lanes that do nothing hold little. When lanes are many, the
//! windows of those that hold more than their fair part shrink. A sender cannot be told that it may open fewer blocks than it was told before: what it
//! gives up is free only once the store has the blocks. Whoever comes meanwhile waits for that.

use std::sync::atomic::Ordering;

use crate::shared::LaneShared;

/// A new lane gets this part of what would be its fair part.
const FIRST_PART: u64 = 8;
/// And at most so many blocks: what it has been given and does not use is lost to others until it ends.
const FIRST_MAX: u64 = 64;
/// This part of the pool is not given to lanes that grow: whoever comes next finds it.
const RESERVE_PART: u64 = 8;

/// What a lane has of the pool, blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// With fewer it could stop for good.
    pub(crate) min: u64,
    /// It never needs more.
    pub(crate) max: u64,
    /// What it may have open or at the store.
    pub(crate) window: u64,
    /// What its sender has been told that it may open, less what the store has.
    pub(crate) outstanding: u64,
    /// Half a window has become durable since the window was set last.
    pub(crate) is_used: bool,
}

impl Claim {
    /// Of one that keeps what it has.
    pub(crate) const fn fixed(blocks: u64) -> Self {
        Self { min: blocks, max: blocks, window: blocks, outstanding: blocks, is_used: false }
    }

    /// What it may take without asking again.
    fn promised(&self) -> u64 {
        self.window.max(self.outstanding)
    }
}

/// What becomes of a lane that is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It gets so many blocks.
    Now(u64),
    /// Others are to give some up first.
    Later,
    /// All that there is is needed by others.
    None,
}

/// Blocks that nobody may take.
pub(crate) fn free(capacity: u64, claims: &[Claim]) -> u64 {
    capacity.saturating_sub(claims.iter().map(Claim::promised).sum())
}

/// Room for a lane that needs at least `min` blocks and at most `max`.
pub(crate) fn room(capacity: u64, claims: &[Claim], min: u64, max: u64) -> Room {
    let free = free(capacity, claims);
    if free >= min {
        let first = capacity / (claims.len() as u64 + 1) / FIRST_PART;
        return Room::Now(first.min(FIRST_MAX).min(max).min(free).max(min));
    }
    let needed: u64 = claims.iter().map(|claim| claim.min).sum();
    if needed.saturating_add(min) <= capacity { Room::Later } else { Room::None }
}

/// New windows for lanes of which `waiting` more are to come: a fair part at most, and twice what they have if they use that.
pub(crate) fn share(capacity: u64, claims: &mut [Claim], waiting: usize) {
    let mut free = free(capacity, claims).saturating_sub(capacity / RESERVE_PART);
    let lanes = (claims.len() + waiting).max(1) as u64;
    let fair = (capacity - capacity / RESERVE_PART) / lanes;
    for claim in claims {
        let most = fair.clamp(claim.min, claim.max);
        if claim.window < claim.min {
            // It needs more than it was thought to.
            let more = (claim.min - claim.window).min(free);
            claim.window += more;
            free -= more;
        } else if claim.window > most {
            claim.window = most;
        } else if claim.is_used {
            let more = claim.window.min(most - claim.window).min(free);
            claim.window += more;
            free -= more;
        }
    }
}

/// What is remembered of a lane's part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    /// Least and most; none of a lane that keeps what it has.
    bounds: Option<(u64, u64)>,
    /// Blocks that were durable when the window was set last.
    durable_then: u32,
    /// The window before it shrank, until the worker has certainly seen the new one.
    shrank_from: u64,
}

impl Holding {
    /// Of a lane whose window grows and shrinks.
    pub(crate) const fn elastic(min: u64, max: u64) -> Self {
        Self { bounds: Some((min, if max < min { min } else { max })), durable_then: 0, shrank_from: 0 }
    }

    /// Of one that keeps what it begins with.
    pub(crate) const fn fixed() -> Self {
        Self { bounds: None, durable_then: 0, shrank_from: 0 }
    }

    /// What it may ever have.
    pub(crate) fn most(&self, blocks: u64) -> u64 {
        self.bounds.map_or(blocks, |(_, max)| max.max(blocks))
    }

    fn claim(&self, shared: &LaneShared) -> Claim {
        let window = shared.window_blocks.load(Ordering::Relaxed);
        let Some((min, max)) = self.bounds else { return Claim::fixed(window.into()) };
        // In this order: what becomes durable in between makes the sum too large, never too small.
        let durable = shared.blocks_durable.load(Ordering::Acquire);
        let outstanding = u64::from(shared.blocks_granted.load(Ordering::Acquire).saturating_sub(durable));
        let min = min.max(u64::from(shared.blocks_needed.load(Ordering::Relaxed)) + 1).min(max);
        let is_used = u64::from(durable.saturating_sub(self.durable_then)) * 2 >= window.into();
        Claim { min, max, window: window.into(), outstanding: outstanding.max(self.shrank_from), is_used }
    }
}

/// What all lanes have now.
pub(crate) fn claims<'a>(lanes: impl Iterator<Item = (&'a mut Holding, &'a LaneShared)>) -> Vec<Claim> {
    lanes.map(|(holding, shared)| holding.claim(shared)).collect()
}

/// Sets the windows of all lanes; to be called now and then, and seldom enough that workers have seen the last ones ([`share`]).
pub(crate) fn share_out<'a>(capacity: u64, lanes: impl Iterator<Item = (&'a mut Holding, &'a LaneShared)>, waiting: usize) {
    let mut lanes: Vec<_> = lanes.collect();
    lanes.iter_mut().for_each(|(holding, _)| holding.shrank_from = 0);
    let before: Vec<Claim> = lanes.iter().map(|(holding, shared)| holding.claim(shared)).collect();
    let mut after = before.clone();
    share(capacity, &mut after, waiting);
    for (((holding, shared), before), after) in lanes.into_iter().zip(before).zip(after) {
        if after.window != before.window {
            holding.shrank_from = if after.window < before.window { before.window } else { 0 };
            holding.durable_then = shared.blocks_durable.load(Ordering::Relaxed);
            shared.window_blocks.store(u32::try_from(after.window).unwrap_or(u32::MAX), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 960;

    fn new(blocks: u64) -> Claim {
        Claim { min: 8, max: 256, window: blocks, outstanding: blocks, is_used: false }
    }

    fn open(claims: &mut Vec<Claim>) -> Room {
        let room = room(CAPACITY, claims, 8, 256);
        if let Room::Now(blocks) = room {
            claims.push(new(blocks));
        }
        room
    }

    /// Everybody uses what they may: blocks become durable and are opened again, up to the window.
    fn use_all(claims: &mut [Claim]) {
        for claim in claims {
            (claim.outstanding, claim.is_used) = (claim.window, true);
        }
    }

    #[test]
    fn a_lane_alone_soon_has_all_it_can_use() {
        let mut claims = Vec::new();
        assert_eq!(open(&mut claims), Room::Now(64));
        share(CAPACITY, &mut claims, 0);
        assert_eq!(claims[0].window, 64, "it has used nothing yet");
        let windows = std::iter::repeat_with(|| {
            use_all(&mut claims);
            share(CAPACITY, &mut claims, 0);
            claims[0].window
        });
        assert_eq!(windows.take(3).collect::<Vec<_>>(), [128, 256, 256]);
    }

    #[test]
    fn lanes_that_do_nothing_leave_room_for_many_more() {
        let mut claims = Vec::new();
        while let Room::Now(_) = open(&mut claims) {
            share(CAPACITY, &mut claims, 0);
        }
        assert!(claims.len() >= 85, "{} lanes", claims.len());
        assert!(free(CAPACITY, &claims) < 8);
    }

    #[test]
    fn lanes_in_use_make_room_up_to_what_each_needs_at_least() {
        let mut claims = Vec::new();
        let mut turns = 0;
        while claims.len() < 120 {
            match open(&mut claims) {
                Room::Now(_) => {}
                Room::Later => {
                    turns += 1;
                    share(CAPACITY, &mut claims, 1);
                    use_all(&mut claims);
                }
                Room::None => panic!("{} lanes and no room", claims.len()),
            }
            assert!(claims.iter().map(Claim::promised).sum::<u64>() <= CAPACITY);
            assert!(turns < 200, "{} lanes, and nobody gives way", claims.len());
        }
        assert_eq!(open(&mut claims), Room::None, "120 times 8 is all there is");
    }

    #[test]
    fn what_a_sender_has_been_told_counts_until_the_store_has_it() {
        let mut claims = vec![new(480), new(472)];
        claims.iter_mut().for_each(|claim| claim.max = 480);
        share(CAPACITY, &mut claims, 10);
        assert!(claims.iter().all(|claim| claim.window == 70), "{claims:?}");
        assert_eq!(room(CAPACITY, &claims, 8, 256), Room::Now(8), "what was free before");
        claims.push(new(8));
        assert_eq!(room(CAPACITY, &claims, 8, 256), Room::Later, "they may still open what they were told");
        claims[0].outstanding = 100;
        assert_eq!(room(CAPACITY, &claims, 8, 256), Room::Now(30));
    }

    #[test]
    fn a_window_that_shrank_counts_until_the_worker_has_seen_it() {
        let shared = LaneShared::default();
        let set = |window, granted, durable| {
            shared.window_blocks.store(window, Ordering::Relaxed);
            shared.blocks_granted.store(granted, Ordering::Relaxed);
            shared.blocks_durable.store(durable, Ordering::Relaxed);
        };
        let mut holding = Holding::elastic(8, 256);
        set(200, 300, 250);
        share_out(CAPACITY, std::iter::once((&mut holding, &shared)), 9);
        assert_eq!(shared.window_blocks.load(Ordering::Relaxed), 84);
        assert_eq!(holding.claim(&shared).promised(), 200, "the worker may have granted as much meanwhile");
        share_out(CAPACITY, std::iter::once((&mut holding, &shared)), 9);
        assert_eq!(holding.claim(&shared).promised(), 84);
        shared.blocks_needed.store(99, Ordering::Relaxed);
        share_out(CAPACITY, std::iter::once((&mut holding, &shared)), 9);
        assert_eq!(shared.window_blocks.load(Ordering::Relaxed), 100, "a part of 99 blocks may touch one more");
        let mut fixed = Holding::fixed();
        share_out(CAPACITY, std::iter::once((&mut fixed, &shared)), 99);
        assert_eq!((shared.window_blocks.load(Ordering::Relaxed), fixed.most(7)), (100, 7));
    }

    #[test]
    fn a_lane_whose_objects_need_more_gets_that_first() {
        let mut claims = vec![Claim { min: 100, max: 256, ..new(60) }, Claim::fixed(400)];
        share(CAPACITY, &mut claims, 0);
        assert_eq!((claims[0].window, claims[1].window), (100, 400));
    }

    #[test]
    fn what_is_promised_never_exceeds_the_pool_whatever_happens() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z ^ (z >> 27)) % below
        };
        let mut claims: Vec<Claim> = Vec::new();
        for _ in 0..20_000 {
            match random(4) {
                0 => drop(open(&mut claims)),
                1 if !claims.is_empty() => drop(claims.swap_remove(random(claims.len() as u64) as usize)),
                2 => claims.iter_mut().for_each(|claim| {
                    // The store takes some blocks; the sender is told of as many as its window allows.
                    let left = claim.outstanding - random(claim.outstanding + 1);
                    claim.outstanding = left.max(claim.window);
                    claim.is_used = random(2) == 0;
                }),
                _ => share(CAPACITY, &mut claims, random(3) as usize),
            }
            assert!(claims.iter().map(Claim::promised).sum::<u64>() <= CAPACITY, "{claims:?}");
        }
    }
}
