//! From file, environment and flags to a [`Config`] and a list of every problem found.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::check;
use super::sections::{CapSection, DataSection, EngineSection, LimitsSection, LogFormat, RestSection, StoreSection, UserSection};
use super::{Config, DEFAULT_PATH};
use crate::options::Options;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// `tradewindd` starts all the same.
    Warning,
    /// `tradewindd` does not start.
    Error,
}

/// Something wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// File and line, or the flag's or variable's name.
    pub place: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        write!(f, "{}: {severity}: {}", self.place, self.text)
    }
}

/// What loading gave.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration; to be used only if [`is_usable`](Self::is_usable).
    pub config: Config,
    /// Every problem, in the order of the file.
    pub problems: Vec<Problem>,
    effective: String,
}

impl Loaded {
    /// No problem is an error.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.problems.iter().all(|p| p.severity == Severity::Warning)
    }

    /// The warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.severity == Severity::Warning)
    }

    /// The problems, one a line.
    #[must_use]
    pub fn problems_text(&self) -> String {
        self.problems.iter().fold(String::new(), |mut text, problem| {
            let _ = writeln!(text, "{problem}");
            text
        })
    }

    /// What `--check-config` prints: the effective configuration as TOML, without secrets, then the problems.
    #[must_use]
    pub fn report(&self) -> String {
        let verdict = if self.is_usable() { "# the configuration is usable" } else { "# the configuration is NOT usable" };
        let problems: String = self.problems.iter().fold(String::new(), |mut text, problem| {
            let _ = writeln!(text, "# {problem}");
            text
        });
        format!("{}\n{problems}{verdict}\n", self.effective)
    }
}

/// Loads the file named by the options (or [`DEFAULT_PATH`]) and lays environment and flags over it.
#[must_use]
pub fn load(options: &Options) -> Loaded {
    let path = options.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
    let origin = path.display().to_string();
    let unreadable = |text: String| {
        let mut loaded = load_text("", &origin, options);
        loaded.problems.insert(0, Problem { severity: Severity::Error, place: origin.clone(), text });
        loaded
    };
    if options.config.is_none() && !path.exists() {
        return load_text("", "defaults (no configuration file)", options);
    }
    match read_limited(&path) {
        Ok(text) => load_text(&text, &origin, options),
        Err(text) => unreadable(text),
    }
}

fn read_limited(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("has {size} bytes, more than the {FILE_BYTES_MAX} allowed"));
    }
    std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))
}

/// The sections as written, with the lines they begin on.
#[derive(Debug, Default, Serialize)]
pub(super) struct Written {
    pub(super) state_dir: PathBuf,
    pub(super) log: LogFormat,
    pub(super) rest: RestSection,
    pub(super) data: DataSection,
    pub(super) engine: EngineSection,
    pub(super) limits: LimitsSection,
    pub(super) user: Vec<UserSection>,
    pub(super) stores: BTreeMap<String, StoreSection>,
    pub(super) cap: Vec<CapSection>,
    #[serde(skip)]
    pub(super) cap_lines: Vec<usize>,
    #[serde(skip)]
    pub(super) user_lines: Vec<usize>,
    #[serde(skip)]
    pub(super) store_lines: BTreeMap<String, usize>,
    #[serde(skip)]
    pub(super) section_lines: BTreeMap<String, usize>,
}

pub(super) struct Reader<'a> {
    text: &'a str,
    origin: &'a str,
    problems: Vec<(Option<usize>, Problem)>,
}

impl Reader<'_> {
    fn line_of(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|&&b| b == b'\n').count() + 1
    }

    pub(super) fn report(&mut self, severity: Severity, line: Option<usize>, text: impl Into<String>) {
        let place = line.map_or_else(|| self.origin.to_owned(), |line| format!("{}:{line}", self.origin));
        self.problems.push((line, Problem { severity, place, text: text.into() }));
    }

    pub(super) fn error(&mut self, line: Option<usize>, text: impl Into<String>) {
        self.report(Severity::Error, line, text);
    }

    fn toml_error(&mut self, error: &toml::de::Error, section: &str, fallback: Range<usize>) {
        let line = self.line_of(error.span().unwrap_or(fallback).start);
        let prefix = if section.is_empty() { String::new() } else { format!("{section}: ") };
        self.error(Some(line), format!("{prefix}{}", error.message().replace('\n', "; ")));
    }

    fn section<T: DeserializeOwned>(&mut self, name: &str, value: Spanned<DeValue<'_>>) -> Option<T> {
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(section) => Some(section),
            Err(error) => {
                self.toml_error(&error, name, span);
                None
            }
        }
    }
}

