//! tradewindd with its engine in the server's namespace.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tradewind_netem::topology::{CLIENT_ADDRESS, END_INTERFACE, SERVER_ADDRESS};

use super::{Store, Testbed};
use crate::process::{Background, children, tree_cpu_s};

/// Port of the REST interface.
pub const REST_PORT: u16 = 33000;
/// Access key of the one user.
pub const ACCESS_KEY: &str = "test-user";
const SECRET: &str = "a secret for tests only";
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Who has taken no tick of CPU time (10 ms) for so long is at rest.
const REST: Duration = Duration::from_millis(300);
/// One with many workers may never be.
const REST_DEADLINE: Duration = Duration::from_secs(10);

/// What differs between tests.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions<'a> {
    /// Value of `data.xdp`: `auto`, `driver`, `generic`, `off`.
    pub xdp: &'a str,
    /// Further sections of the configuration; `{folder}` stands for the testbed's folder.
    pub more: &'a str,
}

impl Default for ServerOptions<'_> {
    fn default() -> Self {
        Self { xdp: "auto", more: "" }
    }
}

/// A running tradewindd.
pub struct Server {
    process: Background,
}

impl Server {
    /// Starts it with one user, the S3 store and a local store (`local:`, the folder `local` of the testbed).
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start(testbed: &Testbed, store: &Store, options: &ServerOptions<'_>) -> Result<Self> {
        Self::start_with(testbed, &store.section(), options)
    }

    /// Starts it with one user and only the local store.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start_local(testbed: &Testbed, options: &ServerOptions<'_>) -> Result<Self> {
        Self::start_with(testbed, "", options)
    }

    /// Starts one in the client's namespace, with a local store (`local:`, the folder `far/local` of the testbed), by kernel UDP.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start_far(testbed: &Testbed) -> Result<Self> {
        let folder = testbed.path("far");
        std::fs::create_dir_all(folder.join("local"))?;
        let config = folder.join("tradewindd.toml");
        let data = format!("listen = \"{CLIENT_ADDRESS}:33001\"\nxdp = \"off\"");
        std::fs::write(&config, configuration(&folder, &format!("{CLIENT_ADDRESS}:{REST_PORT}"), &data))?;
        let mut command = testbed.client(&testbed.programs.ours("tradewindd"));
        command.arg("--config").arg(&config);
        let mut process = Background::start(&mut command, &folder.join("tradewindd.log"))?;
        let is_up = || {
            let mut curl = testbed.client(Path::new("curl"));
            curl.args(["--silent", "--insecure", "--max-time", "2", &format!("https://{CLIENT_ADDRESS}:{REST_PORT}/healthz")]);
            curl.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("\"ok\""))
        };
        process.wait_until(&testbed.interrupt, START_DEADLINE, is_up).context("tradewindd did not start at the client")?;
        Ok(Self { process })
    }

    fn start_with(testbed: &Testbed, further_stores: &str, options: &ServerOptions<'_>) -> Result<Self> {
        let config = testbed.path("tradewindd.toml");
        let local = testbed.path("local");
        std::fs::create_dir_all(&local)?;
        let data = format!(
            "listen = \"{SERVER_ADDRESS}:33001\"\ninterface = \"{END_INTERFACE}\"\nxdp = \"{}\"\ncopy_from = [\"10.77.0.0/16\"]",
            options.xdp
        );
        let folder = testbed.folder.path();
        let more = options.more.replace("{folder}", &folder.display().to_string());
        let text = configuration(folder, &format!("0.0.0.0:{REST_PORT}"), &data) + further_stores + "\n" + &more + "\n";
        std::fs::write(&config, text)?;
        let mut command = testbed.server(&testbed.programs.ours("tradewindd"));
        command.arg("--config").arg(&config);
        let mut process = Background::start(&mut command, &testbed.path("tradewindd.log"))?;
        process
            .wait_until(&testbed.interrupt, START_DEADLINE, || health_within(testbed, "2").is_ok_and(|health| health["status"] == "ok"))
            .context("tradewindd did not start")?;
        Ok(Self { process })
    }

    /// Waits until it works no more on its start, for ten seconds at most: a service that has just been started still makes memory for its first blocks,
    /// which is not what transfers are measured for.
    ///
    /// # Errors
    /// When it ends, or a signal comes.
    pub fn wait_for_rest(&mut self, testbed: &Testbed) -> Result<()> {
        let (pid, started, mut before) = (self.process.pid(), Instant::now(), (Instant::now(), f64::NAN));
        let is_at_rest = || {
            let cpu_s = tree_cpu_s(pid);
            if cpu_s.total_cmp(&before.1).is_ne() {
                before = (Instant::now(), cpu_s);
            }
            before.0.elapsed() >= REST || started.elapsed() >= REST_DEADLINE
        };
        self.process.wait_until(&testbed.interrupt, START_DEADLINE, is_at_rest).context("tradewindd does not come to rest")
    }

    /// The process, to be killed or stopped by tests.
    pub fn process(&mut self) -> &mut Background {
        &mut self.process
    }

    /// Process id of its engine.
    #[must_use]
    pub fn engine_pid(&self) -> Option<u32> {
        children(self.process.pid()).first().copied()
    }

    /// CPU time of control process and engine so far, seconds.
    #[must_use]
    pub fn cpu_s(&self) -> f64 {
        tree_cpu_s(self.process.pid())
    }

    /// The `tradewind` command in the client's namespace, with server and credentials set.
    #[must_use]
    pub fn tradewind(testbed: &Testbed) -> Command {
        let mut command = testbed.client(&testbed.programs.ours("tradewind"));
        as_user(&mut command, testbed.folder.path(), &format!("{}:{REST_PORT}", testbed.rest_address()));
        command
    }
}

