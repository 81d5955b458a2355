//! One bulk TCP flow of the kernel's, from the client's namespace to the server's: the other party.
//!
//! Both ends are threads of this process that enter the namespaces, so that nothing but the kernel's TCP is between the figures and us.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use tradewind_netem::flows::SERIES_STEP_MS;
use tradewind_netem::topology::{CLIENT_ADDRESS, Namespace, SERVER_ADDRESS, Topology};

/// Port of the receiver.
const PORT: u16 = 5001;
/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// How soon a thread notices that it is to stop.
const PATIENCE: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 256 << 10;

/// A flow under way; dropping it ends it.
pub(super) struct TcpFlow {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<()>>>,
    receiver: Option<JoinHandle<Result<Vec<u64>>>>,
}

impl TcpFlow {
    /// Starts sending without end. The client end takes `client_port`; the kernel must have `congestion_control`.
    pub(super) fn start(topology: &Topology, congestion_control: &'static str, client_port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, server) = (namespace_file(topology, Namespace::Client), namespace_file(topology, Namespace::Server));
        let listener = in_namespace(server, || Ok(TcpListener::bind((SERVER_ADDRESS, PORT))?))?;
        let receiver = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || receive(&listener, &stop))
        };
        // From here on, Drop ends the receiver.
        let mut flow = Self { stop, sender: None, receiver: Some(receiver) };
        let stream = in_namespace(client, move || connect(congestion_control, client_port))?;
        let stop = Arc::clone(&flow.stop);
        flow.sender = Some(std::thread::spawn(move || send(stream, &stop)));
        Ok(flow)
    }

    /// Ends the flow: bytes that the receiving program got in each step of 100 ms, from the first byte on.
    pub(super) fn stop(mut self) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            join(sender).context("the TCP sender")?;
        }
        let receiver = self.receiver.take().context("the TCP receiver was stopped before")?;
        join(receiver).context("the TCP receiver")
    }
}

impl Drop for TcpFlow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // What went wrong was told by `stop`, or nobody asks any more.
        let _ = self.sender.take().map(join);
        let _ = self.receiver.take().map(join);
    }
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("its thread panicked"))
}

fn namespace_file(topology: &Topology, namespace: Namespace) -> String {
    format!("/run/netns/{}", topology.name(namespace))
}

/// Makes a socket in a namespace; it stays there. A thread of its own enters it, so that no other thread of ours does.
fn in_namespace<T: Send + 'static>(file: String, make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    join(std::thread::spawn(move || {
        let namespace = std::fs::File::open(&file).with_context(|| format!("cannot open {file}"))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {file}; it needs root (CAP_SYS_ADMIN)"))?;
        make()
    }))
}

fn connect(congestion_control: &str, client_port: u16) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket
        .set_tcp_congestion(congestion_control.as_bytes())
        .with_context(|| format!("the kernel has no TCP {congestion_control}; `modprobe tcp_{congestion_control}` may load it"))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((CLIENT_ADDRESS, client_port)).into())?;
    socket.connect_timeout(&SocketAddr::from((SERVER_ADDRESS, PORT)).into(), CONNECT_DEADLINE).context("the TCP flow did not connect")?;
    // At the end whatever is in the buffers is thrown away: nobody waits for it, and the next flow may have the port at once.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket.into())
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let bytes = vec![0x5a; BUFFER_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&bytes) {
            Ok(_) => {}
            Err(error) if is_timeout(error.kind()) => {}
            Err(error) => return Err(error).context("it was cut off"),
        }
    }
    Ok(())
}

fn receive(listener: &TcpListener, stop: &AtomicBool) -> Result<Vec<u64>> {
    let Some(mut stream) = accept(listener, stop)? else { return Ok(Vec::new()) };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut steps: Vec<u64> = Vec::new();
    let mut started: Option<Instant> = None;
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let elapsed = started.get_or_insert_with(Instant::now).elapsed();
                let step = (elapsed.as_millis() / u128::from(SERIES_STEP_MS)) as usize;
                if steps.len() <= step {
                    steps.resize(step + 1, 0);
                }
                steps[step] += count as u64;
            }
            Err(error) if is_timeout(error.kind()) => {}
            // The sender's end, see `connect`.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(steps)
}

fn accept(listener: &TcpListener, stop: &AtomicBool) -> Result<Option<TcpStream>> {
    listener.set_nonblocking(true)?;
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) && started.elapsed() < CONNECT_DEADLINE {
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Congestion controls of the kernel, as `net.ipv4.tcp_available_congestion_control` lists them.
pub(super) fn available() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap_or_default().trim().to_owned()
}

/// Whether the kernel has (or loads, when asked for it) a congestion control.
pub(super) fn has(congestion_control: &str) -> bool {
    let asked = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| socket.set_tcp_congestion(congestion_control.as_bytes()));
    asked.is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// What was received in a third of a second.
    fn steps_on_loopback() -> Vec<u64> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let address = listener.local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let receiver = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || receive(&listener, &stop)
        });
        let stream = TcpStream::connect(address).expect("connects");
        let sender = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || send(stream, &stop)
        });
        std::thread::sleep(Duration::from_millis(350));
        stop.store(true, Ordering::Relaxed);
        join(sender).expect("sends");
        join(receiver).expect("receives")
    }

    #[test]
    fn a_flow_on_loopback_is_counted() {
        // A machine that stands still for a moment may do so at the wrong one.
        let is_counted = (0..4).any(|_| {
            let steps = steps_on_loopback();
            println!("{steps:?}");
            (2..=40).contains(&steps.len()) && steps.iter().sum::<u64>() > 1_000_000
        });
        assert!(is_counted, "none of 4 times");
    }

    #[test]
    fn every_kernel_has_reno_and_none_has_nonsense() {
        assert!(has("reno") && !has("nonsense"), "{}", available());
    }
}
