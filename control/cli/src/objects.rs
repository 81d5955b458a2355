//! `tradewind ls`, `tradewind stat` and `tradewind rm`: the objects of a server's stores.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::task::JoinSet;
use tradewind_api::{
    ApiCode, Client, ClientError, DestinationName, DestinationUrl, ErrorCode, ListQuery, ObjectDetails, ObjectEntry, ObjectPage, Problem,
    ProblemCode, exit, folder_url,
};

use crate::connect::connect;
use crate::display::{self, printable};
use crate::events;
use crate::failure::Failure;
use crate::options::{LsOptions, RmOptions, StatOptions};
use crate::units;

/// Removals under way at the same time.
const REMOVALS_MAX: usize = 8;

/// Lists objects, page by page as they come.
pub(crate) async fn ls(options: &LsOptions) -> Result<u8, Failure> {
    let url = parse(&options.url)?;
    let client = connect(&options.server, options.json).await?;
    let mut pages = Pages::new(&client, &options.url, options.recursive);
    let (mut shown, mut unnameable) = (0, 0);
    while let Some(page) = pages.next().await? {
        shown += page.entries.len();
        unnameable += page.unnameable;
        let mut text = Vec::new();
        for entry in &page.entries {
            if options.json {
                let line = Listed { url: format!("{}{}", pages.folder, entry.name), entry };
                serde_json::to_writer(&mut text, &line).map_err(|error| failed_here("cannot write JSON", &error))?;
                text.push(b'\n');
            } else {
                let name = printable(&entry.name);
                let line = if options.long { format!("{}  {name}\n", long(entry)) } else { format!("{name}\n") };
                text.extend_from_slice(line.as_bytes());
            }
        }
        if !print(&text)? {
            return Ok(exit::OK);
        }
    }
    if unnameable > 0 {
        display::note(&format!("{} left out: their names are not UTF-8", units::count(unnameable, "object", "objects")));
    }
    if shown == 0 && unnameable == 0 && url.names_one_file() {
        return Err(refused(ApiCode::ObjectMissing, &options.url, "check the name; nothing there begins with it"));
    }
    Ok(exit::OK)
}

/// Shows one object.
pub(crate) async fn stat(options: &StatOptions) -> Result<u8, Failure> {
    if is_folder(&parse(&options.url)?) {
        let hint = "name one object; `tradewind ls` shows what is in a folder";
        return Err(Failure::Usage { detail: format!("{} is a folder", options.url), hint: hint.to_owned() });
    }
    let client = connect(&options.server, options.json).await?;
    let details = client.object(&options.url).await?;
    if options.json {
        events::emit(&Shown { url: &options.url, details: &details });
    } else {
        described(&options.url, &details).iter().for_each(|line| display::result(line));
    }
    Ok(exit::OK)
}

/// Removes objects, or says which it would remove. Goes on after one that cannot be removed; the first failure is the outcome.
pub(crate) async fn rm(options: &RmOptions) -> Result<u8, Failure> {
    for url in &options.urls {
        check_removal(url, options)?;
    }
    let client = connect(&options.server, false).await?;
    let mut removal = Removal { options, client, tasks: JoinSet::new(), removed: 0, first_failure: None };
    let end = removal.run().await;
    let objects = units::count(removal.removed, "object", "objects");
    display::result(&if options.dry_run { format!("{objects} would be removed") } else { format!("removed {objects}") });
    end?;
    removal.first_failure.map_or(Ok(exit::OK), Err)
}

/// The pages of a listing, one after the other.
pub(crate) struct Pages<'a> {
    client: &'a Client,
    query: Option<ListQuery>,
    /// What the names are relative to.
    folder: String,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(client: &'a Client, url: &str, recursive: bool) -> Self {
        let query = ListQuery { url: url.to_owned(), recursive, after: None, limit: None };
        Self { client, query: Some(query), folder: folder_url(url) }
    }

    /// What the names are relative to: put one behind it, and that is the object's URL.
    pub(crate) fn folder(&self) -> &str {
        &self.folder
    }

    pub(crate) async fn next(&mut self) -> Result<Option<ObjectPage>, Failure> {
        let Some(mut query) = self.query.take() else { return Ok(None) };
        let page = self.client.list_objects(&query).await?;
        if let Some(next) = &page.next {
            query.after = Some(next.clone());
            self.query = Some(query);
        }
        Ok(Some(page))
    }
}

/// Removals under way and what became of the others.
struct Removal<'a> {
    options: &'a RmOptions,
    client: Client,
    tasks: JoinSet<Result<(), ClientError>>,
    removed: u64,
    first_failure: Option<Failure>,
}

