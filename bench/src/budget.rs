//! Where the time of a packet goes: `perf` watches transfers, and each of its samples is put to a stage by its thread and its call chain.
//!
//! Only what lies between the first and the last sample of the thread that sends counts: a service that starts makes memory before.
//! Time is the CPUs' clock (`cpu-clock`): virtual machines of this kind have no counter of cycles. What runs with interrupts off is charged to the moment after.
//! What an end's AEAD does for feedback, which goes the other way, is among what it does for data.
//! On a veth pair the kernel's receiving half runs in an interrupt on the sender's core; a network card does it on the receiver's.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::process::{Background, Interrupt, run};
use crate::testbed::Testbed;

/// Samples a second of each core; a prime, so that nothing keeps step with it.
const SAMPLES_PER_S: u32 = 4999;
/// Of `tradewind`, and of a process with many uploads.
const SENDER_THREADS: [&str; 2] = ["transfer", "uploads"];
const RECEIVER_THREADS: &str = "worker-";
const DEADLINE: Duration = Duration::from_secs(300);

/// Whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// The client's thread that sends, for one lane or for many.
    Sender,
    /// The kernel's receiving half.
    Interrupt,
    /// The engine's worker.
    Receiver,
    /// The client's threads that read files.
    Reader,
    /// The engine's thread that makes memory for blocks.
    Memory,
}

/// What a stage is known by: one of these is part of the name of the innermost function, or of any function of the chain.
enum By {
    Innermost(&'static [&'static str]),
    Any(&'static [&'static str]),
}

type Rules = &'static [(&'static str, By)];

const AEAD: By = By::Innermost(&["aws_lc", "aead", "gcm", "CRYPTO_", "init_IV", "::crypto::"]);
const SLEEP: By =
    By::Any(&["do_poll", "do_sys_poll", "do_epoll_wait", "nanosleep", "futex_wait", "schedule_timeout", "finish_task_switch"]);
const CRC: By = By::Innermost(&["crc"]);
/// Whatever no other rule of a part fits.
const REST: By = By::Any(&[]);
/// Memory that is touched for the first time.
const FAULT: By = By::Any(&["exc_page_fault"]);

/// The first that fits counts, the last one is for all others.
const SENDER: Rules = &[
    ("seal", AEAD),
    ("ack: the kernel hands feedback over", By::Any(&["recvmmsg", "recvmsg"])),
    ("send: segmentation", By::Any(&["gso_segment", "skb_segment"])),
    ("send: veth", By::Any(&["veth_xmit"])),
    ("send: copy into the kernel", By::Any(&["_copy_from_iter"])),
    ("send: socket, IP, route", By::Any(&["sendmmsg", "sendmsg"])),
    ("sleep and wake", SLEEP),
    ("other system calls", By::Any(&["do_syscall_64"])),
    ("rate control", By::Innermost(&["::rate::", "::pacer"])),
    ("ack: feedback, what is known to have arrived", By::Innermost(&["::records::", "on_received", "feedback"])),
    ("blocks, headers, the rest", REST),
];

const INTERRUPT: Rules = &[
    ("receive: wakes the receiver", By::Any(&["sock_def_readable"])),
    ("steer", By::Any(&["_steer"])),
    ("receive: into the AF_XDP frame", By::Any(&["xsk_", "xp_alloc"])),
    ("receive: generic XDP", By::Any(&["do_xdp_generic"])),
    ("receive: IP, UDP", By::Any(&["ip_rcv", "ip_list_rcv", "gro_receive"])),
    ("receive: device", REST),
];

const RECEIVER: Rules = &[
    ("open", AEAD),
    ("deliver: CRC-64 of blocks", CRC),
    ("deliver: memory of blocks is made", FAULT),
    ("ack: the kernel sends feedback", By::Any(&["sendmmsg", "sendmsg", "sendto"])),
    ("receive: the kernel's socket", By::Any(&["recvmmsg", "recvmsg"])),
    ("sleep and wake", SLEEP),
    ("other system calls", By::Any(&["do_syscall_64"])),
    ("receive: rings, headers", By::Innermost(&["tradewind_xdp", "xsk_", "tradewind_netio", "EngineLink", "::header::"])),
    ("ack: feedback is written", By::Innermost(&["feedback", "::interval::", "::trains::", "::orders::"])),
    ("deliver: copies", By::Innermost(&["memcpy", "memmove"])),
    ("deliver: packets into blocks, the rest", REST),
];

const READER: Rules = &[("CRC-64 of blocks", CRC), ("memory of blocks is made", FAULT), ("file into blocks", REST)];
const MEMORY: Rules = &[("memory of blocks is made", REST)];

