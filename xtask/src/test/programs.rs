//! The test programs that cargo builds.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cargo::{self, Workspace};
use crate::process;

/// A built test program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) package: String,
    /// The target, as in `lib tradewind_netio` or `test udp_loopback`.
    pub(super) name: String,
    executable: PathBuf,
    directory: PathBuf,
}

impl Program {
    /// The program, to be run as `cargo test` would: in its package's directory.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory).env("CARGO_PKG_NAME", &self.package);
        command.stdin(Stdio::null());
        command
    }
}

/// Builds the tests of the chosen packages and returns them. With `whole` those of all packages, so that features are resolved once for all.
pub(super) fn build(workspace: &Workspace, chosen: &[&str], whole: bool) -> Result<Vec<Program>> {
    let mut command = cargo::cargo();
    command.args(["test", "--no-run", "--message-format", "json-render-diagnostics"]);
    if whole {
        command.arg("--workspace");
    } else {
        command.args(chosen.iter().flat_map(|package| ["--package", package]));
    }
    eprintln!("$ {}", process::line(&command));
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests do not build; cargo's messages are above");
    let messages = String::from_utf8(output.stdout).context("cargo printed something that is not text")?;
    Ok(messages.lines().filter_map(|line| program(line, workspace)).filter(|program| chosen.contains(&program.package.as_str())).collect())
}

/// The test program that a message of cargo announces, if it does.
fn program(line: &str, workspace: &Workspace) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let id = message["package_id"].as_str()?;
    let package = workspace.packages.iter().find(|package| package.id == id)?;
    let target = &message["target"];
    Some(Program {
        package: package.name.clone(),
        name: format!("{} {}", target["kind"][0].as_str()?, target["name"].as_str()?),
        executable: PathBuf::from(message["executable"].as_str()?),
        directory: package.directory.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::Package;

    #[test]
    fn only_test_programs_of_the_workspace_are_taken() {
        let package =
            Package { name: String::from("a"), id: String::from("path+a"), directory: PathBuf::from("/w/a"), targets: Vec::new() };
        let workspace = Workspace { packages: vec![package], target_directory: PathBuf::from("/t") };
        let line = r#"{"reason":"compiler-artifact","package_id":"path+a","target":{"kind":["test"],"name":"udp"},"profile":{"test":true},"executable":"/t/udp-1"}"#;
        let expected = Program {
            package: String::from("a"),
            name: String::from("test udp"),
            executable: PathBuf::from("/t/udp-1"),
            directory: PathBuf::from("/w/a"),
        };
        assert_eq!(program(line, &workspace), Some(expected));
        for (from, to) in [("true", "false"), ("path+a", "path+b"), ("compiler-artifact", "build-script"), ("\"/t/udp-1\"", "null")] {
            assert_eq!(program(&line.replace(from, to), &workspace), None, "{from} -> {to}");
        }
        assert_eq!(program("not json", &workspace), None);
    }
}
