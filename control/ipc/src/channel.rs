//! The socket: handshake, sending and receiving, blocking or on tokio.

use std::io::{ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::frame::{FrameDecoder, encode_frame};
use crate::message::{FromEngine, Hello, PROTOCOL_VERSION, Role, ToEngine};
use crate::{FRAME_BYTES_MAX, IpcError};

/// How long each end waits for the other's hello.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 8 * 1024;
const _: () = assert!(READ_BYTES <= FRAME_BYTES_MAX);

/// The Unix stream socket that the parent process left at file descriptor `fd` (the engine's `--control-fd`).
///
/// It is duplicated with `pidfd_getfd(2)` on the own process, which needs no unsafe code and no trust in the number: what is
/// not an open Unix stream socket is refused. The copy is close-on-exec. `fd` itself stays open until the process ends.
///
/// # Errors
/// [`IpcError::NotTheSocket`] says what the descriptor is instead.
pub fn inherited_stream(fd: RawFd) -> Result<StdUnixStream, IpcError> {
    let refuse = |reason: String| IpcError::NotTheSocket { fd, reason };
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|e| refuse(format!("pidfd_open: {e}")))?;
    let copy = pidfd_getfd(&own, fd, PidfdGetfdFlags::empty()).map_err(|e| refuse(format!("pidfd_getfd: {e}")))?;
    let family = sockopt::socket_domain(&copy).map_err(|e| refuse(format!("not a socket: {e}")))?;
    let kind = sockopt::socket_type(&copy).map_err(|e| refuse(format!("not a socket: {e}")))?;
    if family != AddressFamily::UNIX || kind != SocketType::STREAM {
        return Err(refuse("a socket, but not a Unix stream socket".to_owned()));
    }
    Ok(StdUnixStream::from(copy))
}

/// The sending half. Messages of several tasks may share it behind a channel; it is not meant to be shared itself.
#[derive(Debug)]
pub struct Sender<M> {
    socket: OwnedWriteHalf,
    message: PhantomData<fn(M)>,
}

