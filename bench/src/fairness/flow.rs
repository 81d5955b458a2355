//! A flow under way, whichever kind it is.

use anyhow::{Result, bail};
use serde_json::Value;
use tradewind_netem::topology::Namespace;

use super::case::Party;
use super::tcp::TcpFlow;
use crate::process::{Background, tail};
use crate::testbed::{Server, Testbed, events, write_zeros};

/// Ports of the client's ends: of the flow that is there first, and of the newcomer.
pub(super) const CLIENT_PORTS: [(u16, u16); 2] = [(40_000, 44_999), (45_000, 49_999)];

/// A flow that sends until it is stopped.
pub(super) enum Flow {
    Tradewind(Background),
    Tcp(TcpFlow),
}

/// What a flow leaves.
#[derive(Default)]
pub(super) struct Left {
    /// Bytes that the receiving program got in each 100 ms, of TCP.
    pub(super) received: Option<Vec<u64>>,
    /// Events of the client, of ours.
    pub(super) progress: Vec<Value>,
}

impl Flow {
    /// Starts flow `index` (0: the first, 1: the newcomer). Ours sends `bytes` if nobody stops it.
    pub(super) fn start(testbed: &Testbed, party: Party, index: usize, bytes: u64) -> Result<Self> {
        let (first_port, last_port) = CLIENT_PORTS[index];
        match party {
            Party::Tcp(algorithm) => Ok(Self::Tcp(TcpFlow::start(&testbed.topology, algorithm, first_port)?)),
            Party::Tradewind(policy) => {
                set_client_ports(testbed, first_port, last_port)?;
                let source = testbed.path(&format!("flow-{index}.bin"));
                write_zeros(&source, bytes)?;
                let mut command = Server::tradewind(testbed);
                command.arg("send").arg(&source).arg(format!("local:flow-{index}.bin"));
                command.args(["--json", "--overwrite", "--policy", policy]);
                Ok(Self::Tradewind(Background::start(&mut command, &testbed.path(&format!("flow-{index}.log")))?))
            }
        }
    }

    /// Ends it. An error if it had ended on its own.
    pub(super) fn stop(self) -> Result<Left> {
        match self {
            Self::Tcp(flow) => Ok(Left { received: Some(flow.stop()?), ..Left::default() }),
            Self::Tradewind(mut process) => {
                let had_ended = process.has_ended()?;
                process.stop()?;
                let log = process.log_text();
                if had_ended {
                    bail!("tradewind send had ended before its time; its log ends:\n{}", tail(&log));
                }
                Ok(Left { progress: events(&log, "progress"), ..Left::default() })
            }
        }
    }
}

/// Sockets that the client's namespace opens from now on get ports within these: so the emulator can tell flows apart.
fn set_client_ports(testbed: &Testbed, first: u16, last: u16) -> Result<()> {
    let script = format!("echo '{first} {last}' > /proc/sys/net/ipv4/ip_local_port_range");
    let output = testbed.topology.command(Namespace::Client, "sh").args(["-euc", &script]).output()?;
    if !output.status.success() {
        bail!("cannot set the client's range of ports: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
