//! Many uploads to one server that share a socket and a thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use tradewind_fabric::clock::now_ns;
use tradewind_fabric::wake::Waker;
use tradewind_netio::udp::precise_timers;
use tradewind_netio::{LinkError, Meta};
use tradewind_wire::Header;

use crate::error::UploadError;
use crate::lane::{Lane, Step};
use crate::link::{SLEEP_MAX_NS, ServerLink};
use crate::progress::{Progress, UploadReport};
use crate::upload::{LaneOffer, Upload};

/// With several lanes, packets that are due within this time leave together: a wake-up and a system call then serve many lanes. A pacer makes up for
/// as much as 2 ms.
const GATHER_NS: u64 = 200_000;

/// With more lanes than this, each leaves its packets a few at a time, as late as its pacer makes up for: who handles a packet, here and at the receiver, then has
/// the state of its lane in the cache for several.
const CROWD: usize = 16;

/// Batches of datagrams taken before lanes take their steps: feedback that waits is feedback lost.
const RECEIVE_BATCHES_MAX: usize = 16;

type OnProgress = Box<dyn FnMut(&Progress) + Send>;
type OnEnd = Box<dyn FnOnce(Result<UploadReport, UploadError>) + Send>;

/// Runs uploads side by side on one socket and one thread, as [`Upload::run`] runs one; each has its reading thread. For a host with hundreds of
/// transfers to the same server: packets of all of them leave and arrive in the same batches.
///
/// Dropping it waits until all have ended.
pub struct Uploads {
    /// Closed to let the thread end.
    joining: Option<Sender<(u64, Member)>>,
    waker: Waker,
    /// Lanes that have a block to be sent.
    has_block: Sender<u64>,
    thread: Option<JoinHandle<()>>,
    endpoint: SocketAddr,
    chunk_bytes: u16,
    lanes: usize,
}

impl Uploads {
    /// Opens a socket for lanes to the same address and with the same chunks as this one. About so many `lanes` are expected: each gets its part of
    /// 512 MiB for blocks, and three blocks at least.
    ///
    /// # Errors
    /// When the offer cannot be used, or there is no socket or no thread.
    pub fn start(offer: &LaneOffer, lanes: usize) -> Result<Self, UploadError> {
        let (endpoint, chunk_bytes) = (offer.endpoint()?, offer.check()?);
        let link = ServerLink::open(endpoint, usize::from(chunk_bytes))?;
        let waker = link.waker();
        let (joining, joins) = unbounded();
        let (has_block, blocks) = unbounded();
        let thread = thread::Builder::new()
            .name("uploads".to_owned())
            .spawn(move || Driver { link, joins, blocks, lanes: BTreeMap::new(), timers: BinaryHeap::new() }.run())
            .map_err(|source| UploadError::Local { what: "cannot start the thread of the uploads", source: source.into() })?;
        Ok(Self { joining: Some(joining), waker, has_block, thread: Some(thread), endpoint, chunk_bytes, lanes })
    }

    /// Begins an upload. `on_progress` is called about five times a second, `on_end` once; both on the thread that sends for all, which must not
    /// be held up.
    ///
    /// # Errors
    /// When the offer cannot be used here, or the thread that sends has panicked; `on_end` is not called then, nor by a thread that panics later.
    pub fn add(
        &self,
        upload: Upload,
        on_progress: impl FnMut(&Progress) + Send + 'static,
        on_end: impl FnOnce(Result<UploadReport, UploadError>) + Send + 'static,
    ) -> Result<(), UploadError> {
        let id = upload.lane.lane_id;
        let (endpoint, chunk_bytes) = (upload.lane.endpoint()?, upload.lane.check()?);
        if (endpoint, chunk_bytes) != (self.endpoint, self.chunk_bytes) {
            return Err(UploadError::Offer(format!(
                "its lane is to {endpoint} with chunks of {chunk_bytes} bytes, those beside it are to {} with {}",
                self.endpoint, self.chunk_bytes
            )));
        }
        let (has_block, waker) = (self.has_block.clone(), self.waker.clone());
        let lane = upload.begin(self.lanes, move || {
            // Nobody listens only when all is over.
            let _ = has_block.send(id);
            waker.wake();
        })?;
        let member = Member { lane, timer_ns: u64::MAX, on_progress: Box::new(on_progress), on_end: Box::new(on_end) };
        if self.joining.as_ref().is_none_or(|thread| thread.send((id, member)).is_err()) {
            let source = "see the message above".into();
            return Err(UploadError::Local { what: "the thread of the uploads panicked", source });
        }
        self.waker.wake();
        Ok(())
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.joining = None;
        self.waker.wake();
        // The last to hold this may be a call of that thread's own.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            // One that panicked has printed why.
            let _ = thread.join();
        }
    }
}