impl Part {
    /// None of a thread that has no part in it.
    fn of(thread: &str, chain: &[&str]) -> Option<Self> {
        let is_worker = thread.starts_with(RECEIVER_THREADS);
        // What a worker sends is feedback, all the way to the other end.
        if !is_worker && chain.contains(&"net_rx_action") {
            return Some(Self::Interrupt);
        }
        match thread {
            "source-reader" => Some(Self::Reader),
            "pool-memory" => Some(Self::Memory),
            _ if SENDER_THREADS.contains(&thread) => Some(Self::Sender),
            _ => is_worker.then_some(Self::Receiver),
        }
    }

    const fn rules(self) -> Rules {
        match self {
            Self::Sender => SENDER,
            Self::Interrupt => INTERRUPT,
            Self::Receiver => RECEIVER,
            Self::Reader => READER,
            Self::Memory => MEMORY,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Interrupt => "interrupt",
            Self::Receiver => "receiver",
            Self::Reader => "reader",
            Self::Memory => "memory",
        }
    }

    /// The chain begins with the innermost function.
    fn stage(self, chain: &[&str]) -> Option<&'static str> {
        let fits = |by: &By| match by {
            By::Innermost(names) => chain.first().is_some_and(|function| names.iter().any(|name| function.contains(name))),
            By::Any(names) => chain.iter().any(|function| names.iter().any(|name| function.contains(name))),
        };
        let rules = self.rules();
        rules.iter().find(|(_, by)| fits(by)).or(rules.last()).map(|(stage, _)| *stage)
    }
}

/// A part of a packet's time.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Stage {
    part: Part,
    stage: &'static str,
    /// Nanoseconds a packet.
    ns: f64,
}

/// The time of a packet in a case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Budget {
    case: String,
    /// With `perf` beside it.
    gbit_per_s: f64,
    packets: u64,
    /// Those that were put to a stage.
    samples: u64,
    /// All that the client's sending thread was charged for, interrupts too; nanoseconds a packet.
    sender_thread_ns: f64,
    /// The same of the busiest of the engine's workers.
    receiver_thread_ns: f64,
    stages: Vec<Stage>,
}

/// Why there can be no budget, if so.
pub(crate) fn missing() -> Option<String> {
    let is_there = Command::new("perf").arg("--version").output().is_ok_and(|output| output.status.success());
    (!is_there).then(|| "perf is missing: `cargo xtask setup --peers` installs it".to_owned())
}

/// What could not be watched becomes a warning, so that all else that was measured is kept.
///
/// # Errors
/// When a signal came.
pub(crate) fn or_warning(case: &str, budget: Result<Budget>, interrupt: &Interrupt, warnings: &mut Vec<String>) -> Result<Option<Budget>> {
    let error = match budget {
        Ok(budget) => return Ok(Some(budget)),
        Err(error) => error,
    };
    interrupt.check()?;
    warnings.push(format!("{case}: where a packet's time goes was not measured: {error:#}"));
    Ok(None)
}

/// `perf`, while it watches.
pub(crate) struct Watch {
    perf: Background,
    samples: PathBuf,
}

impl Watch {
    pub(crate) fn start(testbed: &Testbed) -> Result<Self> {
        let samples = testbed.path("perf.data");
        let mut command = Command::new("perf");
        command.args([
            "record",
            "--all-cpus",
            "--call-graph",
            "fp",
            "--event",
            "cpu-clock",
            "--strict-freq",
            "--freq",
            &SAMPLES_PER_S.to_string(),
        ]);
        // It would keep a copy of each build of every program that ran.
        command.args(["--no-buildid", "--no-buildid-cache"]);
        let mut perf = Background::start(command.arg("--output").arg(&samples), &testbed.path("perf.log"))?;
        perf.wait_until(&testbed.interrupt, DEADLINE, || samples.exists()).context("perf record")?;
        Ok(Self { perf, samples })
    }

    /// What was seen until now: so many packets with data crossed.
    pub(crate) fn budget(mut self, testbed: &Testbed, case: &str, gbit_per_s: f64, packets: u64) -> Result<Budget> {
        let has_ended = self.perf.has_ended()?;
        self.perf.stop()?;
        let log = || format!("perf said:\n{}", crate::process::tail(&self.perf.log_text()));
        ensure!(!has_ended, "perf has ended early; {}", log());
        ensure!(packets > 0, "no packet was counted");
        let count = Count::of(&script(&self.samples, testbed).with_context(log)?);
        count.check().with_context(log)?;
        Ok(count.budget(case, gbit_per_s, packets))
    }
}

