//! Links, pool and workers: what the engine is made of, and who gets which core.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tradewind_fabric::wake::Waker;
use tradewind_fabric::{BlockPool, affinity};
use tradewind_ipc::{XdpMode as IpcXdpMode, XdpStatus};
use tradewind_netio::LinkError;
use tradewind_netio::udp::{UdpConfig, UdpLink, device_mtu, precise_timers};
use tradewind_proto::block::BlockWriter;
use tradewind_staging::{Keep, Ring, Staging, StagingConfig};
use tradewind_wire::limits::chunk_bytes_for_mtu;
use tradewind_xdp::{AttachMode, Steering, SteeringConfig, XdpLink, XdpLinkConfig, XdpMode};

use crate::link::EngineLink;
use crate::options::{Options, StagingMode, XdpChoice};
use crate::shared::{Command, Mailbox};
use crate::statistics::WorkerStatistics;
use crate::worker::Worker;

/// MTU assumed when no interface is named.
const MTU_DEFAULT: usize = 1500;

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A link cannot be opened.
    #[error("cannot open the data port {listen}: {source}; is another engine running, or the port taken?")]
    Listen {
        /// The address.
        listen: std::net::SocketAddr,
        /// What failed.
        source: LinkError,
    },
    /// No memory for blocks.
    #[error(transparent)]
    Pool(#[from] tradewind_fabric::PoolError),
    /// The pool is too small to be useful.
    #[error("--pool-bytes {bytes} holds {blocks} blocks of {block_bytes} bytes; give it at least {needed}")]
    PoolTooSmall {
        /// What was given.
        bytes: u64,
        /// How many blocks that is.
        blocks: usize,
        /// Payload of a block.
        block_bytes: usize,
        /// What is needed.
        needed: u64,
    },
    /// The system refused something else.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Fewest blocks with which a single upload of 16 MiB parts can go on: one part being filled, one on its way.
const POOL_BLOCKS_MIN: usize = 34;

/// Memory for blocks that is prepared ahead, of at most a quarter of the pool: what one lane may have on its way with the usual credit.
const TOUCH_AHEAD_BYTES: usize = 256 << 20;
/// How often that is looked at when nothing has been used.
const TOUCH_WAIT: Duration = Duration::from_secs(10);

/// Everything that was opened with privileges, before threads exist.
pub struct Opened {
    links: Vec<(EngineLink, Waker)>,
    steering: Option<Steering>,
    /// The block pool.
    pub pool: BlockPool,
    /// For blocks that wait on disks, a ring for each, and where that is.
    staging: Option<(Vec<Ring>, StagingConfig, StagingMode)>,
    /// Whether AF_XDP is used, and why not.
    pub xdp: XdpStatus,
    /// Payload bytes of a DATA packet on this engine's path.
    pub chunk_bytes: usize,
    /// Where packets arrive.
    pub listen: std::net::SocketAddr,
}

/// Opens pool, sockets and, where it can be had, AF_XDP. Needs its privileges only here.
///
/// # Errors
/// [`StartError`]; a missing AF_XDP is none, it is reported in [`Opened::xdp`].
pub fn open(options: &Options) -> Result<Opened, StartError> {
    let slot = BlockWriter::image_bytes_max(options.block_bytes);
    let slots = usize::try_from(options.pool_bytes / slot as u64).unwrap_or(usize::MAX);
    if slots < POOL_BLOCKS_MIN {
        return Err(StartError::PoolTooSmall {
            bytes: options.pool_bytes,
            blocks: slots,
            block_bytes: options.block_bytes,
            needed: (POOL_BLOCKS_MIN * slot) as u64,
        });
    }
    let pool = BlockPool::new(slots, slot)?;
    let wakers: Vec<Waker> = (0..options.workers)
        .map(|_| Waker::new())
        .collect::<Result<_, _>>()
        .map_err(|source| StartError::Os { what: "cannot make an eventfd for a worker", source })?;
    let (steering, mut xdp_links, xdp) = match open_xdp(options) {
        Ok(opened) => opened,
        Err(reason) => {
            tracing::warn!("AF_XDP is not used: {reason}");
            let status = XdpStatus { mode: IpcXdpMode::None, reason: Some(reason), zero_copy: false };
            (None, (0..options.workers).map(|_| Vec::new()).collect(), status)
        }
    };
    let mtu_bytes = match &options.interface {
        Some(interface) => device_mtu(interface).unwrap_or(MTU_DEFAULT),
        None => MTU_DEFAULT,
    };
    let mut socket = Some(open_socket(options, mtu_bytes)?);
    let links = wakers
        .into_iter()
        .enumerate()
        .map(|(worker, waker)| {
            // The kernel's socket belongs to the first worker; it only sees what steering passes, or everything without AF_XDP.
            let links = xdp_links.get_mut(worker).map(std::mem::take).unwrap_or_default();
            (EngineLink::new(links, socket.take(), waker.clone()), waker)
        })
        .collect();
    let chunk_bytes = chunk_bytes_for_mtu(mtu_bytes, options.listen.is_ipv6());
    let rings: Result<Vec<Ring>, _> = options.staging_dir.iter().map(|_| Ring::new(&pool)).collect();
    let staging = match rings {
        Ok(rings) if rings.is_empty() => None,
        Ok(rings) => {
            let config = StagingConfig { directories: options.staging_dir.clone(), bytes_max: options.staging_bytes };
            Some((rings, config, options.staging_mode))
        }
        Err(error) => {
            tracing::error!("blocks wait in memory only: {error}");
            None
        }
    };
    Ok(Opened { links, steering, pool, staging, xdp, chunk_bytes, listen: options.listen })
}

fn open_socket(options: &Options, mtu_bytes: usize) -> Result<UdpLink, StartError> {
    let config = UdpConfig { mtu_bytes, ..UdpConfig::new(options.listen) };
    let (link, warnings) = UdpLink::bind(&config).map_err(|source| StartError::Listen { listen: options.listen, source })?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(link)
}

type XdpOpened = (Option<Steering>, Vec<Vec<XdpLink>>, XdpStatus);

/// Opens AF_XDP sockets on every queue of the interface, shared out among the workers; `Err` says why there are none.
fn open_xdp(options: &Options) -> Result<XdpOpened, String> {
    let mode = match options.xdp {
        XdpChoice::Off => return Err("switched off by --xdp off".to_owned()),
        XdpChoice::Auto => AttachMode::Auto,
        XdpChoice::Driver => AttachMode::Driver,
        XdpChoice::Generic => AttachMode::Generic,
    };
    let Some(interface) = &options.interface else {
        return Err("no interface is named; set data.interface in the configuration (or --interface)".to_owned());
    };
    let config = SteeringConfig { mode, ..SteeringConfig::new(interface, options.listen.port()) };
    let steering = Steering::load(&config).map_err(|error| error.to_string())?;
    let queues = tradewind_xdp::probe::interface(interface).map_err(|error| error.to_string())?.receive_queues.max(1);
    let mut links: Vec<Vec<XdpLink>> = (0..options.workers).map(|_| Vec::new()).collect();
    let mut zero_copy = true;
    for queue in 0..queues {
        let worker = queue % options.workers;
        let mut config = XdpLinkConfig::new(worker, queue);
        config.ipv6 = options.listen.is_ipv6();
        let link = XdpLink::open(&steering, &config).map_err(|error| error.to_string())?;
        zero_copy &= link.socket().zero_copy();
        for note in link.socket().notes() {
            tracing::info!("{interface} queue {queue}: {note}");
        }
        links[worker as usize].push(link);
    }
    let mode = match steering.mode() {
        XdpMode::Driver => IpcXdpMode::Driver,
        XdpMode::Generic => IpcXdpMode::Generic,
    };
    tracing::info!("AF_XDP on {interface}: {mode} mode, {queues} queue(s), zero-copy {zero_copy}");
    Ok((Some(steering), links, XdpStatus { mode, reason: None, zero_copy }))
}

impl Opened {
    /// Whether lanes can be added to the steering program with the privileges that are left.
    ///
    /// # Errors
    /// The text says what to do.
    pub fn check_steering(&self) -> Result<(), String> {
        const NO_LANE: u64 = u64::MAX;
        let Some(steering) = &self.steering else { return Ok(()) };
        steering.add_lane(NO_LANE, None, 0).and_then(|()| steering.remove_lane(NO_LANE)).map_err(|error| {
            format!("without capabilities this kernel does not let lanes be added ({error}); before Linux 5.19 set kernel.unprivileged_bpf_disabled=0, or data.xdp = \"off\"")
        })
    }
}

/// The running workers.
pub struct Workers {
    /// One mailbox a worker.
    pub mailboxes: Vec<Mailbox>,
    /// One set of figures a worker.
    pub statistics: Vec<Arc<WorkerStatistics>>,
    /// The steering program, if AF_XDP is used.
    pub steering: Option<Arc<Steering>>,
    /// Where blocks wait while a store is slower than the network.
    pub staging: Option<Staging>,
    /// What outlives the engine, and whether lanes of this one add to it.
    pub kept: Option<(Keep, StagingMode)>,
    threads: Vec<JoinHandle<Result<(), LinkError>>>,
}

/// Starts the workers, each pinned to a core. Call it after privileges were dropped: threads inherit.
///
/// # Errors
/// When the system has no thread left.
pub fn start(opened: Opened) -> Result<(Workers, BlockPool), StartError> {
    let steering = opened.steering.map(Arc::new);
    let place_bytes = opened.pool.slot_bytes();
    let (mut staging, mut kept) = (None, None);
    if let Some((rings, config, mode)) = opened.staging {
        staging = start_staging(rings, &config);
        kept = open_kept(&config, place_bytes, mode, staging.as_ref()).map(|keep| (keep, mode));
    }
    let mut workers = Workers { mailboxes: Vec::new(), statistics: Vec::new(), steering, staging, kept, threads: Vec::new() };
    for (index, (link, waker)) in opened.links.into_iter().enumerate() {
        let mailbox = Mailbox::new(waker);
        let statistics = Arc::new(WorkerStatistics::default());
        let worker = Worker::new(link, opened.pool.clone(), mailbox.clone(), Arc::clone(&statistics));
        let figures = Arc::clone(&statistics);
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                // The last cores are the least busy with interrupts, which Linux prefers to put on the first.
                let core = affinity::core_count().saturating_sub(1 + index % affinity::core_count());
                if !affinity::pin_current_thread(core) {
                    tracing::warn!("worker {index} could not be pinned to core {core}");
                }
                // A refusal only makes sleeps coarser.
                let _ = precise_timers();
                let result = worker.run(|link: &EngineLink| figures.publish_links(link.counters_by_link()));
                if let Err(error) = &result {
                    tracing::error!("worker {index} stopped: {error}");
                }
                result
            })
            .map_err(|source| StartError::Os { what: "cannot start a worker thread", source })?;
        workers.mailboxes.push(mailbox);
        workers.statistics.push(statistics);
        workers.threads.push(thread);
    }
    touch_ahead(opened.pool.clone())?;
    Ok((workers, opened.pool))
}

