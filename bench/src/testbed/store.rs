//! SeaweedFS, a real S3 server, in the server's namespace or on loopback, and s5cmd, a client that we did not write.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tradewind_netem::topology::SERVER_ADDRESS;

use super::{Programs, Testbed};
use crate::process::{Background, Finished, Interrupt, run};

/// The bucket of all tests.
pub const BUCKET: &str = "bucket";
const ACCESS_KEY: &str = "store-key";
const SECRET_KEY: &str = "store-secret";
/// SeaweedFS takes 5 s on a quiet machine and ten times that on a busy one.
const START_DEADLINE: Duration = Duration::from_secs(120);
const COMMAND_DEADLINE: Duration = Duration::from_secs(300);

/// Ports of a SeaweedFS; its own protocol between master, volume and filer takes another one of each.
#[derive(Clone, Copy, Debug)]
pub struct StorePorts {
    /// S3, master, volume and filer.
    pub http: [u16; 4],
    /// The same for gRPC.
    pub grpc: [u16; 4],
}

/// Where a store runs.
pub trait Host {
    /// Where the programs are.
    fn programs(&self) -> &Programs;
    /// Looked at by every wait.
    fn interrupt(&self) -> &Interrupt;
    /// A path in the folder for everybody's files.
    fn file(&self, name: &str) -> PathBuf;
    /// A command that runs beside the store.
    fn beside(&self, program: &Path) -> Command;
    /// The store's address and ports.
    fn place(&self) -> (String, StorePorts);
}

impl Host for Testbed {
    fn programs(&self) -> &Programs {
        &self.programs
    }

    fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path(name)
    }

    fn beside(&self, program: &Path) -> Command {
        self.server(program)
    }

    fn place(&self) -> (String, StorePorts) {
        // Its own protocol also goes through sockets in /tmp that are called by their ports, where worlds of several processes would meet.
        let first = 20_000 + u16::try_from(std::process::id() % 3_000).unwrap_or_default() * 4;
        let grpc = std::array::from_fn(|index| first + index as u16);
        (SERVER_ADDRESS.to_string(), StorePorts { http: [8333, 9333, 8080, 8888], grpc })
    }
}

/// A running SeaweedFS with an empty bucket.
pub struct Store {
    server: Background,
    s5cmd: PathBuf,
    endpoint: String,
}

