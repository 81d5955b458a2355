//! Apache Hadoop's libraries: a NameNode and a DataNode to test HDFS with. PySpark's source package on PyPI carries them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::packages;
use crate::process;

const PYSPARK: &str = "pyspark==2.4.8";
/// Written last, so an interrupted installation is done again.
const STAMP: &str = "tradewind-version";
const VERSION: &str = "Hadoop 2.7.3 of pyspark 2.4.8\n";

/// What of its libraries a NameNode and a DataNode need, as names begin.
const JARS: &str = "hadoop-common hadoop-hdfs hadoop-auth hadoop-annotations commons- guava- jetty- protobuf-java slf4j- log4j- javax.servlet htrace netty- \
                    xercesImpl xmlenc leveldbjni jackson-core-asl jackson-mapper-asl jsr305 apacheds api- curator zookeeper httpclient httpcore jaxb-api activation";

/// What Debian has: WebHDFS needs Jersey, which PySpark has in another version.
const DEBIAN: [&str; 5] =
    ["openjdk-17-jre-headless", "libjersey1-core-java", "libjersey1-server-java", "libjersey1-servlet-java", "libasm-java"];

/// Installs them into `cache`, unless they are there. Tests that need them say so where that is not possible.
pub(super) fn ensure(cache: &Path) -> Result<()> {
    let folder = cache.join("hadoop");
    if let Err(error) = packages::ensure_more(&DEBIAN) {
        eprintln!("HDFS will not be tested: {error:#}");
        return Ok(());
    }
    if fs::read_to_string(folder.join(STAMP)).is_ok_and(|text| text == VERSION) {
        return Ok(());
    }
    if Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        eprintln!("HDFS will not be tested: java is not installed");
        return Ok(());
    }
    eprintln!("installing Hadoop out of {PYSPARK} into {}", folder.display());
    let download = cache.join("hadoop-download");
    for directory in [&folder, &download] {
        // What an interrupted installation has left goes away.
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let unpacked = unpack(&download, &folder);
    // 220 MB of which nothing is needed any more.
    fs::remove_dir_all(&download).with_context(|| format!("cannot remove {}", download.display()))?;
    if let Err(error) = unpacked {
        eprintln!("HDFS will not be tested: {PYSPARK} cannot be had from PyPI: {error:#}");
        return Ok(());
    }
    fs::write(folder.join(STAMP), VERSION).with_context(|| format!("cannot write {}", folder.join(STAMP).display()))
}

/// Loads the source package into one directory, and puts what is needed of it into the other.
fn unpack(download: &Path, folder: &Path) -> Result<()> {
    let python = download.join("venv/bin/python");
    process::run(Command::new("python3").args(["-m", "venv"]).arg(download.join("venv")))?;
    // pip looks into a source package by its own build.
    process::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "setuptools<81", "wheel"]))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", PYSPARK]);
    process::run(pip.current_dir(download))?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(download.join("pyspark-2.4.8.tar.gz")).arg("-C").arg(folder).args(["--strip-components=3", "--wildcards"]);
    process::run(tar.args(JARS.split_whitespace().map(|name| format!("pyspark-2.4.8/deps/jars/{name}*.jar"))))
}
