//! `tradewind verify`: has a server read stored objects again and compare them with a manifest.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use serde_json::json;
use tradewind_api::limits::VERIFY_BODY_BYTES_MAX;
use tradewind_api::{Client, DestinationUrl, ErrorCode, VERIFY_LINES_MAX, Verdict, Verified, exit};
use tradewind_integrity::{MANIFEST_LINE_BYTES_MAX, ManifestLine};

use crate::connect::connect;
use crate::failure::Failure;
use crate::options::ServerOptions;
use crate::{display, events, units};

/// Bytes of files in one request: a request that broke is not repeated from its beginning for too much, and progress is told between.
const REQUEST_FILE_BYTES: u64 = 64 << 30;

/// `tradewind verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyOptions {
    /// Where the files were sent to.
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,
    /// The manifest that `tradewind send --manifest` wrote.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: PathBuf,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Print an object of JSON a line: an event `file` for each that differs, is missing or cannot be read, `progress`, and `verified` at the
    /// end.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What has become of the lines so far.
#[derive(Debug, Default)]
struct Tally {
    same: u64,
    different: u64,
    missing: u64,
    failed: u64,
    /// Only their size could be compared.
    unproved: u64,
    bytes: u64,
    first_failure: Option<(ErrorCode, String)>,
}

/// Verifies all lines, a part at a time.
pub(crate) async fn verify(options: &VerifyOptions) -> Result<u8, Failure> {
    let usage = |detail: String| Failure::Usage { detail, hint: "give the destination as it was given to `tradewind send`".to_owned() };
    DestinationUrl::parse(&options.destination).map_err(|error| usage(error.to_string()))?;
    let mut lines = Lines::open(&options.manifest)?;
    let client = connect(&options.server, options.json).await?;
    let mut tally = Tally::default();
    while let Some(part) = lines.part()? {
        verify_part(&client, options, part, &mut tally).await?;
    }
    tally.end(options)
}

async fn verify_part(client: &Client, options: &VerifyOptions, part: Part, tally: &mut Tally) -> Result<(), Failure> {
    let before = tally.bytes;
    let mut waiting: HashMap<u32, String> = (0..).zip(part.paths).collect();
    let mut on_verified = |verified: Verified| {
        tally.bytes = before + verified.bytes;
        for (index, verdict) in verified.verdicts {
            if let Some(path) = waiting.remove(&index) {
                tally.count(&path, verdict, options.json);
            }
        }
        if options.json {
            events::emit(&json!({ "event": "progress", "files": tally.files(), "bytes": tally.bytes }));
        }
    };
    client.verify(&options.destination, part.body, &mut on_verified).await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let detail = format!("the server said nothing of {}", units::count(waiting.len() as u64, "line", "lines"));
    Err(Failure::Local { what: "the verification is not complete", detail })
}

impl Tally {
    fn files(&self) -> u64 {
        self.same + self.different + self.missing + self.failed
    }

    fn count(&mut self, path: &str, verdict: Verdict, json: bool) {
        let (state, what) = match verdict {
            Verdict::Same { checksums } => {
                self.same += 1;
                self.unproved += u64::from(checksums.is_empty());
                return;
            }
            Verdict::Different { what } => {
                self.different += 1;
                ("different", what)
            }
            Verdict::Missing => {
                self.missing += 1;
                ("missing", "there is no such object".to_owned())
            }
            Verdict::Failed { code, text } => {
                self.failed += 1;
                self.first_failure.get_or_insert((code, text.clone()));
                ("failed", text)
            }
        };
        if json {
            events::emit(&json!({ "event": "file", "path": path, "state": state, "message": what }));
        } else {
            display::result(&format!("{state}: {}: {what}", path));
        }
    }

    fn end(self, options: &VerifyOptions) -> Result<u8, Failure> {
        let Self { same, different, missing, failed, unproved, bytes, first_failure } = self;
        if options.json {
            events::emit(&json!({
                "event": "verified", "same": same, "different": different, "missing": missing, "failed": failed,
                "unproved": unproved, "bytes": bytes,
            }));
        } else {
            let files = units::count(same, "file is", "files are");
            display::result(&format!("{files} as in the manifest, {different} different, {missing} missing, {failed} not read"));
            if unproved > 0 {
                display::note(&format!(
                    "the manifest has no checksum of {}: only sizes were compared",
                    units::count(unproved, "file", "files")
                ));
            }
        }
        match first_failure {
            _ if different + missing > 0 => Err(Failure::Differs {
                detail: format!("{different} different and {missing} missing of the files in {}", options.manifest.display()),
            }),
            Some((code, text)) => Err(Failure::NotVerified { code, files: failed, text }),
            None => Ok(exit::OK),
        }
    }
}

/// Lines for one request.
struct Part {
    body: Vec<u8>,
    paths: Vec<String>,
}

