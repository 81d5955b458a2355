//! Apache Hadoop on loopback: a NameNode and a DataNode, with simple authentication and permissions.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{Background, Interrupt};
use crate::testbed::venv;
use crate::url_path;

/// What it is, for tables.
pub const SERVER: &str = "Hadoop 2.7.3";
/// The user whose directory is there.
pub const USER: &str = "tradewind";
/// That directory.
pub const ROOT: &str = "/tradewind";

const START_DEADLINE: Duration = Duration::from_secs(180);
/// Who may do everything: who runs the NameNode.
const SUPERUSER: &str = "root";
/// Libraries of WebHDFS that come from the distribution.
const JERSEY: &str = "jersey1-server.jar jersey1-core.jar jersey1-servlet.jar jsr311-api.jar asm.jar";
const JAVA: &str = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx512m -Djava.net.preferIPv4Stack=true \
                    --add-opens java.base/java.lang=ALL-UNNAMED --add-opens java.base/java.util=ALL-UNNAMED \
                    --add-opens java.base/java.nio=ALL-UNNAMED --add-opens java.base/sun.nio.ch=ALL-UNNAMED \
                    --add-exports java.security.jgss/sun.security.krb5=ALL-UNNAMED --add-opens java.security.jgss/sun.security.krb5=ALL-UNNAMED";
const LOG: &str = "log4j.rootLogger=INFO,A
log4j.appender.A=org.apache.log4j.ConsoleAppender
log4j.appender.A.target=System.err
log4j.appender.A.layout=org.apache.log4j.PatternLayout
log4j.appender.A.layout.ConversionPattern=%d %p %c{1}: %m%n
";

/// A running cluster with an empty directory.
pub struct Hdfs {
    datanode: Background,
    _namenode: Background,
    folder: TempDir,
    /// Of the NameNode's web server.
    port: u16,
    rpc_port: u16,
    /// Of the DataNode's web server.
    datanode_port: u16,
}

