//! Loops over bare links, each end a process of its own in its namespace.

use std::net::{SocketAddr, SocketAddrV4};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tradewind_fabric::clock::now_ns;
use tradewind_netem::topology::{CLIENT_ADDRESS, END_INTERFACE, Namespace, SERVER_ADDRESS};
use tradewind_netio::udp::{UdpConfig, UdpLink};
use tradewind_netio::{Link, LinkLayer, Path};
use tradewind_wire::limits::{DATA_OVERHEAD_BYTES, VERSION, chunk_bytes_for_mtu};
use tradewind_xdp::{Steering, SteeringConfig, XdpLink, XdpLinkConfig};

use super::Turn;
use crate::environment::Ticks;
use crate::process::own_cpu_s;
use crate::testbed::Testbed;

const PORT: u16 = 33001;
/// The lane that all packets name.
const LANE: u64 = 0x6c6f_6f70;
/// Datagrams taken or sent at once, as the engine's worker does.
const BATCH: usize = 64;
/// The receiver ends when nothing has come for so long.
const QUIET_NS: u64 = 300_000_000;
/// And when nothing comes at all.
const START_DEADLINE_NS: u64 = 20_000_000_000;

/// One end of a loop; started by the benchmark, not by hand.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Which end.
    #[arg(value_enum)]
    end: End,
    /// By AF_XDP instead of the kernel's socket.
    #[arg(long)]
    xdp: bool,
    #[arg(long)]
    mtu: usize,
    /// How long to send.
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// MAC address of the other end; only to send by AF_XDP.
    #[arg(long, default_value = "")]
    mac: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum End {
    Send,
    Receive,
}

/// What an end prints when it has ended.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counted {
    packets: u64,
    bytes: u64,
    seconds: f64,
    cpu_s: f64,
}

/// Runs one end: prints "ready", then what it has counted, as JSON.
///
/// # Errors
/// When its link cannot be opened, or breaks.
pub fn run(arguments: &Arguments) -> Result<()> {
    let counted = if arguments.xdp {
        let steering = Steering::load(&SteeringConfig::new(END_INTERFACE, PORT))?;
        steering.add_lane(LANE, None, chunk_bytes_for_mtu(arguments.mtu, false) + DATA_OVERHEAD_BYTES)?;
        work(arguments, XdpLink::open(&steering, &XdpLinkConfig::new(0, 0))?)?
    } else {
        let local: SocketAddr = match arguments.end {
            End::Receive => (SERVER_ADDRESS, PORT).into(),
            End::Send => (CLIENT_ADDRESS, PORT).into(),
        };
        let (link, _) = UdpLink::bind(&UdpConfig { mtu_bytes: arguments.mtu, ..UdpConfig::new(local) })?;
        work(arguments, link)?
    };
    println!("{}", serde_json::to_string(&counted)?);
    Ok(())
}

fn work(arguments: &Arguments, link: impl Link) -> Result<Counted> {
    println!("ready");
    match arguments.end {
        End::Send => send(arguments, link),
        End::Receive => receive(link),
    }
}

fn receive(mut link: impl Link) -> Result<Counted> {
    let opened = now_ns();
    let (mut counted, mut first, mut last, mut cpu_first) = (Counted::default(), 0, 0, 0.0);
    loop {
        let now = now_ns();
        let Counted { packets, bytes, .. } = &mut counted;
        let count = link.receive(&mut now_ns, BATCH, &mut |_, datagram| {
            *packets += 1;
            *bytes += datagram.len() as u64;
        })?;
        if count > 0 {
            if first == 0 {
                (first, cpu_first) = (now, own_cpu_s());
            }
            last = now;
        } else if first == 0 && now > opened + START_DEADLINE_NS {
            bail!("nothing arrived");
        } else if first > 0 && now > last + QUIET_NS {
            break;
        } else {
            link.wait(Duration::from_millis(20))?;
        }
    }
    let chunks = counted.packets * DATA_OVERHEAD_BYTES as u64;
    Ok(Counted { bytes: counted.bytes - chunks, seconds: (last - first) as f64 / 1e9, cpu_s: own_cpu_s() - cpu_first, ..counted })
}