/// A lane among others.
struct Member {
    lane: Lane,
    /// Its entry in the timers that counts; `u64::MAX`: none.
    timer_ns: u64,
    on_progress: OnProgress,
    on_end: OnEnd,
}

impl Member {
    /// The lane takes a step at this time, or earlier if it is to do so already.
    fn due(&mut self, id: u64, at: u64, timers: &mut Timers) {
        if at < self.timer_ns {
            self.timer_ns = at;
            timers.push(Reverse((at, id)));
        }
    }
}

/// When which lane takes its next step.
type Timers = BinaryHeap<Reverse<(u64, u64)>>;

/// The thread that sends for all.
struct Driver {
    link: ServerLink,
    joins: Receiver<(u64, Member)>,
    blocks: Receiver<u64>,
    lanes: BTreeMap<u64, Member>,
    timers: Timers,
}

impl Driver {
    fn run(mut self) {
        // A refusal only makes pacing coarser.
        let _ = precise_timers();
        let Err(broken) = self.serve() else { return };
        let failed = || Err(UploadError::Local { what: "the network link of all uploads failed", source: broken.to_string().into() });
        for Member { on_end, .. } in std::mem::take(&mut self.lanes).into_values() {
            on_end(failed());
        }
        for (_, Member { on_end, .. }) in &self.joins {
            on_end(failed());
        }
    }

    /// Until nobody can begin an upload any more and all have ended.
    fn serve(&mut self) -> Result<(), LinkError> {
        let mut touched = Vec::new();
        let mut looked_ns = 0;
        loop {
            let is_crowd = self.is_crowd();
            let Self { link, lanes, timers, .. } = self;
            let mut each = |meta: &Meta, datagram: &mut [u8]| {
                // What belongs to no lane here is late, or somebody else's.
                let Ok(Header { lane, .. }) = Header::parse(datagram) else { return };
                let Some(member) = lanes.get_mut(&lane.0) else { return };
                member.lane.receive(meta, datagram);
                let waits = is_crowd && !member.lane.has_news();
                let at = if waits { member.lane.late_timeout(meta.arrived_ns) } else { meta.arrived_ns };
                member.due(lane.0, at, timers);
            };
            for _ in 0..RECEIVE_BATCHES_MAX {
                if link.receive(&mut each)? == 0 {
                    break;
                }
            }
            touched.extend(self.blocks.try_iter());
            let is_last = self.take_joining(&mut touched);
            let now = now_ns();
            if now.saturating_sub(looked_ns) >= SLEEP_MAX_NS {
                looked_ns = now;
                touched.extend(self.lanes.iter().filter(|(_, member)| member.lane.is_looked_for(now)).map(|(id, _)| id));
            }
            for id in touched.drain(..) {
                if let Some(member) = self.lanes.get_mut(&id) {
                    member.due(id, now, &mut self.timers);
                }
            }
            let full = self.step_due(now)?;
            self.link.flush()?;
            if is_last && self.lanes.is_empty() {
                return Ok(());
            }
            self.sleep(full)?;
        }
    }