impl Hdfs {
    /// Starts it, or prints `SKIP: reason` and returns `None` where `cargo xtask setup` has not installed it.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of a log.
    pub fn start() -> Result<Option<Self>> {
        if let Some(reason) = missing()? {
            println!("SKIP: HDFS is not tested: {reason}; `cargo xtask setup` installs it on Debian");
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("twhdfs-").tempdir()?;
        // Held until all are known, so that no two are the same.
        let held: Vec<TcpListener> = (0..5).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        let ports: Vec<u16> = held.iter().map(|held| Ok(held.local_addr()?.port())).collect::<std::io::Result<_>>()?;
        drop(held);
        write_configuration(folder.path(), &ports)?;
        let formatted = java(folder.path(), "hdfs.server.namenode.NameNode")?.args(["-format", "-nonInteractive"]).output()?;
        anyhow::ensure!(
            formatted.status.success(),
            "a NameNode's directory cannot be made: {}",
            String::from_utf8_lossy(&formatted.stderr)
        );
        let start = |class: &str, log: &str| Background::start(&mut java(folder.path(), class)?, &folder.path().join(log));
        let mut namenode = start("hdfs.server.namenode.NameNode", "namenode.log")?;
        let datanode = start("hdfs.server.datanode.DataNode", "datanode.log")?;
        let state = format!("http://127.0.0.1:{}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState", ports[1]);
        let is_up = || crate::fetch(&state).ok().flatten().is_some_and(|state| has_datanode(&String::from_utf8_lossy(&state)));
        namenode.wait_until(&Interrupt::default(), START_DEADLINE, is_up).context("HDFS did not start")?;
        let hdfs = Self { datanode, _namenode: namenode, folder, port: ports[1], rpc_port: ports[0], datanode_port: ports[3] };
        hdfs.make_root(ROOT)?;
        Ok(Some(hdfs))
    }

    /// Makes a directory that is [`USER`]'s.
    ///
    /// # Errors
    /// When that is refused.
    pub fn make_root(&self, path: &str) -> Result<()> {
        self.ask("PUT", path, "op=MKDIRS&permission=755")?;
        self.ask("PUT", path, &format!("op=SETOWNER&owner={USER}")).map(|_| ())
    }

    /// Address of the NameNode's web server.
    #[must_use]
    pub fn namenode(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Address of its RPC port.
    #[must_use]
    pub fn rpc_address(&self) -> String {
        format!("127.0.0.1:{}", self.rpc_port)
    }

    /// A file as curl fetches it; the path is absolute and as HDFS has it.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        // Its DataNode decodes '%' twice, and gets names in Unicode's form NFC; a file's number is neither.
        let number = if path.contains('%') || !path.is_ascii() { self.number(path)? } else { None };
        let output = self.curl("GET", number.as_deref().unwrap_or(path), "op=OPEN")?;
        Ok(output.status.success().then_some(output.stdout))
    }

    /// Another path of a file, by its number.
    fn number(&self, path: &str) -> Result<Option<String>> {
        let output = self.curl("GET", path, "op=GETFILESTATUS")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let digits = text.split_once("\"fileId\":").map(|(_, rest)| rest.split(',').next().unwrap_or_default().to_owned());
        Ok(digits.map(|number| format!("/.reserved/.inodes/{number}")))
    }

    /// Asks WebHDFS with curl, as who may do everything.
    ///
    /// # Errors
    /// When that is refused.
    pub fn ask(&self, method: &str, path: &str, query: &str) -> Result<String> {
        let output = self.curl(method, path, query)?;
        anyhow::ensure!(output.status.success(), "curl {method} {path}?{query}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn curl(&self, method: &str, path: &str, query: &str) -> Result<Output> {
        let url = format!("{}/webhdfs/v1{}?{query}&user.name={SUPERUSER}", self.namenode(), url_path(path));
        Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--location", "-X", method, &url])
            .output()
            .context("cannot start curl")
    }

    /// What a program of Hadoop prints, for instance `fs.FsShell` or `hdfs.tools.DFSAdmin`.
    ///
    /// # Errors
    /// When it fails.
    pub fn hadoop(&self, class: &str, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = java(self.folder.path(), class)?.args(arguments).output().context("cannot start java")?;
        anyhow::ensure!(output.status.success(), "{class} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    /// The DataNode, to freeze it.
    #[must_use]
    pub fn datanode(&self) -> &Background {
        &self.datanode
    }

    /// How many connections for data it has.
    ///
    /// # Errors
    /// When it does not say.
    pub fn transfers(&self) -> Result<u64> {
        let info = format!("http://127.0.0.1:{}/jmx?qry=Hadoop:service=DataNode,name=DataNodeInfo", self.datanode_port);
        let info = crate::fetch(&info)?.context("a DataNode tells nothing of itself")?;
        let info: serde_json::Value = serde_json::from_slice(&info)?;
        info["beans"][0]["XceiverCount"].as_u64().context("it tells no XceiverCount")
    }

    /// The files of its blocks, those too that are being written.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn blocks(&self) -> Result<Vec<PathBuf>> {
        let (mut blocks, mut folders) = (Vec::new(), vec![self.folder.path().join("datanode")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_none() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("blk_")) {
                    blocks.push(path);
                }
            }
        }
        Ok(blocks)
    }

    /// Ends the DataNode at once, as a machine that fails.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_datanode(&mut self) -> Result<()> {
        self.datanode.signal(nix::sys::signal::Signal::SIGKILL);
        self.stop_datanode()
    }

    /// Ends the DataNode; the NameNode does not know yet.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_datanode(&mut self) -> Result<()> {
        self.datanode.stop().map(|_| ())
    }
}

fn has_datanode(state: &str) -> bool {
    state.contains("\"NumLiveDataNodes\" : 1") && state.contains("\"FSState\" : \"Operational\"")
}