fn send(arguments: &Arguments, mut link: impl Link) -> Result<Counted> {
    let layer = if arguments.xdp {
        let own = std::fs::read_to_string(format!("/sys/class/net/{END_INTERFACE}/address"))?;
        Some(LinkLayer { local: mac(&own)?, remote: mac(&arguments.mac)?, vlan: None })
    } else {
        None
    };
    let end = |address, port| SocketAddr::V4(SocketAddrV4::new(address, port));
    let path = Path { local: end(CLIENT_ADDRESS, PORT), remote: end(SERVER_ADDRESS, PORT), link: layer };
    let mut pattern = vec![0x5a; chunk_bytes_for_mtu(arguments.mtu, false) + DATA_OVERHEAD_BYTES];
    pattern[0] = VERSION << 4 | 1;
    pattern[8..16].copy_from_slice(&LANE.to_be_bytes());
    let (started, before) = (Instant::now(), own_cpu_s());
    while started.elapsed().as_secs_f64() < arguments.seconds {
        for _ in 0..BATCH {
            link.transmit(&path, pattern.len(), |room| {
                room.copy_from_slice(&pattern);
                room.len()
            })?;
        }
        link.flush()?;
    }
    let sent = link.counters();
    Ok(Counted { packets: sent.sent, bytes: sent.sent_bytes, seconds: started.elapsed().as_secs_f64(), cpu_s: own_cpu_s() - before })
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().context("a MAC address")?;
    bytes.try_into().ok().context("a MAC address has 6 bytes")
}

/// An end in its namespace.
struct Process(Child);

impl Process {
    fn start(testbed: &Testbed, end: Namespace, arguments: &[&str]) -> Result<Self> {
        let mut command: Command = testbed.topology.command(end, testbed.programs.ours("tradewind-bench"));
        command.arg("loop").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(command.spawn().context("cannot start an end of a loop")?))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut ready = [0; 6];
        let stdout = self.0.stdout.as_mut().context("no output")?;
        std::io::Read::read_exact(stdout, &mut ready).context("an end of a loop did not start")
    }

    fn counted(&mut self) -> Result<Counted> {
        let mut text = String::new();
        std::io::Read::read_to_string(self.0.stdout.as_mut().context("no output")?, &mut text)?;
        ensure!(self.0.wait()?.success(), "an end of a loop failed");
        Ok(serde_json::from_str(text.trim_start_matches("ready\n"))?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, unless something failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends for so many seconds and counts what arrives.
pub(super) fn turn(testbed: &Testbed, mtu_bytes: u32, sends_xdp: bool, receives_xdp: bool, seconds: f64) -> Result<Turn> {
    let address = format!("/sys/class/net/{END_INTERFACE}/address");
    let mac = String::from_utf8(testbed.topology.command(Namespace::Server, "cat").arg(address).output()?.stdout)?;
    let (mtu, seconds, mac) = (mtu_bytes.to_string(), seconds.to_string(), mac.trim().to_owned());
    let with_xdp = |uses: bool, arguments: &[&str]| -> Vec<String> {
        arguments.iter().copied().chain(uses.then_some("--xdp")).map(str::to_owned).collect()
    };
    let started = |end, arguments: Vec<String>| {
        let mut process = Process::start(testbed, end, &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        process.wait_until_ready().map(|()| process)
    };
    let ticks = Ticks::now();
    let mut receiver = started(Namespace::Server, with_xdp(receives_xdp, &["receive", "--mtu", &mtu]))?;
    let sending = with_xdp(sends_xdp, &["send", "--mtu", &mtu, "--seconds", &seconds, "--mac", &mac]);
    let mut sender = started(Namespace::Client, sending)?;
    let (received, sent) = (receiver.counted()?, sender.counted()?);
    ensure!(received.seconds > 0.0, "the loop received too little to tell");
    Ok(Turn {
        seconds: received.seconds,
        bytes: received.bytes,
        packets: Some(received.packets),
        // Of what arrived: what is lost costs as well.
        cpu_s_sender: sent.cpu_s,
        cpu_s_receiver: received.cpu_s,
        busy_s: Ticks::now().busy_s_since(ticks),
        seconds_command: received.seconds,
        ..Turn::default()
    })
}
