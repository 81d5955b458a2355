//! The demo's report.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use tradewind_bench::ETHERNET_BYTES;
use tradewind_bench::process::Finished;
use tradewind_bench::testbed::events;
use tradewind_netem::Scenario;
use tradewind_netem::stats::EmulatorStats;
use tradewind_wire::limits::chunk_bytes_for_mtu;

use super::MTU_BYTES;
use super::tcp::TcpRun;

/// Everything measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    scenario: String,
    rtt_ms: f64,
    bytes: u64,
    /// First packet to the store's last confirmation, seconds.
    elapsed_s: f64,
    /// File bits over that time.
    goodput_bps: f64,
    /// File bits over the command's whole time, TLS set-up included.
    command_goodput_bps: f64,
    /// Rate × (1 − loss) × payload share of a frame; absent on an unlimited link.
    bound_bps: Option<f64>,
    payload_share: f64,
    goodput_over_bound: Option<f64>,
    retransmitted_share: f64,
    /// The least share of DATA packets that this loss makes anybody send again.
    loss_imposed_share: f64,
    packets_afxdp: u64,
    packets_kernel: u64,
    afxdp_share: f64,
    xdp_mode: String,
    xdp_reason: Option<String>,
    client_cpu_s: f64,
    server_cpu_s: f64,
    emulator_cpu_s: f64,
    /// Both ends together, per GiB of file.
    cpu_s_per_gib: f64,
    sha256_match: bool,
    tcp_bbr_goodput_bps: Option<f64>,
    tcp_cubic_goodput_bps: Option<f64>,
    tcp: Vec<TcpRun>,
    client: Value,
    /// What the client reported five times a second.
    client_progress: Vec<Value>,
    emulator_valid: bool,
    emulator: Value,
}

impl Report {
    #[expect(clippy::too_many_arguments, reason = "each is one source of figures, and this is the one place they meet")]
    pub(crate) fn new(
        scenario: &Scenario,
        bytes: u64,
        done: &Value,
        sent: &Finished,
        server_cpu_s: f64,
        xdp: &Value,
        sha256_match: bool,
        tcp: Option<Vec<TcpRun>>,
        emulator: &EmulatorStats,
    ) -> Result<Self> {
        let number = |name: &str| done[name].as_f64().with_context(|| format!("the event 'done' has no number {name}"));
        let elapsed_s = number("elapsed_s")?;
        let totals = &done["server"]["totals"];
        let count = |name: &str| totals[name].as_u64().with_context(|| format!("the event 'done' has no server.totals.{name}"));
        let (packets_afxdp, packets_kernel) = (count("packets_afxdp")?, count("packets_kernel")?);
        let payload_share = chunk_bytes_for_mtu(MTU_BYTES as usize, false) as f64 / f64::from(MTU_BYTES + ETHERNET_BYTES);
        let bound_bps = scenario.bound_goodput_bps(payload_share);
        let goodput_bps = bytes as f64 * 8.0 / elapsed_s;
        let tcp = tcp.unwrap_or_default();
        let tcp_goodput = |name: &str| tcp.iter().find(|run| run.congestion_control == name).map(|run| run.goodput_bps);
        Ok(Self {
            scenario: scenario.name().to_owned(),
            rtt_ms: scenario.rtt_ms(),
            bytes,
            elapsed_s,
            goodput_bps,
            command_goodput_bps: bytes as f64 * 8.0 / sent.elapsed.as_secs_f64(),
            bound_bps,
            payload_share,
            goodput_over_bound: bound_bps.map(|bound| goodput_bps / bound),
            retransmitted_share: number("retransmitted_share")?,
            loss_imposed_share: scenario.forward().mean_loss(),
            packets_afxdp,
            packets_kernel,
            afxdp_share: packets_afxdp as f64 / (packets_afxdp + packets_kernel).max(1) as f64,
            xdp_mode: xdp["mode"].as_str().unwrap_or("unknown").to_owned(),
            xdp_reason: xdp["reason"].as_str().map(str::to_owned),
            client_cpu_s: sent.cpu_s,
            server_cpu_s,
            emulator_cpu_s: emulator.cpu_s,
            cpu_s_per_gib: (sent.cpu_s + server_cpu_s) / (bytes as f64 / f64::from(1 << 30)),
            sha256_match,
            tcp_bbr_goodput_bps: tcp_goodput("bbr"),
            tcp_cubic_goodput_bps: tcp_goodput("cubic"),
            tcp,
            client: done.clone(),
            client_progress: events(&sent.stdout, "progress"),
            emulator_valid: emulator.valid,
            emulator: serde_json::to_value(emulator)?,
        })
    }

    pub(crate) fn print(&self) {
        let mbit = |bps: f64| bps / 1e6;
        println!();
        println!(
            "goodput             {:9.1} Mbit/s   ({} bytes in {:.2} s, first packet to durable)",
            mbit(self.goodput_bps),
            self.bytes,
            self.elapsed_s
        );
        println!("  with TLS set-up   {:9.1} Mbit/s   (the whole command)", mbit(self.command_goodput_bps));
        if let (Some(bound), Some(ratio)) = (self.bound_bps, self.goodput_over_bound) {
            println!(
                "bound               {:9.1} Mbit/s   (rate x (1 - loss) x payload share {:.4} of a frame)",
                mbit(bound),
                self.payload_share
            );
            println!("goodput over bound  {ratio:9.3}");
        }
        println!(
            "retransmitted       {:9.2} %        (the loss alone makes {:.2} % necessary)",
            self.retransmitted_share * 100.0,
            self.loss_imposed_share * 100.0
        );
        println!(
            "packets by AF_XDP   {:9}          ({} mode; {} by the kernel's socket, share {:.4})",
            self.packets_afxdp, self.xdp_mode, self.packets_kernel, self.afxdp_share
        );
        if let Some(reason) = &self.xdp_reason {
            println!("  AF_XDP: {reason}");
        }
        println!(
            "CPU                 {:9.2} s/GiB    (client {:.2} s, server {:.2} s; the emulator's {:.2} s not counted)",
            self.cpu_s_per_gib, self.client_cpu_s, self.server_cpu_s, self.emulator_cpu_s
        );
        println!("SHA-256             {}", if self.sha256_match { "the same at both ends" } else { "DIFFERENT" });
        for run in &self.tcp {
            let note = if run.complete { "" } else { ", did not finish: upper bound" };
            println!(
                "TCP {:<15} {:9.1} Mbit/s   (s5cmd, one connection, {} MiB{note}); tradewind is {:.0} times as fast",
                run.congestion_control,
                mbit(run.goodput_bps),
                run.bytes >> 20,
                self.goodput_bps / run.goodput_bps
            );
        }
        if !self.emulator_valid {
            println!("The emulated link was NOT valid during this run: {}", self.emulator["invalid_reasons"]);
        }
    }

    /// The demo fails when its claim does.
    pub(crate) fn verdict(&self) -> Result<()> {
        if !self.sha256_match {
            bail!("the object differs from the file");
        }
        Ok(())
    }
}
