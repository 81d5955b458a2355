//! SeaweedFS, a real S3 server, in the server's namespace, and s5cmd, a client that we did not write.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tradewind_netem::topology::SERVER_ADDRESS;

use super::Testbed;
use crate::process::{Background, Finished, run};

/// The bucket of all tests.
pub const BUCKET: &str = "bucket";
const PORT: u16 = 8333;
const ACCESS_KEY: &str = "store-key";
const SECRET_KEY: &str = "store-secret";
/// SeaweedFS takes 5 s on a quiet machine and ten times that on a busy one.
const START_DEADLINE: Duration = Duration::from_secs(120);
const COMMAND_DEADLINE: Duration = Duration::from_secs(300);

/// A running SeaweedFS with an empty bucket.
pub struct Store {
    server: Background,
    s5cmd: PathBuf,
}

impl Store {
    /// Starts it and makes the bucket.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start(testbed: &Testbed) -> Result<Self> {
        let data = testbed.path("weed");
        std::fs::create_dir(&data)?;
        let identity = json!({"identities": [{
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        let config = testbed.path("s3.json");
        std::fs::write(&config, identity.to_string())?;
        let mut command = testbed.server(&testbed.programs.installed("weed"));
        command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1").current_dir(testbed.folder.path());
        command.arg("server").arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", config.display()));
        command.args([&format!("-ip={SERVER_ADDRESS}"), "-ip.bind=0.0.0.0", "-filer", "-s3", &format!("-s3.port={PORT}")]);
        command.args([
            "-master.volumeSizeLimitMB=4096",
            "-volume.max=100",
            "-volume.minFreeSpace=1GiB",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]);
        let mut server = Background::start(&mut command, &testbed.path("weed.log"))?;
        let health = format!("http://{SERVER_ADDRESS}:{PORT}/healthz");
        let healthy = || {
            let mut curl = testbed.server(Path::new("curl"));
            curl.args(["--silent", "--fail", "--max-time", "2", &health]).output().is_ok_and(|output| output.status.success())
        };
        server.wait_until(&testbed.interrupt, START_DEADLINE, healthy).context("the S3 server (SeaweedFS) did not start")?;
        let store = Self { server, s5cmd: testbed.programs.installed("s5cmd") };
        // The S3 port answers before the volume server has room, and the first object written waits for that room: tests should not.
        store.until_done(testbed, &["mb", &format!("s3://{BUCKET}")])?;
        let probe = testbed.path("probe");
        std::fs::write(&probe, [1; 4096])?;
        let object = format!("s3://{BUCKET}/probe");
        store.until_done(testbed, &["cp", &probe.to_string_lossy(), &object])?;
        store.until_done(testbed, &["rm", &object])?;
        Ok(store)
    }

    /// Runs s5cmd until the store, which has just started, does what it asks.
    fn until_done(&self, testbed: &Testbed, arguments: &[&str]) -> Result<()> {
        let start = Instant::now();
        loop {
            let ran = self.s5cmd_at_server(testbed, arguments)?;
            match ran.success(&format!("s5cmd {}", arguments.join(" "))) {
                // After an internal error s5cmd asks again by itself, and may then be told that the bucket it asked for is there.
                Err(_) if ran.stderr.contains("BucketAlreadyOwnedByYou") => return Ok(()),
                Err(_) if start.elapsed() < START_DEADLINE => std::thread::sleep(Duration::from_millis(500)),
                ended => return ended.map(drop),
            }
        }
    }

    /// Its URL in both namespaces.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{SERVER_ADDRESS}:{PORT}")
    }

    /// Key and secret of its one identity.
    #[must_use]
    pub fn credentials(&self) -> (&'static str, &'static str) {
        (ACCESS_KEY, SECRET_KEY)
    }

    /// The server process, to be killed or stopped by tests.
    pub fn process(&mut self) -> &mut Background {
        &mut self.server
    }

    fn configure(&self, mut command: Command, arguments: &[&str]) -> Command {
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY).env("AWS_REGION", "us-east-1");
        command.args(["--endpoint-url", &self.endpoint()]).args(arguments);
        command
    }

    /// Runs s5cmd beside the store.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn s5cmd_at_server(&self, testbed: &Testbed, arguments: &[&str]) -> Result<Finished> {
        run(&mut self.configure(testbed.server(&self.s5cmd), arguments), &testbed.interrupt, COMMAND_DEADLINE)
    }

    /// Runs s5cmd at the client, across the WAN, with a deadline.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn s5cmd_at_client(&self, testbed: &Testbed, arguments: &[&str], deadline: Duration) -> Result<Finished> {
        run(&mut self.configure(testbed.client(&self.s5cmd), arguments), &testbed.interrupt, deadline)
    }

    /// Fetches an object with s5cmd and returns its SHA-256.
    ///
    /// # Errors
    /// When it is not there.
    pub fn sha256(&self, testbed: &Testbed, key: &str) -> Result<String> {
        let file = testbed.path("fetched");
        let name = file.to_string_lossy();
        self.s5cmd_at_server(testbed, &["cp", &format!("s3://{BUCKET}/{key}"), &name])?.success("s5cmd cp")?;
        let sum = sha256_of_file(&file);
        std::fs::remove_file(&file)?;
        sum
    }
}

/// Makes a file of random bytes.
///
/// # Errors
/// When it cannot be written.
pub fn write_random(path: &Path, bytes: u64) -> Result<()> {
    let mut random = std::io::Read::take(std::fs::File::open("/dev/urandom")?, bytes);
    let mut file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    std::io::copy(&mut random, &mut file)?;
    Ok(())
}

/// SHA-256 of a file, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = std::io::Read::read(&mut file, &mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..count]);
    }
}
