//! `--dry-run` of `get` and `copy`: which objects would be read, and under which names they would be written. Only the server's listing is asked.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tradewind_api::{ApiCode, Client, ClientError, ErrorCode, exit, last_part};
use tradewind_client::Selected;

use crate::display;
use crate::events;
use crate::failure::Failure;
use crate::objects::{Pages, parse, refused};
use crate::units;

/// What would be read.
pub(crate) struct DryRun<'a> {
    client: &'a Client,
    selected: &'a Selected,
    json: bool,
    quiet: bool,
    files: u64,
    bytes: u64,
    unselected: u64,
}

/// An object that is there.
struct Object<'a> {
    url: &'a str,
    /// Below what is read; a folder that is named without '/' at its end is its first component.
    path: &'a str,
    size: u64,
    modified_ns: Option<i64>,
}

impl<'a> DryRun<'a> {
    pub(crate) fn new(client: &'a Client, selected: &'a Selected, json: bool, quiet: bool) -> Self {
        Self { client, selected, json, quiet, files: 0, bytes: 0, unselected: 0 }
    }

    /// Prints what would be read of one source. `target` makes a path of an object's path, and of whether it is the one object of the source.
    pub(crate) async fn source(&mut self, source: &str, target: impl Fn(&str, bool) -> String) -> Result<(), Failure> {
        let folder = if parse(source)?.names_one_file() {
            match self.client.object(source).await {
                Ok(details) => {
                    let path = last_part(source);
                    let modified_ns = details.mtime_ns.or(details.modified_ns);
                    return self.object(&Object { url: source, path, size: details.size, modified_ns }, &target(path, true)).await;
                }
                Err(ClientError::Refused(problem)) if problem.code == ApiCode::ObjectMissing.into() => format!("{source}/"),
                Err(error) => return Err(error.into()),
            }
        } else {
            source.to_owned()
        };
        let client = self.client;
        let mut pages = Pages::new(client, &folder, true);
        // What stands before the names: nothing, or the folder's own name.
        let own = folder.len() > source.len();
        let name = if own { last_part(source) } else { "" };
        let mut is_empty = true;
        while let Some(page) = pages.next().await? {
            is_empty &= page.entries.is_empty();
            for entry in &page.entries {
                let url = format!("{}{}", pages.folder(), entry.name);
                let path = if own { format!("{name}/{}", entry.name) } else { entry.name.clone() };
                let object = Object { url: &url, path: &path, size: entry.size, modified_ns: None };
                self.object(&object, &target(&path, false)).await?;
            }
        }
        if is_empty {
            return Err(refused(ErrorCode::SourceMissing, source, ErrorCode::SourceMissing.hint()));
        }
        Ok(())
    }

    async fn object(&mut self, object: &Object<'_>, to: &str) -> Result<(), Failure> {
        let Object { url, path, size, mut modified_ns } = *object;
        let mut is_taken = self.selected.takes_name(path.as_bytes());
        if is_taken && self.selected.asks_for_times() {
            if modified_ns.is_none() {
                // The listing knows when an object was stored, not when its file was changed.
                let details = self.client.object(url).await?;
                modified_ns = details.mtime_ns.or(details.modified_ns);
            }
            let since = modified_ns.and_then(|ns| u64::try_from(ns).ok()).map(Duration::from_nanos);
            is_taken = self.selected.takes_time(since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)));
        }
        if !is_taken {
            self.unselected += 1;
            return Ok(());
        }
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.json {
            events::emit(&json!({ "event": "file", "path": path, "source": url, "destination": to, "size": size }));
        } else {
            display::result(&format!("{url} -> {to}"));
        }
        Ok(())
    }

    /// The sum of it.
    pub(crate) fn end(&self) -> u8 {
        let Self { files, bytes, unselected, .. } = *self;
        if self.json {
            events::emit(&json!({ "event": "dry_run", "files": files, "bytes": bytes, "unselected": unselected }));
        } else if !self.quiet {
            let objects = units::count(files, "object", "objects");
            display::note(&format!(
                "would read {objects} ({}), {unselected} left out; what is there already is not compared",
                units::bytes(bytes)
            ));
        }
        exit::OK
    }
}