/// Gives blocks their memory before packets come for them, on a thread that ends with the process.
fn touch_ahead(pool: BlockPool) -> Result<(), StartError> {
    let ahead = (TOUCH_AHEAD_BYTES / pool.slot_bytes()).min(pool.capacity() / 4);
    let touch = move || {
        loop {
            match pool.touch_ahead(ahead, TOUCH_WAIT) {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    tracing::warn!("blocks get their memory with their first packets, which makes the first transfers slower: {error}");
                    return;
                }
            }
        }
    };
    let spawned = thread::Builder::new().name("pool-memory".to_owned()).spawn(touch);
    spawned.map(drop).map_err(|source| StartError::Os { what: "cannot start the thread that prepares memory for blocks", source })
}

/// Disks that are full or broken are no reason to serve nobody.
fn start_staging(rings: Vec<Ring>, config: &StagingConfig) -> Option<Staging> {
    match Staging::start(rings, config) {
        Ok(staging) => {
            for disk in staging.disks() {
                tracing::info!("blocks may wait in {}, at most {} MiB", disk.directory.display(), config.bytes_max >> 20);
            }
            Some(staging)
        }
        Err(error) => {
            tracing::error!("blocks wait in memory only until tradewindd is restarted: {error}");
            None
        }
    }
}

/// Where there is nothing from another time, only a lane that is to add to it needs it.
fn open_kept(config: &StagingConfig, place_bytes: usize, mode: StagingMode, staging: Option<&Staging>) -> Option<Keep> {
    let opened = Keep::open(config, place_bytes, mode == StagingMode::Always, staging);
    opened.inspect_err(|error| tracing::error!("blocks do not outlive the engine until tradewindd is restarted: {error}")).ok().flatten()
}

impl Workers {
    /// Whether a worker has ended, which it only does when told or when its link broke.
    #[must_use]
    pub fn any_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Lets every lane say goodbye and waits for the workers.
    pub fn stop(&mut self) {
        for mailbox in &self.mailboxes {
            mailbox.send(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked has printed why.
            let _ = thread.join();
        }
    }
}