impl Removal<'_> {
    /// All of it. An error is one after which nothing else would succeed.
    async fn run(&mut self) -> Result<(), Failure> {
        for url in &self.options.urls {
            if is_folder(&parse(url)?) {
                self.remove_below(url).await?;
            } else if self.options.dry_run {
                let found = self.client.object(url).await.map(drop);
                if found.is_ok() {
                    print_line(url)?;
                }
                self.settled(found)?;
            } else {
                self.remove(url.clone()).await?;
            }
        }
        self.wait(0).await
    }

    async fn remove_below(&mut self, url: &str) -> Result<(), Failure> {
        let client = self.client.clone();
        let mut pages = Pages::new(&client, url, true);
        while let Some(page) = pages.next().await? {
            if page.unnameable > 0 {
                let objects = units::count(page.unnameable, "object", "objects");
                let detail = format!("{objects} below {url}: their names are not UTF-8");
                self.failed(refused(ErrorCode::DestinationInvalid, detail, "remove them on the server"));
            }
            for entry in page.entries {
                let url = format!("{}{}", pages.folder, entry.name);
                if self.options.dry_run {
                    self.removed += 1;
                    print_line(&url)?;
                } else {
                    self.remove(url).await?;
                }
            }
        }
        Ok(())
    }

    /// Begins to remove one object, as soon as not too many are being removed.
    async fn remove(&mut self, url: String) -> Result<(), Failure> {
        self.wait(REMOVALS_MAX - 1).await?;
        let client = self.client.clone();
        self.tasks.spawn(async move { client.remove_object(&url).await.map(drop) });
        Ok(())
    }

    /// Waits until no more than so many are being removed.
    async fn wait(&mut self, left: usize) -> Result<(), Failure> {
        while self.tasks.len() > left {
            match self.tasks.join_next().await {
                Some(Ok(result)) => self.settled(result)?,
                Some(Err(error)) => return Err(failed_here("cannot remove objects", &error)),
                None => break,
            }
        }
        Ok(())
    }

    /// Counts what happened to one object. What says something about this object alone does not end the others.
    fn settled(&mut self, result: Result<(), ClientError>) -> Result<(), Failure> {
        let error = match result {
            Ok(()) => {
                self.removed += 1;
                return Ok(());
            }
            Err(error) => error,
        };
        match &error {
            ClientError::Refused(problem) if problem.code == ApiCode::ObjectMissing.into() && self.options.force => {}
            ClientError::Refused(problem) if problem.code.exit_code() == exit::DESTINATION => self.failed(error.into()),
            _ => return Err(error.into()),
        }
        Ok(())
    }

    /// The first is told at the end, with its hint.
    fn failed(&mut self, failure: Failure) {
        match self.first_failure {
            None => self.first_failure = Some(failure),
            Some(_) => display::note(&failure.to_string()),
        }
    }
}

/// An entry in `ls --json`.
#[derive(Serialize)]
struct Listed<'a> {
    url: String,
    #[serde(flatten)]
    entry: &'a ObjectEntry,
}

/// `stat --json`.
#[derive(Serialize)]
struct Shown<'a> {
    url: &'a str,
    #[serde(flatten)]
    details: &'a ObjectDetails,
}

pub(crate) fn parse(url: &str) -> Result<DestinationUrl, Failure> {
    DestinationUrl::parse(url)
        .map_err(|error| refused(ErrorCode::DestinationInvalid, error.to_string(), ErrorCode::DestinationInvalid.hint()))
}

fn is_folder(url: &DestinationUrl) -> bool {
    !url.names_one_file()
}

fn check_removal(url: &str, options: &RmOptions) -> Result<(), Failure> {
    let usage = |detail: String, hint: &str| Err(Failure::Usage { detail, hint: hint.to_owned() });
    let parsed = parse(url)?;
    let everything = match &parsed {
        DestinationUrl::Bucket { name: DestinationName::Into(prefix), .. } => prefix.is_empty(),
        DestinationUrl::Named { path, .. } => path.is_empty(),
        _ => false,
    };
    if !is_folder(&parsed) {
        Ok(())
    } else if !options.recursive {
        usage(format!("{url} is a folder"), "give -r to remove all objects in it; --dry-run shows which they are")
    } else if everything && !options.force && !options.dry_run {
        usage(format!("{url} is all that there is"), "give --force to remove everything; --dry-run shows what that is")
    } else {
        Ok(())
    }
}

