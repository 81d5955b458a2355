//! What instruction counts depend on beside our own code.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::PACKAGE;
use crate::cargo;

/// Features of the CPU that linked code chooses by at run time and that valgrind 3.19 shows to a program (it shows no AVX-512 and no VAES).
const CPU_FEATURES: [&str; 10] = ["aes", "avx", "avx2", "bmi1", "bmi2", "movbe", "pclmulqdq", "sse4_1", "sse4_2", "ssse3"];

/// Tools, machine and linked crates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeWith {
    /// `rustc --version`.
    pub(super) rustc: String,
    /// The host's target triple.
    pub(super) target: String,
    /// `valgrind --version`; `None` if it is missing.
    pub(super) valgrind: Option<String>,
    /// The C library, whose memcpy is linked.
    pub(super) libc: String,
    /// The C compiler, which compiles AWS-LC; most of what runs of that is assembly.
    pub(super) cc: String,
    /// Those of [`CPU_FEATURES`] that the CPU has.
    pub(super) cpu_features: Vec<String>,
    /// Crates from the registry that are linked, with their versions.
    pub(super) crates: BTreeMap<String, String>,
}

impl MadeWith {
    /// Of this machine.
    pub(super) fn here() -> Result<Self> {
        let rustc = first_line("rustc", &["--version"]).context("cannot ask rustc for its version")?;
        let verbose = output("rustc", &["-vV"]).context("cannot ask rustc for its host")?;
        let target = verbose.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not name its host")?;
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |feature: &&str| flags.split_whitespace().any(|flag| flag == *feature);
        Ok(Self {
            rustc,
            target: target.to_owned(),
            valgrind: first_line("valgrind", &["--version"]),
            libc: first_line("getconf", &["GNU_LIBC_VERSION"]).unwrap_or_else(|| String::from("unknown")),
            cc: first_line("cc", &["--version"]).unwrap_or_else(|| String::from("unknown")),
            cpu_features: CPU_FEATURES.into_iter().filter(has).map(str::to_owned).collect(),
            crates: linked_crates()?,
        })
    }

    /// Why counts of `here` say nothing beside those made with `self`, if they do not.
    pub(super) fn not_comparable(&self, here: &Self) -> Option<String> {
        let Some(valgrind) = &here.valgrind else { return Some(String::from("valgrind is not installed")) };
        let missing: Vec<&str> =
            self.cpu_features.iter().filter(|feature| !here.cpu_features.contains(feature)).map(String::as_str).collect();
        if !missing.is_empty() {
            return Some(format!("the baseline's CPU has {}, this one has not", missing.join(", ")));
        }
        let known = self.valgrind.as_deref().unwrap_or("no valgrind");
        [(&*self.rustc, &*here.rustc), (&*self.target, &*here.target), (known, &**valgrind), (&*self.libc, &*here.libc)]
            .into_iter()
            .find(|(then, now)| then != now)
            .map(|(then, now)| {
                format!("the baseline was made with {then}, this is {now} (`cargo xtask bench micro --accept` makes a new one)")
            })
    }

    /// What else has changed and may explain a count, in words.
    pub(super) fn changes(&self, here: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.cc != here.cc {
            changes.push(format!("cc: {}, was {}", here.cc, self.cc));
        }
        for (name, version) in &here.crates {
            match self.crates.get(name) {
                Some(before) if before == version => {}
                Some(before) => changes.push(format!("{name} {version}, was {before}")),
                None => changes.push(format!("{name} {version} is new")),
            }
        }
        changes
    }
}

/// Crates from the registry that the runner links.
fn linked_crates() -> Result<BTreeMap<String, String>> {
    let mut command = cargo::cargo();
    command.args(["tree", "--package", PACKAGE, "--edges", "normal", "--prefix", "none", "--format", "{p}"]).stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "`cargo tree` failed; its message is above");
    let text = String::from_utf8_lossy(&output.stdout);
    // Ours have their path behind the version; a crate that was printed before has a star.
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        words.next().is_none_or(|word| word == "(*)" || word == "(proc-macro)").then(|| (name.to_owned(), version.to_owned()))
    };
    Ok(text.lines().filter_map(parse).collect())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).current_dir(cargo::root()).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    output(program, arguments)?.lines().next().map(str::to_owned)
}

#[cfg(test)]
pub(super) fn example() -> MadeWith {
    MadeWith {
        rustc: String::from("rustc 1"),
        target: String::from("x86_64"),
        valgrind: Some(String::from("valgrind-3")),
        libc: String::from("glibc 2"),
        cc: String::from("cc 1"),
        cpu_features: vec![String::from("aes")],
        crates: [(String::from("aes"), String::from("0.9.0"))].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tools_and_lesser_cpus_are_not_compared() {
        let then = example();
        assert_eq!(then.not_comparable(&then), None);
        let more = MadeWith { cpu_features: vec![String::from("aes"), String::from("avx2")], ..example() };
        assert_eq!(then.not_comparable(&more), None);
        assert!(more.not_comparable(&then).is_some_and(|why| why.contains("avx2")));
        let newer = MadeWith { rustc: String::from("rustc 2"), ..example() };
        assert!(then.not_comparable(&newer).is_some_and(|why| why.contains("made with rustc 1, this is rustc 2")));
        let without = MadeWith { valgrind: None, ..example() };
        assert_eq!(then.not_comparable(&without).as_deref(), Some("valgrind is not installed"));
    }

    #[test]
    fn other_crates_are_named_and_compared() {
        let newer = MadeWith { crates: [(String::from("aes"), String::from("0.9.1"))].into(), ..example() };
        assert_eq!(example().not_comparable(&newer), None);
        assert_eq!(example().changes(&newer), ["aes 0.9.1, was 0.9.0"]);
    }
}