/// A configuration with one user and a local store (`local:`, the folder `local` of this one). `data` stands below `[data]`.
pub(crate) fn configuration(folder: &Path, rest: &str, data: &str) -> String {
    format!(
        r#"state_dir = "{state}"

[rest]
listen = "{rest}"

[data]
{data}

[[user]]
access_key = "{ACCESS_KEY}"
secret = "{SECRET}"

[stores.local]
kind = "local"
root = "{local}"
"#,
        state = folder.join("state").display(),
        local = folder.join("local").display(),
    )
}

/// Makes a command that of the one user at this server, with no other files of a user than those in the folder.
pub(crate) fn as_user(command: &mut Command, folder: &Path, server: &str) {
    command.env("TRADEWIND_ACCESS_KEY", ACCESS_KEY).env("TRADEWIND_SECRET", SECRET).env("TRADEWIND_SERVER", server);
    command.env("XDG_CONFIG_HOME", folder.join("client-config")).env("HOME", folder).env_remove("XDG_STATE_HOME");
}

/// `GET /healthz` as seen from the server's namespace.
///
/// # Errors
/// When it does not answer with JSON.
pub fn health(testbed: &Testbed) -> Result<Value> {
    health_within(testbed, "30")
}

fn health_within(testbed: &Testbed, seconds: &str) -> Result<Value> {
    let mut curl = testbed.server(Path::new("curl"));
    let output = curl
        .args(["--silent", "--insecure", "--max-time", seconds, "--user", &format!("{ACCESS_KEY}:{SECRET}")])
        .arg(format!("https://{SERVER_ADDRESS}:{REST_PORT}/healthz"))
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The events of a kind that `tradewind --json` wrote, in order.
#[must_use]
pub fn events(stdout: &str, kind: &str) -> Vec<Value> {
    stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|event| event["event"] == kind).collect()
}

/// Whether the last event `progress` that `tradewind --json` wrote says that one of its totals is so large.
#[must_use]
pub fn has_progressed(stdout: &str, total: &str, least: u64) -> bool {
    events(stdout, "progress").last().is_some_and(|progress| progress[total].as_u64() >= Some(least))
}