/// The samples as text: a line with the thread's name, its number and the time, one for each function of its chain, and an empty one.
fn script(samples: &Path, testbed: &Testbed) -> Result<String> {
    let mut command = Command::new("perf");
    command.args(["script", "--no-inline", "--fields", "comm,tid,time,ip,sym", "--input"]).arg(samples);
    let finished = run(&mut command, &testbed.interrupt, DEADLINE)?;
    finished.success("perf script")?;
    // Busy cores are sampled at their rate to the last one; idle ones are not, so samples cannot be counted against time.
    let is_lossy = finished.stderr.lines().any(|line| line.to_lowercase().contains(" lost "));
    ensure!(!is_lossy, "perf has lost samples: {}", crate::process::tail(&finished.stderr));
    Ok(finished.stdout)
}

/// Samples of each stage.
#[derive(Default)]
struct Count {
    stages: BTreeMap<(Part, &'static str), u64>,
    /// Of threads that send and receive, by name, interrupts on them too.
    threads: BTreeMap<String, u64>,
    /// Chains in which the kernel's own functions have names.
    named: u64,
}

/// A sample: the thread's name, when, and its chain, the innermost function first.
struct Sample<'a> {
    thread: &'a str,
    seconds: f64,
    chain: Vec<&'a str>,
}

impl<'a> Sample<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut lines = text.lines().filter(|line| !line.is_empty());
        // Names may hold blanks.
        let (rest, time) = lines.next()?.trim().rsplit_once(' ')?;
        let (thread, _) = rest.trim().rsplit_once(' ')?;
        let seconds = time.trim_end_matches(':').parse().ok()?;
        // An address, and the function's name where it is known.
        let chain = lines.filter_map(|line| line.trim().split_once(' ')).map(|(_, function)| function.trim()).collect();
        Some(Self { thread: thread.trim(), seconds, chain })
    }
}

impl Count {
    fn of(script: &str) -> Self {
        let samples: Vec<Sample<'_>> = script.split("\n\n").filter_map(Sample::parse).collect();
        let sends = || samples.iter().filter(|sample| SENDER_THREADS.contains(&sample.thread)).map(|sample| sample.seconds);
        let (first, last) = (sends().fold(f64::MAX, f64::min), sends().fold(f64::MIN, f64::max));
        let mut count = Self::default();
        for sample in samples.iter().filter(|sample| (first..=last).contains(&sample.seconds)) {
            count.add(sample.thread, &sample.chain);
        }
        count
    }

    fn add(&mut self, thread: &str, chain: &[&str]) {
        let Some(part) = Part::of(thread, chain) else { return };
        let Some(stage) = part.stage(chain) else { return };
        *self.stages.entry((part, stage)).or_default() += 1;
        self.named += u64::from(chain.contains(&"do_syscall_64"));
        if SENDER_THREADS.contains(&thread) || thread.starts_with(RECEIVER_THREADS) {
            *self.threads.entry(thread.to_owned()).or_default() += 1;
        }
    }

    /// Whether this is what it is taken for.
    fn check(&self) -> Result<()> {
        let has = |wanted: &str| self.stages.keys().any(|(_, stage)| *stage == wanted);
        ensure!(has("seal") && has("open"), "no packet was seen sealed or opened; do the programs have their symbols?");
        let has_interrupts = self.stages.keys().any(|(part, _)| *part == Part::Interrupt);
        ensure!(has_interrupts && self.named > 0, "the kernel's functions have no names; /proc/sys/kernel/kptr_restrict must not be 2");
        Ok(())
    }