    /// Takes in new lanes; `true`: there will be none any more.
    fn take_joining(&mut self, touched: &mut Vec<u64>) -> bool {
        loop {
            match self.joins.try_recv() {
                Ok((id, member)) => {
                    if let Some(Member { on_end, .. }) = self.lanes.insert(id, member) {
                        on_end(Err(UploadError::Offer(format!("its lane {id} was given to another upload"))));
                    }
                    touched.push(id);
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn is_crowd(&self) -> bool {
        self.lanes.len() > CROWD
    }

    /// Lets all lanes whose time has come take a step; `true` when the link had no room for more.
    fn step_due(&mut self, now: u64) -> Result<bool, LinkError> {
        let mut was_full = false;
        let is_crowd = self.is_crowd();
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Some(member) = self.lanes.get_mut(&id).filter(|member| member.timer_ns == at) else { continue };
            member.timer_ns = u64::MAX;
            match member.lane.step(now, &mut self.link, &mut member.on_progress)? {
                Step::Over(result) => {
                    if let Some(Member { on_end, .. }) = self.lanes.remove(&id) {
                        on_end(*result);
                    }
                }
                Step::Goes { full } => {
                    // Later than now in any case: a lane that stays due must not keep this loop for itself.
                    let at = if is_crowd { member.lane.late_timeout(now) } else { member.lane.poll_timeout(now) };
                    member.due(id, at.max(now + 1), &mut self.timers);
                    if full && std::mem::replace(&mut was_full, true) {
                        // It was full again after the flush.
                        return Ok(true);
                    } else if full {
                        self.link.flush()?;
                    } else {
                        was_full = false;
                    }
                }
            }
        }
        // The last one may still wait for room, which a flush does not always make.
        Ok(was_full)
    }

    fn sleep(&mut self, full: bool) -> Result<(), LinkError> {
        let next = self.timers.peek().map_or(u64::MAX, |&Reverse((at, _))| at);
        let now = now_ns();
        let wake = if self.lanes.len() > 1 && next > now { next.max(now + GATHER_NS) } else { next };
        self.link.sleep(full, wake, SLEEP_MAX_NS)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use tradewind_proto::rate::Policy;

    use super::*;
    use crate::{Durable, Found, RateOptions, Sources};

    /// An upload of nothing, to whoever does not answer.
    fn upload(lane_id: u64, endpoint: SocketAddr, chunk_bytes: u32, cancel: &Arc<AtomicBool>, idle_timeout: Duration) -> Upload {
        let cipher = crate::Cipher::Aes128Gcm;
        let (endpoints, secret) = (vec![endpoint], [7; 32]);
        let rate = RateOptions {
            policy: Policy::Fair,
            target_bytes_per_s: None,
            minimum_bytes_per_s: None,
            lease_bytes_per_s: None,
            group: None,
            initial_round_trip: None,
        };
        Upload {
            lane: LaneOffer { lane_id, secret, endpoints, block_bytes: 1 << 20, chunk_bytes, credit_blocks: 8, cipher },
            sources: Sources::new(std::iter::empty(), Arc::new(Found::default())),
            durable: Durable::default(),
            on_problem: Box::new(|_| ()),
            rate,
            cancel: Arc::clone(cancel),
            idle_timeout,
        }
    }

    #[test]
    fn each_ends_by_itself_and_what_does_not_fit_is_refused() {
        let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
        let endpoint = mute.local_addr().unwrap();
        let (go_on, cancelled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let first = upload(1, endpoint, 1400, &go_on, Duration::from_millis(300));
        let uploads = Uploads::start(&first.lane, 2).unwrap();
        let (ended, ends) = mpsc::channel();
        let add = |upload: Upload| {
            let (id, ended) = (upload.lane.lane_id, ended.clone());
            uploads.add(upload, |_| (), move |result| drop(ended.send((id, result))))
        };
        add(first).unwrap();
        add(upload(2, endpoint, 1400, &cancelled, Duration::from_secs(60))).unwrap();
        assert!(matches!(add(upload(3, endpoint, 1300, &go_on, Duration::from_secs(60))), Err(UploadError::Offer(_))));
        assert!(matches!(add(upload(4, ([127, 0, 0, 1], 1).into(), 1400, &go_on, Duration::from_secs(60))), Err(UploadError::Offer(_))));
        let (id, result) = ends.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(id == 1 && matches!(result, Err(UploadError::NoAnswer { .. })), "{id}: {result:?}");
        assert!(ends.try_recv().is_err(), "the other one goes on");
        cancelled.store(true, Ordering::Relaxed);
        let (id, result) = ends.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(id == 2 && matches!(result, Err(UploadError::Cancelled)), "{id}: {result:?}");
        // Waits for its thread, which has nothing left.
        drop(uploads);
    }
}