/// Where the libraries of Hadoop are.
fn jars() -> Result<PathBuf> {
    Ok(venv()?.parent().context("the environment is in a directory")?.join("hadoop"))
}

/// What is not there.
fn missing() -> Result<Option<String>> {
    let jars = jars()?;
    let mut needed: Vec<PathBuf> = JERSEY.split(' ').map(|name| Path::new("/usr/share/java").join(name)).collect();
    needed.push(jars.join("tradewind-version"));
    if let Some(file) = needed.into_iter().find(|file| !file.exists()) {
        return Ok(Some(format!("no {}", file.display())));
    }
    Ok(Command::new("java").arg("-version").output().is_err().then(|| "no java".to_owned()))
}

/// A program of Hadoop, as who may do everything.
fn java(folder: &Path, class: &str) -> Result<Command> {
    let mut path = vec![folder.join("conf"), folder.join("web")];
    for jar in fs::read_dir(jars()?)? {
        path.extend(Some(jar?.path()).filter(|jar| jar.extension().is_some_and(|extension| extension == "jar")));
    }
    path.extend(JERSEY.split(' ').map(|name| Path::new("/usr/share/java").join(name)));
    let mut command = Command::new("java");
    command.args(JAVA.split_whitespace()).arg(format!("-Dhadoop.home.dir={}", folder.display()));
    // Jetty leaves a directory in it for each web server.
    command.arg(format!("-Djava.io.tmpdir={}", folder.join("tmp").display()));
    command.arg("-cp").arg(std::env::join_paths(path)?).arg(format!("org.apache.hadoop.{class}"));
    command.env("HADOOP_USER_NAME", SUPERUSER).current_dir(folder);
    Ok(command)
}

fn write_configuration(folder: &Path, ports: &[u16]) -> Result<()> {
    let at = folder.display();
    let [rpc, web, data, data_web, data_rpc] = ports else { anyhow::bail!("there are five ports") };
    let core = [("fs.defaultFS", format!("hdfs://127.0.0.1:{rpc}")), ("hadoop.tmp.dir", format!("{at}/tmp"))];
    let local = |port: &u16| format!("127.0.0.1:{port}");
    let hdfs = [
        ("dfs.namenode.name.dir", format!("file://{at}/namenode")),
        ("dfs.datanode.data.dir", format!("file://{at}/datanode")),
        ("dfs.replication", "1".to_owned()),
        ("dfs.namenode.rpc-bind-host", "127.0.0.1".to_owned()),
        ("dfs.namenode.http-address", local(web)),
        ("dfs.namenode.safemode.extension", "0".to_owned()),
        ("dfs.namenode.datanode.registration.ip-hostname-check", "false".to_owned()),
        ("dfs.datanode.address", local(data)),
        ("dfs.datanode.http.address", local(data_web)),
        ("dfs.datanode.ipc.address", local(data_rpc)),
        ("dfs.datanode.hostname", "127.0.0.1".to_owned()),
        ("dfs.permissions.enabled", "true".to_owned()),
        ("dfs.permissions.superusergroup", "supergroup".to_owned()),
    ];
    let xml = |pairs: &[(&str, String)]| {
        let lines = pairs.iter().map(|(name, value)| format!("<property><name>{name}</name><value>{value}</value></property>\n"));
        format!("<configuration>\n{}</configuration>\n", lines.collect::<String>())
    };
    fs::create_dir_all(folder.join("conf"))?;
    fs::create_dir_all(folder.join("tmp"))?;
    fs::write(folder.join("conf/core-site.xml"), xml(&core))?;
    fs::write(folder.join("conf/hdfs-site.xml"), xml(&hdfs))?;
    fs::write(folder.join("conf/log4j.properties"), LOG)?;
    // The jars from PyPI are without these.
    for name in ["hdfs", "datanode", "static"] {
        let web = folder.join("web/webapps").join(name).join("WEB-INF");
        fs::create_dir_all(&web)?;
        fs::write(web.join("web.xml"), "<web-app/>")?;
    }
    Ok(())
}
