//! `peer-s2n-quic receive ADDRESS CERTIFICATE KEY SECONDS MTU [--xdp INTERFACE]` takes one stream, counts its bytes, for so many seconds at most, and
//! prints `BYTES SECONDS`, from the first byte to the last;
//! `peer-s2n-quic send ADDRESS CERTIFICATE FILE MTU [bbr] [--xdp INTERFACE]` sends a file in one stream and waits until it is acknowledged.
//! With `--xdp` an end uses AF_XDP on queue 0 of its interface instead of the kernel's socket, and the receiver prints what was dropped there.
//!
//! Windows are wide and socket buffers as large as the system allows, so that they limit little; congestion control is CUBIC, as s2n-quic has it, or BBR.

mod xdp;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use s2n_quic::client::Connect;
use s2n_quic::provider::congestion_controller::Bbr;
use s2n_quic::provider::io::tokio::Provider as Io;
use s2n_quic::provider::limits::Limits;
use s2n_quic::{Client, Server};
use tokio::io::AsyncReadExt as _;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WINDOW_BYTES: u64 = 64 << 20;
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
const CHUNK_BYTES: usize = 1 << 20;
const USAGE: &str = "peer-s2n-quic receive ADDRESS CERTIFICATE KEY SECONDS MTU [--xdp INTERFACE], or\n\
                     peer-s2n-quic send ADDRESS CERTIFICATE FILE MTU [bbr] [--xdp INTERFACE]";

/// What comes after the words that each end needs.
#[derive(Clone, Copy, Default)]
struct Options<'a> {
    bbr: bool,
    /// Interface.
    xdp: Option<&'a str>,
}

impl<'a> Options<'a> {
    fn parse(mut words: &[&'a str]) -> Result<Self, Failure> {
        let mut options = Self::default();
        loop {
            words = match words {
                [] => return Ok(options),
                ["bbr", rest @ ..] => {
                    options.bbr = true;
                    rest
                }
                ["--xdp", interface, rest @ ..] => {
                    options.xdp = Some(interface);
                    rest
                }
                _ => return Err(USAGE.into()),
            };
        }
    }
}

fn io(address: SocketAddr, mtu: &str) -> Result<Io, Failure> {
    Ok(Io::builder()
        .with_max_mtu(mtu.parse()?)?
        .with_receive_address(address)?
        .with_send_buffer_size(SOCKET_BUFFER_BYTES)?
        .with_recv_buffer_size(SOCKET_BUFFER_BYTES)?
        .build()?)
}

fn limits() -> Result<Limits, Failure> {
    Ok(Limits::new()
        .with_data_window(WINDOW_BYTES)?
        .with_unidirectional_data_window(WINDOW_BYTES)?
        .with_max_send_buffer_size(WINDOW_BYTES as u32)?)
}

async fn receive(
    address: SocketAddr,
    certificate: &Path,
    key: &Path,
    longest: Duration,
    mtu: &str,
    options: Options<'_>,
) -> Result<(), Failure> {
    let builder = Server::builder().with_tls((certificate, key))?.with_limits(limits()?)?;
    let (mut server, steering) = match options.xdp {
        Some(interface) => {
            let (io, steering) = xdp::receiver(interface, address, mtu)?;
            (builder.with_io(io)?.start()?, Some(steering))
        }
        None => (builder.with_io(io(address, mtu)?)?.start()?, None),
    };
    println!("ready");
    let mut connection = server.accept().await.ok_or("no connection came")?;
    let mut stream = connection.accept_receive_stream().await?.ok_or("no stream came")?;
    let (mut bytes, mut started, mut last) = (0, None, Instant::now());
    loop {
        let left = started.map_or(longest, |started: Instant| longest.saturating_sub(started.elapsed()));
        // Too late, broken, or the end: what has arrived counts.
        let Ok(Ok(Some(chunk))) = tokio::time::timeout(left, stream.receive()).await else { break };
        bytes += chunk.len();
        last = Instant::now();
        started.get_or_insert(last);
    }
    if let Some(steering) = steering.as_ref() {
        println!("{}", steering.told()?);
    }
    println!("{bytes} {}", (last - started.unwrap_or(last)).as_secs_f64());
    // So that the last acknowledgement leaves.
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

/// Starts a client: each choice makes its builder another type.
macro_rules! started {
    ($builder:expr, $bbr:expr) => {{
        let builder = $builder;
        if $bbr { builder.with_congestion_controller(Bbr::default())?.start()? } else { builder.start()? }
    }};
}

async fn send(address: SocketAddr, certificate: &Path, file: &Path, mtu: &str, options: Options<'_>) -> Result<(), Failure> {
    let builder = Client::builder().with_tls(certificate)?.with_limits(limits()?)?;
    let (client, _steering) = match options.xdp {
        Some(interface) => {
            let (io, steering) = xdp::sender(interface, mtu)?;
            (started!(builder.with_io(io)?, options.bbr), Some(steering))
        }
        None => (started!(builder.with_io(io(([0, 0, 0, 0], 0).into(), mtu)?)?, options.bbr), None),
    };
    let mut connection = client.connect(Connect::new(address).with_server_name("localhost")).await?;
    let mut stream = connection.open_send_stream().await?;
    let mut file = tokio::fs::File::open(file).await?;
    file.set_max_buf_size(CHUNK_BYTES);
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        if file.read_buf(&mut chunk).await? == 0 {
            break;
        }
        stream.send(chunk.into()).await?;
    }
    stream.finish()?;
    stream.close().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["receive", address, certificate, key, seconds, mtu, ref rest @ ..] => {
            let longest = Duration::from_secs(seconds.parse()?);
            receive(address.parse()?, certificate.as_ref(), key.as_ref(), longest, mtu, Options::parse(rest)?).await
        }
        ["send", address, certificate, file, mtu, ref rest @ ..] => {
            send(address.parse()?, certificate.as_ref(), file.as_ref(), mtu, Options::parse(rest)?).await
        }
        _ => Err(USAGE.into()),
    }
}
