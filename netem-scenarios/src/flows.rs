//! Who used the bottleneck, and when: an account per flow and per tenth of a second, and a delay of its own for a flow, so that
//! flows of different round-trip times can share one bottleneck.
//!
//! A flow is everything whose client end has a UDP or TCP port within a range. The emulator's user gives each flow its range, for
//! example by the client namespace's `net.ipv4.ip_local_port_range` at the time the flow opens its socket.

use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::link::Way;
use crate::scenario::DELAY_MS_MAX;

/// Width of a step of every series, in milliseconds.
pub const SERIES_STEP_MS: u64 = 100;
/// Steps after which a series ends (an hour): what comes later is in the totals only.
const SERIES_STEPS_MAX: usize = 36_000;

/// Which packets make a flow, and how much longer its path is than that of the others.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowSpec {
    /// Its name in the account.
    pub name: String,
    /// UDP or TCP ports of its client end.
    pub client_ports: RangeInclusive<u16>,
    /// Added to the delay of each direction, behind the bottleneck, in milliseconds.
    pub extra_delay_ms: f64,
}

impl FlowSpec {
    pub(crate) fn extra_delay_ns(&self) -> u64 {
        (self.extra_delay_ms * 1e6) as u64
    }
}

impl std::fmt::Display for FlowSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}-{}:{}", self.name, self.client_ports.start(), self.client_ports.end(), self.extra_delay_ms)
    }
}

impl FromStr for FlowSpec {
    type Err = String;

    /// `NAME:FIRST_PORT-LAST_PORT` or `NAME:FIRST_PORT-LAST_PORT:EXTRA_DELAY_MS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not NAME:FIRST_PORT-LAST_PORT[:EXTRA_DELAY_MS], such as second:45000-49999:45");
        let mut parts = text.split(':');
        let (Some(name), Some(ports), extra, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let (first, last) = ports.split_once('-').ok_or_else(wrong)?;
        let (first, last): (u16, u16) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        let extra_delay_ms: f64 = extra.map_or(Ok(0.0), str::parse).map_err(|_| wrong())?;
        if name.is_empty() || first > last || !(0.0..=DELAY_MS_MAX).contains(&extra_delay_ms) {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), client_ports: first..=last, extra_delay_ms })
    }
}

/// One direction of one flow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlowDirection {
    /// Packets that came to the bottleneck.
    pub received: u64,
    /// Their bytes, as Ethernet frames without FCS.
    pub received_bytes: u64,
    /// Packets that found the bottleneck's queue full.
    pub queue_drops: u64,
    /// Packets lost behind the bottleneck, at random or in an outage.
    pub lost: u64,
    /// Bytes of frames that arrive at the far end in each step of [`SERIES_STEP_MS`], from the link's start on.
    pub delivered_bytes: Vec<u64>,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FlowStats {
    /// Its name.
    pub name: String,
    /// Client → server.
    pub forward: FlowDirection,
    /// Server → client.
    pub reverse: FlowDirection,
}

/// What the emulator says about flows, if it was told of any.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FlowAccount {
    /// Width of a step of the series, in milliseconds.
    pub step_ms: u64,
    /// The flows, in the order given.
    pub flows: Vec<FlowStats>,
    /// Mean number of bytes that packets found in the forward bottleneck's queue on arrival in each step; 0 where none arrived.
    pub forward_backlog_bytes: Vec<u64>,
}

/// What happened to a packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    QueueDrop,
    Lost,
    /// Arrives so many nanoseconds after the link's start.
    Delivered(u64),
}

/// One direction's flows while the link runs.
pub(crate) struct FlowMeter {
    specs: Vec<FlowSpec>,
    way: Way,
    directions: Vec<FlowDirection>,
    /// Sum and number of backlogs found, by step.
    backlog: Vec<(u64, u64)>,
}

impl FlowMeter {
    pub(crate) fn new(specs: &[FlowSpec], way: Way) -> Self {
        Self { specs: specs.to_vec(), way, directions: vec![FlowDirection::default(); specs.len()], backlog: Vec::new() }
    }

