//! What cargo knows: where things are, and cargo itself as a command.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde_json::Value;

/// The workspace's root directory: asked at run time, for a target directory that checkouts share may hold the xtask that another
/// checkout built.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Set by `cargo run`: the manifest directory of xtask, one below the root.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        manifest.as_deref().and_then(Path::parent).unwrap_or(Path::new(".")).to_owned()
    })
}

/// The cargo that runs us, working in the workspace's root, without what would lead store clients astray in its children.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    crate::process::without_store_variables(&mut command);
    command
}

/// A package of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name for `cargo -p`.
    pub(crate) name: String,
    /// Its identifier in cargo's messages.
    pub(crate) id: String,
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// The root files of its targets, with the kind of target (`lib`, `bin`, `test`, …).
    pub(crate) targets: Vec<(String, PathBuf)>,
}

/// The workspace's packages and its target directory.
pub(crate) struct Workspace {
    pub(crate) packages: Vec<Package>,
    pub(crate) target_directory: PathBuf,
}

/// Asks cargo for the workspace.
pub(crate) fn workspace() -> Result<Workspace> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    anyhow::ensure!(output.status.success(), "`cargo metadata` failed; its message is above");
    let metadata: Value = serde_json::from_slice(&output.stdout).context("`cargo metadata` printed no JSON")?;
    let text = |value: &Value, key: &str| -> Result<String> {
        Ok(value[key].as_str().with_context(|| format!("`cargo metadata` has no `{key}`"))?.to_owned())
    };
    let mut packages = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = PathBuf::from(text(package, "manifest_path")?);
        let mut targets = Vec::new();
        for target in package["targets"].as_array().into_iter().flatten() {
            let kind = target["kind"][0].as_str().unwrap_or_default().to_owned();
            targets.push((kind, PathBuf::from(text(target, "src_path")?)));
        }
        packages.push(Package {
            name: text(package, "name")?,
            id: text(package, "id")?,
            directory: manifest.parent().unwrap_or(root()).to_owned(),
            targets,
        });
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Workspace { packages, target_directory: PathBuf::from(text(&metadata, "target_directory")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_package_is_found() {
        let workspace = workspace().expect("cargo metadata");
        let xtask = workspace.packages.iter().find(|package| package.name == "xtask").expect("xtask is a member");
        assert_eq!(xtask.directory, Path::new(env!("CARGO_MANIFEST_DIR")));
        assert!(xtask.targets.contains(&(String::from("bin"), xtask.directory.join("src/main.rs"))));
        assert!(root().join("Cargo.lock").exists());
    }
}