pub(crate) fn refused(code: impl Into<ProblemCode>, detail: impl Into<String>, hint: &str) -> Failure {
    Failure::Server(ClientError::Refused(Problem::new(code, detail).with_hint(hint)))
}

fn failed_here(what: &'static str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Local { what, detail: error.to_string() }
}

/// Writes to standard output; false if its reader has gone.
fn print(text: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(failed_here("cannot write to standard output", &error)),
    }
}

fn print_line(text: &str) -> Result<(), Failure> {
    print(format!("{}\n", printable(text)).as_bytes()).map(drop)
}

/// Size and time of the last change, in columns.
fn long(entry: &ObjectEntry) -> String {
    let size = if entry.folder { "-".to_owned() } else { units::bytes(entry.size) };
    format!(
        "{size:>10}  {:20}",
        entry.modified_ns.and_then(time).map_or_else(|| "-".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
    )
}

/// Times before 1970 are not shown.
fn time(since_1970_ns: i64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(u64::try_from(since_1970_ns).ok()?))
}

fn described(url: &str, details: &ObjectDetails) -> Vec<String> {
    let moment = |ns: Option<i64>| ns.and_then(time).map(|time| humantime::format_rfc3339(time).to_string());
    let mut lines =
        vec![format!("object    {}", printable(url)), format!("size      {} ({} bytes)", units::bytes(details.size), details.size)];
    let further = [
        ("stored    ", moment(details.modified_ns)),
        ("file time ", moment(details.mtime_ns)),
        ("mode      ", details.mode.map(|mode| format!("{mode:03o}"))),
        ("etag      ", details.etag.clone()),
        ("CRC-64    ", details.crc64.map(|crc| format!("{crc:016x}"))),
    ];
    lines.extend(further.into_iter().filter_map(|(name, value)| Some(format!("{name}{}", value?))));
    lines.extend(details.attributes.iter().map(|(name, value)| format!("{:10}{}", printable(name), printable(value))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let object = |size, modified_ns| ObjectEntry { name: "n".into(), folder: false, size, modified_ns, etag: None };
        let folder = ObjectEntry { name: "f/".into(), folder: true, ..ObjectEntry::default() };
        assert_eq!(long(&object(1 << 20, Some(1_700_000_000_999_999_999))), "   1.0 MiB  2023-11-14T22:13:20Z");
        for entry in [object(u64::MAX, None), object(0, Some(i64::MIN)), object(1023, Some(i64::MAX)), folder] {
            assert_eq!(long(&entry).len(), 32, "{}", long(&entry));
        }
    }

    #[test]
    fn an_object_is_described_by_what_is_known() {
        let details = ObjectDetails { size: 2048, mtime_ns: Some(5), mode: Some(0o40), crc64: Some(255), ..ObjectDetails::default() };
        let lines = described("s3://bucket/k", &details);
        let expected = [
            "object    s3://bucket/k",
            "size      2.0 KiB (2048 bytes)",
            "file time 1970-01-01T00:00:00.000000005Z",
            "mode      040",
            "CRC-64    00000000000000ff",
        ];
        assert_eq!(lines, expected);
    }

    fn removal(line: &str) -> Result<(), u8> {
        use clap::Parser as _;
        let words = ["tradewind", "rm", "--server", "far"].into_iter().chain(line.split_whitespace());
        let crate::options::Command::Rm(options) = crate::options::Options::try_parse_from(words).unwrap().command else {
            panic!("not rm")
        };
        options.urls.iter().try_for_each(|url| check_removal(url, &options)).map_err(|failure| failure.exit_code())
    }

    #[test]
    fn folders_are_removed_only_when_that_is_asked_for_and_everything_only_by_force() {
        for (line, expected) in [
            ("s3://bucket/k", Ok(())),
            ("-r s3://bucket/k", Ok(())),
            ("s3://bucket/in/", Err(exit::USAGE)),
            ("-r s3://bucket/in/", Ok(())),
            ("s3://bucket/k store:in/", Err(exit::USAGE)),
            ("-f s3://bucket/", Err(exit::USAGE)),
            ("-r s3://bucket/", Err(exit::USAGE)),
            ("-r s3://bucket", Err(exit::USAGE)),
            ("-r store:", Err(exit::USAGE)),
            ("-r store: --dry-run", Ok(())),
            ("-rf s3://bucket", Ok(())),
            ("-r s3://bucket/../x/", Err(exit::DESTINATION)),
        ] {
            assert_eq!(removal(line), expected, "{line}");
        }
    }
}