    fn budget(&self, case: &str, gbit_per_s: f64, packets: u64) -> Budget {
        let case = case.to_owned();
        let ns = |samples: u64| samples as f64 / f64::from(SAMPLES_PER_S) / packets as f64 * 1e9;
        let mut stages: Vec<Stage> = self.stages.iter().map(|(&(part, stage), &samples)| Stage { part, stage, ns: ns(samples) }).collect();
        stages.sort_by(|one, other| one.part.cmp(&other.part).then(other.ns.total_cmp(&one.ns)));
        let samples = self.stages.values().sum();
        let busiest = |is_one: &dyn Fn(&str) -> bool| {
            ns(self.threads.iter().filter(|(thread, _)| is_one(thread)).map(|(_, &samples)| samples).max().unwrap_or(0))
        };
        let sender_thread_ns = busiest(&|thread| SENDER_THREADS.contains(&thread));
        let receiver_thread_ns = busiest(&|thread| thread.starts_with(RECEIVER_THREADS));
        Budget { case, gbit_per_s, packets, samples, sender_thread_ns, receiver_thread_ns, stages }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, gbit_per_s, packets, samples, sender_thread_ns, receiver_thread_ns, stages } = self;
        writeln!(f, "{case}: nanoseconds a packet ({packets} packets, {gbit_per_s:.2} Gbit/s, {samples} samples)")?;
        for Stage { part, stage, ns } in stages {
            writeln!(f, "  {:<10} {stage:<46} {ns:>6.0}", part.name())?;
        }
        let (busier, ns) =
            if sender_thread_ns >= receiver_thread_ns { ("sending", sender_thread_ns) } else { ("receiving", receiver_thread_ns) };
        write!(
            f,
            "  with interrupts: sending thread {sender_thread_ns:.0}, busiest receiving thread {receiver_thread_ns:.0}; the {busier} one can do {:.0} kpps at most",
            1e6 / ns
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `perf script` writes it.
    const SCRIPT: &str = "pool-memory 73     9.000000:
\tffffffff820 clear_page_erms

transfer 71    10.000200:
\tffffffff820 aws_lc_0_47_0_aes_gcm_encrypt_avx512
\t       5555 [unknown]

kworker/0:1 mm_percpu_wq 12    10.000400:
\tffffffff821 htab_map_hash
\tffffffff822 bpf_prog_ed17856d54a151bf_steer
\tffffffff823 do_xdp_generic
\tffffffff824 net_rx_action

worker-0 72    10.000600:
\tffffffff821 udp_queue_rcv_one_skb
\tffffffff823 net_rx_action
\tffffffff825 __x64_sys_sendmmsg

worker-0 72    10.000800:
\t       5556 aws_lc_0_47_0_aes_gcm_decrypt_avx512

worker-0 72    10.001000:
\t       5557 tradewind_proto::receiver::Receiver<B>::on_data

swapper     0    10.001200:
\tffffffff821 default_idle

transfer 71    10.001400:
\tffffffff821 sock_def_readable
\tffffffff822 __xsk_rcv
\tffffffff823 net_rx_action
\tffffffff824 veth_xmit
\tffffffff825 __x64_sys_sendmmsg
\tffffffff826 do_syscall_64
";

    #[test]
    fn samples_are_put_to_stages_by_thread_and_chain() {
        let count = Count::of(SCRIPT);
        let expected = [
            ((Part::Sender, "seal"), 1),
            ((Part::Interrupt, "receive: wakes the receiver"), 1),
            ((Part::Interrupt, "steer"), 1),
            ((Part::Receiver, "ack: the kernel sends feedback"), 1),
            ((Part::Receiver, "open"), 1),
            ((Part::Receiver, "deliver: packets into blocks, the rest"), 1),
        ];
        assert_eq!(count.stages, BTreeMap::from(expected));
        // Memory was made before the first packet.
        let threads = BTreeMap::from([("transfer".to_owned(), 2), ("worker-0".to_owned(), 3)]);
        assert_eq!(count.threads, threads, "the kworker's interrupt is on neither thread");
        assert_eq!(count.named, 1);
    }

    #[test]
    fn a_budget_is_in_nanoseconds_a_packet_and_its_largest_stages_come_first() {
        let mut count = Count::of(SCRIPT);
        count.add("worker-0", &["aws_lc_0_47_0_aes_gcm_decrypt_avx512"]);
        // A sample stands for 200 µs.
        let budget = count.budget("case", 1.0, 200);
        let is_samples = |ns: f64, samples: f64| (ns - samples * 1000.2).abs() < 0.1;
        let first = budget.stages.iter().find(|stage| stage.part == Part::Receiver).unwrap();
        assert!(first.stage == "open" && is_samples(first.ns, 2.0), "{first:?}");
        assert!(is_samples(budget.sender_thread_ns, 2.0) && is_samples(budget.receiver_thread_ns, 4.0), "{budget:?}");
        assert_eq!(budget.samples, 7);
        assert!(budget.to_string().contains("the receiving one can do 250 kpps at most"), "{budget}");
    }

    #[test]
    fn every_part_has_a_stage_for_whatever_comes() {
        for part in [Part::Sender, Part::Interrupt, Part::Receiver, Part::Reader, Part::Memory] {
            assert!(part.stage(&["never heard of it"]).is_some() && part.stage(&[]).is_some(), "{part:?}");
        }
    }

    #[test]
    fn samples_without_names_are_refused() {
        let seen = || Count::of(SCRIPT);
        seen().check().unwrap();
        let refused = |count: Count| count.check().unwrap_err().to_string();
        assert!(refused(Count { named: 0, ..seen() }).contains("kptr_restrict"));
        let without = |part: Part| Count { stages: seen().stages.into_iter().filter(|((of, _), _)| *of != part).collect(), ..seen() };
        assert!(refused(without(Part::Interrupt)).contains("kptr_restrict") && refused(without(Part::Sender)).contains("symbols"));
        assert!(Count::of("").check().is_err(), "nothing was seen");
    }
}
