//! Where this command keeps what it has to remember of a user.

use std::path::PathBuf;

/// `$XDG_STATE_HOME/tradewind`, or `~/.local/state/tradewind`; `None` if neither is known. It may have to be made.
pub(crate) fn state_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("tradewind"))
}