/// As [`load`], from a text. `origin` names it in problems.
#[must_use]
pub fn load_text(text: &str, origin: &str, options: &Options) -> Loaded {
    let mut reader = Reader { text, origin, problems: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.toml_error(error, "", 0..0);
    }
    let mut written = Written { state_dir: PathBuf::from("/var/lib/tradewind"), ..Written::default() };
    for (key, value) in table.into_inner() {
        let line = reader.line_of(key.span().start);
        let name = key.into_inner().into_owned();
        read_section(&mut reader, &mut written, &name, line, value);
    }
    lay_over(&mut written, options);
    let config = check::resolve(&written, &mut reader);
    let effective = toml::to_string_pretty(&written).unwrap_or_else(|e| format!("# cannot be shown: {e}\n"));
    reader.problems.sort_by_key(|(line, _)| line.unwrap_or(0));
    Loaded { config, problems: reader.problems.into_iter().map(|(_, problem)| problem).collect(), effective }
}

fn read_section(reader: &mut Reader<'_>, written: &mut Written, name: &str, line: usize, value: Spanned<DeValue<'_>>) {
    written.section_lines.insert(name.to_owned(), line);
    match name {
        "state_dir" => set(&mut written.state_dir, reader.section(name, value)),
        "log" => set(&mut written.log, reader.section(name, value)),
        "rest" => set(&mut written.rest, reader.section(name, value)),
        "data" => set(&mut written.data, reader.section(name, value)),
        "engine" => set(&mut written.engine, reader.section(name, value)),
        "limits" => set(&mut written.limits, reader.section(name, value)),
        "user" => match value.into_inner() {
            DeValue::Array(users) => {
                for user in users {
                    let line = reader.line_of(user.span().start);
                    if let Some(user) = reader.section("user", user) {
                        written.user.push(user);
                        written.user_lines.push(line);
                    }
                }
            }
            _ => reader.error(Some(line), "user: write [[user]], once for each user"),
        },
        "cap" => match value.into_inner() {
            DeValue::Array(caps) => {
                for cap in caps {
                    let line = reader.line_of(cap.span().start);
                    if let Some(cap) = reader.section("cap", cap) {
                        written.cap.push(cap);
                        written.cap_lines.push(line);
                    }
                }
            }
            _ => reader.error(Some(line), "cap: write [[cap]], once for each cap"),
        },
        "stores" => match value.into_inner() {
            DeValue::Table(stores) => {
                for (key, store) in stores {
                    let line = reader.line_of(key.span().start);
                    let name = key.into_inner().into_owned();
                    if let Some(store) = reader.section(&format!("stores.{name}"), store) {
                        written.stores.insert(name.clone(), store);
                        written.store_lines.insert(name, line);
                    }
                }
            }
            _ => reader.error(Some(line), "stores: write [stores.NAME], once for each store"),
        },
        unknown => reader.error(
            Some(line),
            format!(
                "unknown key '{unknown}'; known are state_dir, log, [rest], [data], [engine], [limits], [[user]], [stores.NAME], [[cap]]"
            ),
        ),
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn lay_over(written: &mut Written, options: &Options) {
    set(&mut written.rest.listen, options.listen);
    set(&mut written.data.listen, options.data_listen);
    set(&mut written.data.xdp, options.xdp);
    set(&mut written.state_dir, options.state_dir.clone());
    set(&mut written.log, options.log);
    if options.interface.is_some() {
        written.data.interface.clone_from(&options.interface);
    }
    set(&mut written.engine.binary, options.engine.clone());
    if written.engine.binary.as_os_str().is_empty() {
        let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(|folder| folder.join("tradewind-engine")));
        written.engine.binary = beside.unwrap_or_else(|| PathBuf::from("/usr/bin/tradewind-engine"));
    }
}