    /// Most that a flow adds to the delay, in nanoseconds.
    pub(crate) fn extra_delay_ns_max(&self) -> u64 {
        self.specs.iter().map(FlowSpec::extra_delay_ns).max().unwrap_or(0)
    }

    /// The flow of an Ethernet frame and what is added to its delay.
    pub(crate) fn classify(&self, frame: &[u8]) -> Option<(usize, u64)> {
        if self.specs.is_empty() {
            return None;
        }
        let port = client_port(frame, self.way)?;
        let index = self.specs.iter().position(|spec| spec.client_ports.contains(&port))?;
        Some((index, self.specs[index].extra_delay_ns()))
    }

    /// Counts a packet of a flow.
    pub(crate) fn record(&mut self, flow: usize, wire_bytes: u32, fate: Fate) {
        let direction = &mut self.directions[flow];
        direction.received += 1;
        direction.received_bytes += u64::from(wire_bytes);
        match fate {
            Fate::QueueDrop => direction.queue_drops += 1,
            Fate::Lost => direction.lost += 1,
            Fate::Delivered(since_start_ns) => {
                if let Some(step) = step_mut(&mut direction.delivered_bytes, since_start_ns) {
                    *step += u64::from(wire_bytes);
                }
            }
        }
    }

    /// Notes the queue that a packet found.
    pub(crate) fn record_backlog(&mut self, since_start_ns: u64, bytes: u64) {
        if self.specs.is_empty() {
            return;
        }
        if let Some((sum, count)) = step_mut(&mut self.backlog, since_start_ns) {
            *sum += bytes;
            *count += 1;
        }
    }

    /// The account of both directions' meters; `None` if no flows were asked for.
    pub(crate) fn account(forward: &Self, reverse: &Self) -> Option<FlowAccount> {
        if forward.specs.is_empty() {
            return None;
        }
        let directions = forward.directions.iter().zip(&reverse.directions);
        let flows = forward.specs.iter().zip(directions).map(|(spec, (forward, reverse))| FlowStats {
            name: spec.name.clone(),
            forward: forward.clone(),
            reverse: reverse.clone(),
        });
        Some(FlowAccount {
            step_ms: SERIES_STEP_MS,
            flows: flows.collect(),
            forward_backlog_bytes: forward.backlog.iter().map(|&(sum, count)| sum / count.max(1)).collect(),
        })
    }
}

fn step_mut<T: Clone + Default>(series: &mut Vec<T>, since_start_ns: u64) -> Option<&mut T> {
    let step = (since_start_ns / (SERIES_STEP_MS * 1_000_000)) as usize;
    if step >= SERIES_STEPS_MAX {
        return None;
    }
    if series.len() <= step {
        series.resize(step + 1, T::default());
    }
    series.get_mut(step)
}

/// UDP or TCP port of the client end of an Ethernet frame without VLAN tag. `None` for everything else, fragments and IPv6 extension headers too.
fn client_port(frame: &[u8], way: Way) -> Option<u16> {
    // IANA: 6 is TCP, 17 is UDP; both start with source and destination port.
    let (protocol, header_at) = transport_header(frame)?;
    let at = header_at + client_port_offset(way);
    if matches!(protocol, 6 | 17) { Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])) } else { None }
}

/// Where the client's port lies in a UDP or TCP header: the source forward, the destination on the way back.
pub(crate) const fn client_port_offset(way: Way) -> usize {
    match way {
        Way::Forward => 0,
        Way::Reverse => 2,
    }
}

