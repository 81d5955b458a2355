//! An emulator of Google Cloud Storage's JSON API on loopback (`gcp-storage-emulator` from PyPI, not Google's). It compares CRC-32C; it knows no
//! credentials, no conditions and no pages.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{Background, Interrupt};
use crate::testbed::venv;
use crate::{fetch, url_path};

/// What it is, for tables.
pub const SERVER: &str = "gcp-storage-emulator 2026.7";
/// The bucket that is there.
pub const BUCKET: &str = "test";

const START_DEADLINE: Duration = Duration::from_secs(120);

/// It serves one connection at a time, so one that nobody says anything on would keep all others waiting: here they wait for requests only.
const START: &str = "
import sys, threading
from gcp_storage_emulator import server
from gcp_storage_emulator.__main__ import main

one_at_a_time = threading.Lock()

def locked(serve):
    def answer(self):
        with one_at_a_time:
            serve(self)
    return answer

for name in ('do_GET', 'do_POST', 'do_PUT', 'do_DELETE', 'do_PATCH'):
    setattr(server.RequestHandler, name, locked(getattr(server.RequestHandler, name)))
server.server.HTTPServer = server.server.ThreadingHTTPServer
sys.exit(main())
";

/// The running emulator with an empty bucket.
pub struct Gcs {
    _process: Background,
    _folder: TempDir,
    port: u16,
}

impl Gcs {
    /// Starts it, or prints `SKIP: reason` and returns `None` where `cargo xtask setup` has not installed it.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start() -> Result<Option<Self>> {
        let program = venv()?.join("bin/gcp-storage-emulator");
        if !program.exists() {
            println!("SKIP: Google Cloud Storage is not tested: no {}; `cargo xtask setup` installs it", program.display());
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("twgcs-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(venv()?.join("bin/python"));
        command.args(["-c", START, "--data-dir"]).arg(folder.path().join("data")).args(["start", "--quiet", "--host", "127.0.0.1"]);
        command.args(["--port", &port.to_string(), "--default-bucket", BUCKET]);
        let mut process = Background::start(&mut command, &folder.path().join("log"))?;
        let listing = format!("http://127.0.0.1:{port}/storage/v1/b/{BUCKET}/o");
        process
            .wait_until(&Interrupt::default(), START_DEADLINE, || crate::answers(&listing))
            .context("the emulator of Google Cloud Storage did not start")?;
        Ok(Some(Self { _process: process, _folder: folder, port }))
    }

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Names of all objects, as curl lists them.
    ///
    /// # Errors
    /// When there is no such list.
    pub fn names(&self) -> Result<Vec<String>> {
        let listed = fetch(&format!("{}/storage/v1/b/{BUCKET}/o", self.endpoint()))?.context("the bucket cannot be listed")?;
        let listed: serde_json::Value = serde_json::from_slice(&listed)?;
        let objects = listed["items"].as_array().context("objects")?;
        let mut names: Vec<String> = objects.iter().filter_map(|object| Some(object["name"].as_str()?.to_owned())).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// An object as curl fetches it.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        fetch(&format!("{}/{BUCKET}/{}", self.endpoint(), url_path(key)))
    }
}