/// Reads a manifest a part at a time.
struct Lines {
    input: BufReader<File>,
    path: PathBuf,
    number: u64,
    /// Read, and not in a part yet.
    next: Option<(Vec<u8>, ManifestLine)>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, Failure> {
        let input = File::open(path).map_err(|source| Failure::Walk { path: path.to_owned(), source })?;
        Ok(Self { input: BufReader::new(input), path: path.to_owned(), number: 0, next: None })
    }

    /// As much as fits a request; `None` at the end.
    fn part(&mut self) -> Result<Option<Part>, Failure> {
        let (mut part, mut file_bytes) = (Part { body: Vec::new(), paths: Vec::new() }, 0u64);
        loop {
            let next = match self.next.take() {
                Some(next) => Some(next),
                None => self.line()?,
            };
            let Some((text, line)) = next else { break };
            let is_full = part.paths.len() >= VERIFY_LINES_MAX
                || part.body.len() + text.len() > VERIFY_BODY_BYTES_MAX
                || file_bytes.saturating_add(line.size) > REQUEST_FILE_BYTES;
            if is_full && !part.paths.is_empty() {
                self.next = Some((text, line));
                break;
            }
            file_bytes = file_bytes.saturating_add(line.size);
            part.body.extend_from_slice(&text);
            part.paths.push(line.path);
        }
        Ok((!part.paths.is_empty()).then_some(part))
    }

    /// The next line, as it is sent: only what is compared.
    fn line(&mut self) -> Result<Option<(Vec<u8>, ManifestLine)>, Failure> {
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut self.input).take(MANIFEST_LINE_BYTES_MAX as u64 + 2);
            limited.read_until(b'\n', &mut line).map_err(|source| Failure::Walk { path: self.path.clone(), source })?;
            if line.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let wrong = |reason: &dyn std::fmt::Display| Failure::Usage {
                detail: format!("line {} of {}: {reason}", self.number, self.path.display()),
                hint: "give a manifest as `tradewind send --manifest` writes it".to_owned(),
            };
            let line = ManifestLine::parse(line).map_err(|error| wrong(&error))?;
            let ManifestLine { path, path_base64, size, crc64nvme, md5, sha1, sha256, blake3, .. } = line;
            let line = ManifestLine { path, path_base64, size, crc64nvme, md5, sha1, sha256, blake3, ..ManifestLine::default() };
            let mut text = serde_json::to_vec(&line).map_err(|error| wrong(&error))?;
            text.push(b'\n');
            if text.len() > VERIFY_BODY_BYTES_MAX {
                return Err(wrong(&"it is too long for a request"));
            }
            return Ok(Some((text, line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Result<Vec<Vec<String>>, u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        std::fs::write(&path, text).unwrap();
        let mut lines = Lines::open(&path).map_err(|failure| failure.exit_code())?;
        let mut parts = Vec::new();
        while let Some(part) = lines.part().map_err(|failure| failure.exit_code())? {
            assert!(part.body.len() <= VERIFY_BODY_BYTES_MAX);
            assert_eq!(part.body.iter().filter(|&&byte| byte == b'\n').count(), part.paths.len());
            parts.push(part.paths);
        }
        Ok(parts)
    }

    #[test]
    fn a_manifest_is_cut_into_parts_that_fit_and_nothing_is_lost() {
        let line = |name: &str, size: u64| format!("{{\"path\":\"{name}\",\"size\":{size},\"etag\":\"e\"}}\n");
        assert_eq!(parts("").unwrap(), [[""; 0]; 0]);
        assert_eq!(parts("\n\n").unwrap(), [[""; 0]; 0]);
        assert_eq!(parts(line("a", 1).trim_end()).unwrap(), [["a"]], "without its line end too");
        let many: String = (0..1000).map(|number| line(&format!("{number}-{}", "x".repeat(300)), 1)).collect();
        let cut = parts(&many).unwrap();
        assert!(cut.len() > 3 && cut.iter().all(|part| part.len() <= VERIFY_LINES_MAX));
        let paths: Vec<u32> = cut.iter().flatten().map(|path| path.split('-').next().unwrap().parse().unwrap()).collect();
        assert_eq!(paths, (0..1000).collect::<Vec<_>>());
        let large = [line("a", REQUEST_FILE_BYTES + 1), line("b", u64::MAX), line("c", 1)].concat();
        assert_eq!(parts(&large).unwrap(), [["a"], ["b"], ["c"]]);
    }

    #[test]
    fn what_is_no_manifest_is_refused_by_its_line() {
        for bad in ["x", "{\"path\":\"a\"}", &"y".repeat(MANIFEST_LINE_BYTES_MAX + 10)] {
            assert_eq!(parts(bad), Err(exit::USAGE));
        }
    }
}