impl Store {
    /// Starts it and makes the bucket.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start(host: &impl Host) -> Result<Self> {
        let (address, StorePorts { http, grpc }) = host.place();
        let data = host.file("weed");
        std::fs::create_dir(&data)?;
        let identity = json!({"identities": [{
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        let config = host.file("s3.json");
        std::fs::write(&config, identity.to_string())?;
        let mut command = host.beside(&host.programs().installed("weed"));
        command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1").current_dir(&data);
        command.arg("server").arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", config.display()));
        command.args([&format!("-ip={address}"), "-ip.bind=0.0.0.0", "-filer", "-s3"]);
        // In /tmp they would be those of other worlds too.
        for name in ["s3", "filer"] {
            command.arg(format!("-{name}.localSocket={}", data.join(format!("{name}.sock")).display()));
        }
        for (name, (port, grpc)) in ["s3", "master", "volume", "filer"].iter().zip(http.iter().zip(grpc)) {
            command.args([format!("-{name}.port={port}"), format!("-{name}.port.grpc={grpc}")]);
        }
        command.args([
            "-master.volumeSizeLimitMB=4096",
            "-volume.max=100",
            "-volume.minFreeSpace=1GiB",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]);
        let mut server = Background::start(&mut command, &host.file("weed.log"))?;
        let endpoint = format!("http://{address}:{}", http[0]);
        let health = format!("{endpoint}/healthz");
        let healthy = || {
            let mut curl = host.beside(Path::new("curl"));
            curl.args(["--silent", "--fail", "--max-time", "2", &health]).output().is_ok_and(|output| output.status.success())
        };
        server.wait_until(host.interrupt(), START_DEADLINE, healthy).context("the S3 server (SeaweedFS) did not start")?;
        let store = Self { server, s5cmd: host.programs().installed("s5cmd"), endpoint };
        // The S3 port answers before the volume server has room, and the first object written waits for that room: tests should not.
        store.until_done(host, &["mb", &format!("s3://{BUCKET}")])?;
        let probe = host.file("probe");
        std::fs::write(&probe, [1; 4096])?;
        let object = format!("s3://{BUCKET}/probe");
        store.until_done(host, &["cp", &probe.to_string_lossy(), &object])?;
        store.until_done(host, &["rm", &object])?;
        Ok(store)
    }

    /// Runs s5cmd until the store, which has just started, does what it asks.
    fn until_done(&self, host: &impl Host, arguments: &[&str]) -> Result<()> {
        let start = Instant::now();
        loop {
            let ran = self.s5cmd_at_server(host, arguments)?;
            match ran.success(&format!("s5cmd {}", arguments.join(" "))) {
                // After an internal error s5cmd asks again by itself, and may then be told that the bucket it asked for is there.
                Err(_) if ran.stderr.contains("BucketAlreadyOwnedByYou") => return Ok(()),
                Err(_) if start.elapsed() < START_DEADLINE => std::thread::sleep(Duration::from_millis(500)),
                ended => return ended.map(drop),
            }
        }
    }

    /// Its URL, in both namespaces if there are such.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
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
        command.args(["--endpoint-url", &self.endpoint]).args(arguments);
        command
    }

    /// Runs s5cmd beside the store.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn s5cmd_at_server(&self, host: &impl Host, arguments: &[&str]) -> Result<Finished> {
        run(&mut self.configure(host.beside(&self.s5cmd), arguments), host.interrupt(), COMMAND_DEADLINE)
    }

    /// Runs s5cmd at the client, across the WAN, with a deadline.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn s5cmd_at_client(&self, testbed: &Testbed, arguments: &[&str], deadline: Duration) -> Result<Finished> {
        run(&mut self.configure(testbed.client(&self.s5cmd), arguments), &testbed.interrupt, deadline)
    }

    /// A signed request by curl, with further arguments: for what s5cmd does not ask.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn ask(&self, host: &impl Host, arguments: &[&str], path: &str) -> Result<Finished> {
        let mut curl = host.beside(Path::new("curl"));
        curl.args(["--silent", "--fail-with-body", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &format!("{ACCESS_KEY}:{SECRET_KEY}")]);
        curl.args(arguments).arg(format!("{}/{path}", self.endpoint));
        let answer = run(&mut curl, host.interrupt(), COMMAND_DEADLINE)?;
        answer.success(&format!("asking the store for {path}"))?;
        Ok(answer)
    }

    /// Keys of the multipart uploads that are open.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn uploads(&self, host: &impl Host) -> Result<Vec<String>> {
        let listed = self.ask(host, &[], &format!("{BUCKET}?uploads="))?;
        let keys = listed.stdout.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        Ok(keys.map(|(key, _)| key.to_owned()).collect())
    }

    /// Fetches an object with s5cmd and returns its SHA-256.
    ///
    /// # Errors
    /// When it is not there.
    pub fn sha256(&self, host: &impl Host, key: &str) -> Result<String> {
        let file = host.file("fetched");
        let name = file.to_string_lossy();
        self.s5cmd_at_server(host, &["cp", &format!("s3://{BUCKET}/{key}"), &name])?.success("s5cmd cp")?;
        let sum = sha256_of_file(&file);
        std::fs::remove_file(&file)?;
        sum
    }
}

impl Store {
    /// The store `weed` of a configuration of tradewindd, with all its buckets.
    #[must_use]
    pub fn section(&self) -> String {
        format!(
            r#"
[stores.weed]
kind = "s3"
endpoint = "{}"
region = "us-east-1"
buckets = ["*"]
access_key = "{ACCESS_KEY}"
secret_key = "{SECRET_KEY}"
"#,
            self.endpoint
        )
    }
}

/// Makes a file of zeros that are there, and no holes: those would not be sent.
///
/// # Errors
/// When the disk is full.
pub fn write_zeros(path: &Path, bytes: u64) -> Result<()> {
    let copied = std::io::copy(&mut std::io::repeat(0).take(bytes), &mut std::fs::File::create(path)?);
    copied.map(drop).with_context(|| format!("cannot make {}", path.display()))
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