/// Protocol of an Ethernet frame without VLAN tag, and where its header begins. `None` for what is not IP, and for later fragments.
pub(crate) fn transport_header(frame: &[u8]) -> Option<(u8, usize)> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    match word(12)? {
        // RFC 791: header length in words, 13 bits of fragment offset, protocol. Only a first fragment has ports.
        0x0800 if word(20)? & 0x1fff == 0 => Some((*frame.get(23)?, 14 + usize::from(*frame.get(14)? & 0x0f) * 4)),
        0x86dd => Some((*frame.get(20)?, 54)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: u8, source: u16, destination: u16) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x45;
        frame[23] = protocol;
        frame[34..36].copy_from_slice(&source.to_be_bytes());
        frame[36..38].copy_from_slice(&destination.to_be_bytes());
        frame
    }

    #[test]
    fn the_client_end_is_the_source_forward_and_the_destination_back() {
        for protocol in [6, 17] {
            assert_eq!(client_port(&frame(protocol, 40_001, 33_001), Way::Forward), Some(40_001));
            assert_eq!(client_port(&frame(protocol, 33_001, 40_001), Way::Reverse), Some(40_001));
        }
        assert_eq!(client_port(&frame(1, 40_001, 33_001), Way::Forward), None, "ICMP has no ports");
        let mut later_fragment = frame(17, 1, 2);
        later_fragment[21] = 1;
        assert_eq!(client_port(&later_fragment, Way::Forward), None);
        let mut options = frame(17, 0, 0);
        options[14] = 0x46;
        options[38..40].copy_from_slice(&7u16.to_be_bytes());
        assert_eq!(client_port(&options, Way::Forward), Some(7));
        assert_eq!(client_port(&[0; 13], Way::Forward), None);
        let mut v6 = vec![0; 60];
        v6[12..14].copy_from_slice(&[0x86, 0xdd]);
        v6[20] = 17;
        v6[54..56].copy_from_slice(&9u16.to_be_bytes());
        assert_eq!(client_port(&v6, Way::Forward), Some(9));
        assert_eq!(client_port(&v6[..55], Way::Forward), None);
    }

    #[test]
    fn descriptions_are_checked() {
        let flow: FlowSpec = "second:45000-49999:45".parse().expect("valid");
        assert_eq!((flow.client_ports.clone(), flow.extra_delay_ns()), (45_000..=49_999, 45_000_000));
        assert_eq!(flow.to_string().parse(), Ok(flow));
        assert_eq!("a:1-1".parse::<FlowSpec>().expect("valid").extra_delay_ms, 0.0);
        for wrong in ["", "a", "a:1", "a:2-1", "a:1-70000", ":1-2", "a:1-2:-1", "a:1-2:x", "a:1-2:3:4"] {
            assert!(wrong.parse::<FlowSpec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn packets_are_counted_by_flow_and_step() {
        let specs = ["a:1-9".parse().expect("valid"), "b:10-19:5".parse().expect("valid")];
        let (mut forward, reverse) = (FlowMeter::new(&specs, Way::Forward), FlowMeter::new(&specs, Way::Reverse));
        assert_eq!(forward.classify(&frame(17, 12, 1)), Some((1, 5_000_000)));
        assert_eq!(reverse.classify(&frame(17, 12, 1)), Some((0, 0)));
        assert_eq!(forward.classify(&frame(17, 20, 1)), None);
        forward.record(1, 100, Fate::Delivered(99_999_999));
        forward.record(1, 100, Fate::Delivered(100_000_000));
        forward.record(1, 7, Fate::QueueDrop);
        forward.record(0, 8, Fate::Lost);
        forward.record(0, 8, Fate::Delivered(u64::MAX));
        forward.record_backlog(250_000_000, 10);
        forward.record_backlog(250_000_001, 20);
        let account = FlowMeter::account(&forward, &reverse).expect("flows were given");
        let b = &account.flows[1].forward;
        assert_eq!((b.received, b.received_bytes, b.queue_drops, b.delivered_bytes.clone()), (3, 207, 1, vec![100, 100]));
        let a = &account.flows[0].forward;
        assert_eq!((a.received, a.lost, a.delivered_bytes.len()), (2, 1, 0));
        assert_eq!(account.forward_backlog_bytes, [0, 0, 15]);
        assert_eq!(FlowMeter::account(&FlowMeter::new(&[], Way::Forward), &FlowMeter::new(&[], Way::Reverse)), None);
    }
}
