//! Why AF_XDP cannot be used, in words for the operator.

use std::io;

/// Why steering or an AF_XDP socket could not be set up. Each message names what to do; the engine prints it when it
/// falls back to kernel UDP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XdpError {
    /// There is no interface of this name in the caller's network namespace.
    #[error("there is no network interface `{0}` in this network namespace; `ip link` lists those that exist")]
    NoInterface(String),
    /// A setting is out of range.
    #[error("{0}")]
    Config(String),
    /// A privilege is missing.
    #[error("{what} needs {capabilities}: run as root, or `setcap {capabilities}+ep` on the program")]
    Privilege {
        /// What was tried.
        what: &'static str,
        /// The capabilities, as `setcap` writes them.
        capabilities: &'static str,
    },
    /// The kernel cannot do this.
    #[error("this kernel cannot {what} (it needs Linux {needed} or newer, built with {option})")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// First version that can.
        needed: &'static str,
        /// The build option.
        option: &'static str,
    },
    /// The steering program was not accepted.
    #[error("cannot load the steering program: {0}. It needs Linux 5.9 or newer; please report this with the kernel's version")]
    Load(String),
    /// The steering program was loaded, but the interface did not take it.
    #[error(
        "cannot attach the steering program to `{interface}` ({tried}). If another XDP program is attached, remove it with \
         `ip link set dev {interface} xdp off`; driver mode may need an MTU of at most one page (or a driver with multi-buffer XDP)"
    )]
    Attach {
        /// The interface.
        interface: String,
        /// Each mode with what the kernel said.
        tried: String,
    },
    /// The queue is in use.
    #[error(
        "queue {queue} of `{interface}` still belongs to another AF_XDP socket after {waited_ms} ms; stop the program that holds it \
         (`ss --xdp` lists them)"
    )]
    QueueBusy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// How long we tried, milliseconds.
        waited_ms: u128,
    },
    /// UMEM could not be pinned.
    #[error(
        "cannot pin {bytes} bytes of packet memory: {source}. Give the process CAP_IPC_LOCK or raise its memory lock limit \
         (`ulimit -l`, LimitMEMLOCK= of systemd)"
    )]
    Memory {
        /// Size of the UMEM, bytes.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else the operating system refused.
    #[error("{what} on `{interface}`: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map of the steering program refused an update.
    #[error("cannot update the steering map `{map}`: {reason}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
}

impl XdpError {
    /// Whether trying again later may succeed with nothing else changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::QueueBusy { .. })
    }
}