impl<M: Serialize> Sender<M> {
    /// Sends one message. Not cancel-safe: a dropped call may leave half a frame on the socket.
    ///
    /// # Errors
    /// [`IpcError::Closed`] when the other process is gone; [`IpcError::TooLarge`], [`IpcError::Encode`] before anything is sent.
    pub async fn send(&mut self, message: &M) -> Result<(), IpcError> {
        let frame = encode_frame(message)?;
        self.socket.write_all(&frame).await.map_err(closed_or_io)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver<M> {
    socket: OwnedReadHalf,
    decoder: FrameDecoder,
    message: PhantomData<fn() -> M>,
}

impl<M: DeserializeOwned> Receiver<M> {
    /// The next message; `None` when the other process closed the socket between two messages. Cancel-safe: use it in `select!`.
    ///
    /// # Errors
    /// [`IpcError::Closed`] in the middle of a message, [`IpcError::Malformed`], [`IpcError::TooLarge`], [`IpcError::Io`]. The
    /// connection is unusable after any of them.
    pub async fn recv(&mut self) -> Result<Option<M>, IpcError> {
        receive(&mut self.socket, &mut self.decoder).await
    }
}

async fn receive<M: DeserializeOwned>(socket: &mut OwnedReadHalf, decoder: &mut FrameDecoder) -> Result<Option<M>, IpcError> {
    loop {
        if let Some(message) = decoder.next()? {
            return Ok(Some(message));
        }
        // Not sooner: several messages may have come at once, and to wipe it costs more than most of them.
        let mut bytes = zeroize::Zeroizing::new([0; READ_BYTES]);
        // `read` on the socket either takes bytes and returns at once or takes none, so nothing is lost at this await.
        match socket.read(&mut bytes[..]).await {
            Ok(0) => return end_of_stream(decoder),
            Ok(count) => decoder.extend(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return end_of_stream(decoder),
            Err(error) => return Err(IpcError::Io(error)),
        }
    }
}

fn end_of_stream<M>(decoder: &FrameDecoder) -> Result<Option<M>, IpcError> {
    if decoder.is_between_frames() { Ok(None) } else { Err(IpcError::Closed { inside_frame: true }) }
}

fn closed_or_io(error: std::io::Error) -> IpcError {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => IpcError::Closed { inside_frame: false },
        _ => IpcError::Io(error),
    }
}

/// The control process's side of the handshake: says hello, waits for the engine's.
///
/// # Errors
/// [`IpcError::HandshakeTimeout`], [`IpcError::VersionMismatch`], [`IpcError::WrongRole`] and what reading and writing can give.
pub async fn accept_engine(stream: UnixStream, software: &str) -> Result<(Sender<ToEngine>, Receiver<FromEngine>, Hello), IpcError> {
    handshake(stream, Role::Control, software).await
}

/// The engine's side of the handshake on tokio: says hello, waits for the control process's. `software` is name and release.
/// Takes what [`inherited_stream`] gives; must run inside a tokio runtime.
///
/// # Errors
/// As [`accept_engine`].
pub async fn connect_control(stream: StdUnixStream, software: &str) -> Result<(Sender<FromEngine>, Receiver<ToEngine>, Hello), IpcError> {
    stream.set_nonblocking(true)?;
    handshake(UnixStream::from_std(stream)?, Role::Engine, software).await
}

async fn handshake<Out, In>(stream: UnixStream, role: Role, software: &str) -> Result<(Sender<Out>, Receiver<In>, Hello), IpcError>
where
    Out: Serialize,
    In: DeserializeOwned,
{
    let (mut reader, mut writer) = stream.into_split();
    let mut decoder = FrameDecoder::new();
    let exchange = async {
        writer.write_all(&encode_frame(&own_hello(role, software))?).await.map_err(closed_or_io)?;
        receive::<Hello>(&mut reader, &mut decoder).await?.ok_or(IpcError::Closed { inside_frame: false })
    };
    let timeout = IpcError::HandshakeTimeout { seconds: HANDSHAKE_TIMEOUT.as_secs() };
    let theirs = tokio::time::timeout(HANDSHAKE_TIMEOUT, exchange).await.map_err(|_| timeout)??;
    check_hello(role, &theirs)?;
    let sender = Sender { socket: writer, message: PhantomData };
    Ok((sender, Receiver { socket: reader, decoder, message: PhantomData }, theirs))
}

fn own_hello(role: Role, software: &str) -> Hello {
    Hello { protocol: PROTOCOL_VERSION, role, software: software.to_owned() }
}

fn check_hello(own: Role, theirs: &Hello) -> Result<(), IpcError> {
    if theirs.protocol != PROTOCOL_VERSION {
        return Err(IpcError::VersionMismatch { ours: PROTOCOL_VERSION, theirs: theirs.protocol, software: theirs.software.clone() });
    }
    let expected = match own {
        Role::Control => Role::Engine,
        Role::Engine => Role::Control,
    };
    if theirs.role == expected { Ok(()) } else { Err(IpcError::WrongRole { expected, found: theirs.role }) }
}

/// A blocking end of the socket, for threads without a runtime. `Out` is sent, `In` received.
#[derive(Debug)]
pub struct SyncChannel<Out, In> {
    socket: StdUnixStream,
    decoder: FrameDecoder,
    message: PhantomData<fn(Out) -> In>,
}

/// The engine's side of the handshake, blocking.
///
/// # Errors
/// As [`accept_engine`].
pub fn connect_control_sync(stream: StdUnixStream, software: &str) -> Result<(SyncChannel<FromEngine, ToEngine>, Hello), IpcError> {
    let mut channel = SyncChannel { socket: stream, decoder: FrameDecoder::new(), message: PhantomData };
    channel.socket.set_nonblocking(false)?;
    channel.socket.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    channel.write(&own_hello(Role::Engine, software))?;
    let theirs: Hello = channel.read()?.ok_or(IpcError::Closed { inside_frame: false })?;
    check_hello(Role::Engine, &theirs)?;
    channel.socket.set_read_timeout(None)?;
    Ok((channel, theirs))
}

impl<Out: Serialize, In: DeserializeOwned> SyncChannel<Out, In> {
    /// Sends one message, waiting for room on the socket.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send(&mut self, message: &Out) -> Result<(), IpcError> {
        self.write(message)
    }

    /// Waits for the next message; `None` when the other process closed the socket between two messages.
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub fn recv(&mut self) -> Result<Option<In>, IpcError> {
        self.read()
    }

    fn write<M: Serialize>(&mut self, message: &M) -> Result<(), IpcError> {
        self.socket.write_all(&encode_frame(message)?).map_err(closed_or_io)
    }

    fn read<M: DeserializeOwned>(&mut self) -> Result<Option<M>, IpcError> {
        let mut bytes = zeroize::Zeroizing::new([0; READ_BYTES]);
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            match self.socket.read(&mut bytes[..]) {
                Ok(0) => return end_of_stream(&self.decoder),
                Ok(count) => self.decoder.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return end_of_stream(&self.decoder),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(IpcError::HandshakeTimeout { seconds: HANDSHAKE_TIMEOUT.as_secs() });
                }
                Err(error) => return Err(IpcError::Io(error)),
            }
        }
    }
}
