//! Ctrl-C and SIGTERM.

use tokio::signal::unix::{self, SignalKind};
use tradewind_api::exit;

use crate::failure::Failure;

/// A signal that asks the command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// 128 + the signal's number, the shell's convention.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => exit::INTERRUPTED,
            Self::Terminate => exit::TERMINATED,
        }
    }

    /// What the user is told at the end.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupted by Ctrl-C; what is not complete has not got its name",
            Self::Terminate => "ended by SIGTERM; what is not complete has not got its name",
        }
    }
}

/// Receives the signals from its making on; before, they end the process at once.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Interrupts {
    /// Takes over both signals.
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen =
            |kind| unix::signal(kind).map_err(|error| Failure::Local { what: "cannot listen for signals", detail: error.to_string() });
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next signal. May be dropped and called again without losing one.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.terminate.recv() => Signal::Terminate,
            else => std::future::pending().await,
        }
    }

    /// Runs `work` unless a signal comes first.
    pub(crate) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Signal> {
        tokio::select! {
            signal = self.next() => Err(signal),
            done = work => Ok(done),
        }
    }
}
