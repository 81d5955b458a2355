//! What proves a transfer: its manifest and receipt, fetched when it has ended, and `tradewind verify-receipt` and `receipt-key`.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use clap::{Args, ValueHint};
use serde_json::json;
use tradewind_api::{Client, exit};
use tradewind_integrity::{PublicKey, hex};

use crate::connect::connect;
use crate::failure::Failure;
use crate::options::ServerOptions;
use crate::{display, events};

/// Largest receipt that is read, bytes.
const RECEIPT_BYTES_MAX: u64 = 64 * 1024;

/// What `tradewind send` fetches at the end.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ProofOptions {
    /// Write a line of JSON for each file that is durable to FILE: path, size, time, checksums, entity tag, version. With --resume
    /// attributes also for those that were there before.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,
    /// Write the server's signed receipt to FILE; `tradewind verify-receipt` checks it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) receipt: Option<PathBuf>,
}

/// `tradewind verify-receipt`.
#[derive(Debug, Args)]
pub(crate) struct VerifyReceiptOptions {
    /// The receipt.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) receipt: PathBuf,
    /// The server's key as `tradewind receipt-key` prints it, or a file that holds it.
    #[arg(long, value_name = "ed25519:…|FILE")]
    pub(crate) key: String,
    /// Also check that this is the manifest that the receipt is about.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,
    /// Print the receipt as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tradewind receipt-key`.
#[derive(Debug, Args)]
pub(crate) struct ReceiptKeyOptions {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Print the server's answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl ProofOptions {
    /// Fetches what is wanted of a transfer that has ended well.
    pub(crate) async fn fetch(&self, client: &Client, transfer_id: &str) -> Result<(), Failure> {
        if let Some(path) = &self.manifest {
            fetch_manifest(client, transfer_id, path).await.map_err(|detail| lost("manifest", &detail))?;
        }
        if let Some(path) = &self.receipt {
            let document = client.receipt(transfer_id).await.map_err(|error| lost("receipt", &error.to_string()))?;
            write_whole(path, |out| out.write_all(document.as_bytes())).map_err(|error| lost("receipt", &at(path, &error)))?;
        }
        Ok(())
    }
}

async fn fetch_manifest(client: &Client, transfer_id: &str, path: &Path) -> Result<(), String> {
    let partial = partial(path);
    let mut out = File::create(&partial).map(BufWriter::new).map_err(|error| at(&partial, &error))?;
    let mut written = Ok(());
    let fetched = client
        .manifest(transfer_id, &mut |bytes| {
            written = out.write_all(bytes);
            written.is_ok()
        })
        .await;
    let ended = fetched
        .map_err(|error| error.to_string())
        .and_then(|()| written.and_then(|()| out.flush()).and_then(|()| std::fs::rename(&partial, path)).map_err(|error| at(path, &error)));
    if ended.is_err() {
        // Half a manifest must not be taken for one.
        let _ = std::fs::remove_file(&partial);
    }
    ended
}

fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let partial = partial(path);
    write(&mut File::create(&partial)?)?;
    std::fs::rename(&partial, path)
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tradewind-partial");
    name.into()
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// The files are safe, but who asked for a proof has none.
fn lost(what: &'static str, detail: &str) -> Failure {
    let what = if what == "manifest" {
        "everything is durable, but the manifest could not be fetched"
    } else {
        "everything is durable, but the receipt could not be fetched"
    };
    Failure::Local { what, detail: detail.to_owned() }
}

/// Checks a receipt without asking anybody.
pub(crate) fn verify_receipt(options: &VerifyReceiptOptions) -> Result<u8, Failure> {
    let key = key(&options.key)?;
    let document = read_text(&options.receipt)?;
    let differs = |detail: String| Failure::Differs { detail };
    let receipt =
        key.verify(&document).map_err(|error| differs(format!("{} is not to be believed: {error}", options.receipt.display())))?;
    if let Some(path) = &options.manifest {
        let found = sha256_of(path).map_err(|source| Failure::Walk { path: path.clone(), source })?;
        match &receipt.manifest_sha256 {
            Some(expected) if *expected == found => {}
            Some(_) => return Err(differs(format!("{} is not the manifest that the receipt is about, or was changed", path.display()))),
            None => return Err(differs("the receipt names no manifest: the server could not write one".to_owned())),
        }
    }
    if options.json {
        events::emit(&receipt);
    } else {
        display::result(&format!(
            "good: {} sent {} files, {} bytes, to {}, all durable at {} (transfer {}, key {})",
            receipt.user, receipt.files, receipt.bytes, receipt.destination, receipt.finished, receipt.transfer_id, receipt.key_id
        ));
        if options.manifest.is_some() {
            display::result("the manifest is the one of this transfer");
        }
    }
    Ok(exit::OK)
}

/// Prints the key of a server.
pub(crate) async fn receipt_key(options: &ReceiptKeyOptions) -> Result<u8, Failure> {
    let client = connect(&options.server, options.json).await?;
    let key = client.receipt_key().await?;
    if options.json {
        events::emit(&json!({ "key_id": key.key_id, "public_key": key.public_key }));
    } else {
        display::result(&key.public_key);
    }
    Ok(exit::OK)
}

fn key(text: &str) -> Result<PublicKey, Failure> {
    let text = if text.starts_with("ed25519:") { text.to_owned() } else { read_text(Path::new(text))? };
    let hint = "ask the server with `tradewind receipt-key`, once and over a connection that you trust";
    text.trim()
        .parse()
        .map_err(|error: tradewind_integrity::ReceiptError| Failure::Usage { detail: error.to_string(), hint: hint.to_owned() })
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(RECEIPT_BYTES_MAX + 1).read_to_string(&mut text));
    read.map(|_| text).map_err(|source| Failure::Walk { path: path.to_owned(), source })
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let (mut file, mut buffer, mut context) = (File::open(path)?, vec![0; 1 << 20], Context::new(&SHA256));
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(context.finish().as_ref())),
            read => context.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use tradewind_integrity::{Receipt, SigningKey};

    use super::*;

    #[test]
    fn a_receipt_and_its_manifest_are_checked_offline() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("manifest"), "{}\n").unwrap();
        let signing = SigningKey::generate().unwrap();
        let receipt = Receipt {
            kind: String::new(),
            transfer_id: "t".into(),
            user: "u".into(),
            destination: "s3://bucket/".into(),
            files: 1,
            bytes: 2,
            started: String::new(),
            finished: String::new(),
            manifest_sha256: Some(sha256_of(&path("manifest")).unwrap()),
            server: String::new(),
            key_id: String::new(),
        };
        std::fs::write(path("receipt"), signing.sign(receipt).unwrap()).unwrap();
        std::fs::write(path("key"), format!("{}\n", signing.public())).unwrap();
        let check = |key: &str, manifest: Option<&str>| {
            let options = VerifyReceiptOptions { receipt: path("receipt"), key: key.to_owned(), manifest: manifest.map(path), json: false };
            verify_receipt(&options).map_err(|failure| failure.exit_code())
        };
        let in_file = path("key").display().to_string();
        assert_eq!(check(&signing.public().to_string(), None), Ok(exit::OK));
        assert_eq!(check(&in_file, Some("manifest")), Ok(exit::OK));
        assert_eq!(check(&in_file, Some("missing")), Err(exit::SOURCE));
        assert_eq!(check("ed25519:AAAA", None), Err(exit::USAGE));
        assert_eq!(check(&SigningKey::generate().unwrap().public().to_string(), None), Err(exit::SOURCE));
        std::fs::write(path("manifest"), "{ }\n").unwrap();
        assert_eq!(check(&in_file, Some("manifest")), Err(exit::SOURCE));
        let changed = std::fs::read_to_string(path("receipt")).unwrap().replace("\"files\":1", "\"files\":2");
        std::fs::write(path("receipt"), changed).unwrap();
        assert_eq!(check(&in_file, None), Err(exit::SOURCE));
    }
}
