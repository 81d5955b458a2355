//! Azurite, Microsoft's emulator of Azure Blob Storage, on loopback. It checks signatures and ignores checksums.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{Background, Interrupt};
use crate::testbed::venv;
use crate::{fetch, url_path};

/// Its one account, as documented.
pub const ACCOUNT: &str = "devstoreaccount1";
/// The account's key, as documented.
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// The container that is there.
pub const CONTAINER: &str = "test";

const START_DEADLINE: Duration = Duration::from_secs(120);

/// Makes a container whose blobs everybody may read; signed by another program than the one under test.
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
port, account, key, name = sys.argv[1:]
date = email.utils.formatdate(usegmt=True)
headers = {"x-ms-blob-public-access": "blob", "x-ms-date": date, "x-ms-version": "2021-12-02"}
own = "".join(f"{k}:{v}\n" for k, v in sorted(headers.items()))
text = "PUT" + "\n" * 12 + f"{own}/{account}/{account}/{name}\nrestype:container"
mac = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
headers |= {"Authorization": f"SharedKey {account}:{mac}", "Content-Length": "0", "Content-Type": ""}
url = f"http://127.0.0.1:{port}/{account}/{name}?restype=container"
urllib.request.urlopen(urllib.request.Request(url, data=b"", method="PUT", headers=headers)).read()
"#;

/// A running Azurite with an empty container.
pub struct Azurite {
    _process: Background,
    _folder: TempDir,
    port: u16,
}

impl Azurite {
    /// Starts it, or prints `SKIP: reason` and returns `None` where it is not installed: `cargo xtask setup` puts it beside the environment
    /// `TRADEWIND_VENV`, or into `~/.cache/tradewind`; `TRADEWIND_AZURITE` names the program `azurite-blob` elsewhere.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start() -> Result<Option<Self>> {
        let program = program()?;
        if !program.exists() {
            println!("SKIP: Azure is not tested: no {}; `cargo xtask setup` installs it where npm is", program.display());
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("twazurite-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent", "--skipApiVersionCheck", "-l"]);
        let mut process = Background::start(command.arg(folder.path().join("data")), &folder.path().join("log"))?;
        let made = || {
            let mut python = Command::new("python3");
            python.args(["-c", MAKE_CONTAINER, &port.to_string(), ACCOUNT, KEY, CONTAINER]);
            python.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        process.wait_until(&Interrupt::default(), START_DEADLINE, made).context("Azurite did not start")?;
        Ok(Some(Self { _process: process, _folder: folder, port }))
    }

    /// URL below which containers lie.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// A blob as curl fetches it, without a signature.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        fetch(&format!("{}/{CONTAINER}/{}", self.endpoint(), url_path(key)))
    }
}

fn program() -> Result<PathBuf> {
    Ok(match std::env::var_os("TRADEWIND_AZURITE") {
        Some(named) => named.into(),
        None => venv()?.with_file_name("azurite").join("node_modules/.bin/azurite-blob"),
    })
}
