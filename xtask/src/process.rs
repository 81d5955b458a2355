//! Running other programs.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Variables of the caller's shell that change what store clients do: proxies' certificate bundles break them against the
/// servers that tests start, and credentials must never come from outside.
const STORE_VARIABLES: [&str; 7] =
    ["AWS_CA_BUNDLE", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"];

/// Takes what would lead a store client astray out of a command's environment.
pub(crate) fn without_store_variables(command: &mut Command) -> &mut Command {
    for name in STORE_VARIABLES {
        command.env_remove(name);
    }
    command
}

/// A command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Prints and runs a command; it must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", line(command));
    let status = command.status().with_context(|| format!("cannot start `{}`; is it installed?", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Prints a command and becomes it, so that Ctrl-C reaches it alone and its exit code is ours. Returns only on failure.
pub(crate) fn become_command(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", line(command));
    Err(command.exec()).with_context(|| format!("cannot start `{}`; is it installed?", line(command)))
}

/// Whether a program can be started with these arguments and succeeds; silent.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named() {
        let error = run(Command::new("false").arg("now")).expect_err("false fails");
        assert!(error.to_string().contains("`false now` failed"), "{error}");
        let error = run(&mut Command::new("tradewind-no-such-program")).expect_err("there is no such program");
        assert!(error.to_string().contains("is it installed?"), "{error}");
    }

    #[test]
    fn store_variables_do_not_reach_a_child() {
        let mut command = Command::new("sh");
        command.args(["-c", "test -z \"$AWS_CA_BUNDLE$AWS_PROFILE\""]).env("AWS_CA_BUNDLE", "x").env("AWS_PROFILE", "x");
        assert!(!command.status().expect("sh").success());
        assert!(without_store_variables(&mut command).status().expect("sh").success());
    }
}
