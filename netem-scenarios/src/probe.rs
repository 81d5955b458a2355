//! The two halves of a probe: a paced sender and a receiver with kernel timestamps. Each runs as a process of its own in an end's namespace
//! and writes what it saw to a file; what is lost, late or doubled is worked out by [`crate::verify`], not here.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::sys;

/// Marks probe datagrams; others are not counted.
const MAGIC: u64 = 0x7472_6164_6577_6e64;
/// Magic and sequence number.
const HEADER_BYTES: usize = 16;
/// Shortest sleep of the sender; what falls due meanwhile goes out as one batch.
const SEND_TICK_NS: u64 = 200_000;

/// What to send.
#[derive(Debug, Clone, clap::Args)]
pub struct SendOptions {
    /// Where to.
    #[arg(long)]
    pub to: SocketAddr,
    /// Packets per second, evenly spaced (in batches above 5,000).
    #[arg(long)]
    pub packets_per_second: f64,
    /// How many packets.
    #[arg(long)]
    pub count: u64,
    /// Never send two packets closer together than this, in microseconds, even when late. 0: late packets leave as one batch.
    #[arg(long, default_value_t = 0)]
    pub gap_us_min: u64,
    /// Spin between packets and send each alone: exact spacing, at the price of a core.
    #[arg(long)]
    pub spin: bool,
    /// Payload of each datagram in bytes, at least 16.
    #[arg(long, value_parser = clap::value_parser!(u16).range(16..=9_000))]
    pub payload_bytes: u16,
    /// Send times go here.
    #[arg(long)]
    pub record: PathBuf,
}

/// Where to receive.
#[derive(Debug, Clone, clap::Args)]
pub struct ReceiveOptions {
    /// Local address.
    #[arg(long)]
    pub bind: SocketAddr,
    /// Sequence numbers and arrival times go here.
    #[arg(long)]
    pub record: PathBuf,
}

fn realtime_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

fn write_numbers(path: &Path, numbers: impl Iterator<Item = u64>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for number in numbers {
        file.write_all(&number.to_le_bytes())?;
    }
    file.flush()
}

/// Reads a record: 64-bit numbers, little-endian.
///
/// # Errors
/// What reading the file gave.
pub(crate) fn read_numbers(path: &Path) -> io::Result<Vec<u64>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunks of eight bytes"))).collect())
}

/// Sends probe packets; the record has one send time (CLOCK_REALTIME, nanoseconds) per sequence number, taken just before the system call.
///
/// # Errors
/// Socket and file errors.
pub fn send(options: &SendOptions) -> io::Result<()> {
    sys::set_fine_timers()?;
    let local = if options.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local)?;
    socket.connect(options.to)?;
    let payload_bytes = usize::from(options.payload_bytes).max(HEADER_BYTES);
    let mut buffers = vec![0u8; payload_bytes * sys::BATCH_FRAMES];
    for buffer in buffers.chunks_exact_mut(payload_bytes) {
        buffer[..8].copy_from_slice(&MAGIC.to_be_bytes());
    }
    let mut sent_at = Vec::with_capacity(options.count as usize);
    let start_ns = sys::monotonic_ns() + 1_000_000;
    let batch_frames = if options.gap_us_min > 0 || options.spin { 1 } else { sys::BATCH_FRAMES };
    let mut not_before_ns = 0;
    let due_ns = |sequence: u64| start_ns + (sequence as f64 * 1e9 / options.packets_per_second) as u64;
    while (sent_at.len() as u64) < options.count {
        let first = sent_at.len() as u64;
        let now_ns = sys::monotonic_ns();
        if due_ns(first) <= now_ns && not_before_ns > now_ns {
            sys::sleep_until_monotonic_ns(not_before_ns);
            continue;
        }
        if due_ns(first) > now_ns && options.spin {
            std::hint::spin_loop();
            continue;
        }
        if due_ns(first) > now_ns {
            // Sleep for the next packet, or for a batch of them.
            sys::sleep_until_monotonic_ns(due_ns(first).max((now_ns + SEND_TICK_NS).min(due_ns(first + 1))));
            continue;
        }
        let mut count = 0;
        while count < batch_frames && first + (count as u64) < options.count && due_ns(first + count as u64) <= now_ns {
            let sequence = first + count as u64;
            buffers[count * payload_bytes + 8..][..8].copy_from_slice(&sequence.to_be_bytes());
            count += 1;
        }
        let datagrams: Vec<&[u8]> = buffers.chunks_exact(payload_bytes).take(count).collect();
        let at = realtime_ns();
        not_before_ns = now_ns + options.gap_us_min * 1_000;
        match sys::send_batch(&socket, &datagrams) {
            Ok(taken) => sent_at.extend(std::iter::repeat_n(at, taken)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_micros(100)),
            // An ICMP answer to an earlier packet (nobody listens there) says nothing about this one.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(e),
        }
    }
    write_numbers(&options.record, sent_at.into_iter())
}

/// Receives until standard input ends, then writes the record: (sequence number, arrival) for each packet, in order of arrival; arrival is
/// the kernel's time stamp (CLOCK_REALTIME, nanoseconds). Prints `ready` when it listens.
///
/// # Errors
/// Socket and file errors.
pub fn receive(options: &ReceiveOptions) -> io::Result<()> {
    let socket = UdpSocket::bind(options.bind)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut receiver = sys::TimestampedReceiver::new(socket)?;
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    std::thread::spawn(move || {
        // End of file and an error mean the same: nobody waits for us any more.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::Relaxed);
    });
    println!("ready");
    let mut arrivals: Vec<u64> = Vec::with_capacity(1 << 16);
    loop {
        let last_round = ended.load(Ordering::Relaxed);
        let got = receiver.receive(|bytes, at| {
            let (Some(magic), Some(sequence)) = (bytes.get(..8), bytes.get(8..HEADER_BYTES)) else { return };
            if magic == MAGIC.to_be_bytes() {
                arrivals.push(u64::from_be_bytes(sequence.try_into().expect("the slice has eight bytes")));
                arrivals.push(at);
            }
        })?;
        if last_round && got == 0 {
            break;
        }
    }
    write_numbers(&options.record, arrivals.into_iter())
}
