//! Keys of sealed files: from options, the environment, or the terminal.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tradewind_seal::{KdfParameters, KeyRing, MasterKey, Passphrase, SealError, read_key_file, read_or_create_salt};

use crate::display;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::state::state_folder;

const PASSPHRASE_VARIABLE: &str = "TRADEWIND_PASSPHRASE";
/// A passphrase with its line end, bytes: what a terminal takes as one line. A wrong name of a file must not fill the memory.
const PASSPHRASE_BYTES_MAX: u64 = 4096;

/// The key that files are sealed or unsealed with.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct SealKeyOptions {
    /// File whose first line is the passphrase. Without it and --key-file: TRADEWIND_PASSPHRASE, or else you are asked.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "key_file")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Key file, as `tradewind seal-key` makes it, instead of a passphrase.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key_file: Option<PathBuf>,
}

impl SealKeyOptions {
    /// The key to seal with. A passphrase from the terminal is asked for twice; its salt is the user's.
    pub(crate) async fn master_key(&self, interrupts: &mut Interrupts) -> Result<MasterKey, Failure> {
        if let Some(path) = &self.key_file {
            return key_of(path);
        }
        let passphrase = match self.passphrase_given()? {
            Some(passphrase) => passphrase,
            None => {
                let first = ask("Passphrase to seal with: ", interrupts).await?;
                if ask("The same again: ", interrupts).await? != first {
                    return Err(key_failure("the two passphrases differ", "nothing was done; begin again"));
                }
                first
            }
        };
        let salt = read_or_create_salt(&salt_path()?).map_err(|error| key_error(&error))?;
        let key = tokio::task::spawn_blocking(move || MasterKey::from_passphrase(&passphrase, &KdfParameters::RECOMMENDED, &salt));
        interrupts
            .unless(key)
            .await
            .map_err(|signal| Failure::Interrupted { signal, transfer_id: None })?
            .map_err(|error| ended(&error))?
            .map_err(|error| key_error(&error))
    }

    /// The keys to unseal with. Whether they fit is known once a header is read.
    pub(crate) async fn key_ring(&self, interrupts: &mut Interrupts) -> Result<KeyRing, Failure> {
        if let Some(path) = &self.key_file {
            return Ok(KeyRing::new().with_key(key_of(path)?));
        }
        let passphrase = match self.passphrase_given()? {
            Some(passphrase) => passphrase,
            None => ask("Passphrase to unseal with: ", interrupts).await?,
        };
        Ok(KeyRing::new().with_passphrase(passphrase))
    }

    /// An error if a key is named that nothing asks for; `wanted` is what would.
    pub(crate) fn unused(&self, wanted: &str) -> Result<(), Failure> {
        let Some(option) = self.passphrase_file.as_ref().map(|_| "--passphrase-file").or(self.key_file.as_ref().map(|_| "--key-file"))
        else {
            return Ok(());
        };
        Err(Failure::Usage {
            detail: format!("{option} does nothing without {wanted}"),
            hint: format!("give {wanted} too, or leave {option} out"),
        })
    }

    /// Whether a key can be had without asking anybody.
    pub(crate) fn is_given(&self) -> bool {
        self.key_file.is_some()
            || self.passphrase_file.is_some()
            || std::env::var_os(PASSPHRASE_VARIABLE).is_some_and(|text| !text.is_empty())
    }

    fn passphrase_given(&self) -> Result<Option<Passphrase>, Failure> {
        if let Some(path) = &self.passphrase_file {
            let failed =
                |what: String| key_failure(format!("the passphrase file {}: {what}", path.display()), "its first line is the passphrase");
            let line = File::open(path).and_then(first_line).map_err(|error| failed(error.to_string()))?;
            return Passphrase::new(line).map(Some).map_err(|_| failed("its first line is empty".to_owned()));
        }
        match std::env::var_os(PASSPHRASE_VARIABLE).filter(|text| !text.is_empty()) {
            Some(text) => Passphrase::new(text.into_vec()).map(Some).map_err(|error| key_error(&error)),
            None => Ok(None),
        }
    }
}

/// Says that a key is missing, unreadable or not the right one.
pub(crate) fn key_error(error: &SealError) -> Failure {
    let hint = match error {
        SealError::WrongPassphrase => "nothing was written; give the passphrase that it was sealed with, every space counts",
        SealError::WrongKeyFile(_) | SealError::KeyFileNeeded(_) => {
            "nothing was written; give --key-file with the file that it was sealed with"
        }
        SealError::PassphraseNeeded => "nothing was written; leave --key-file out, and give --passphrase-file or TRADEWIND_PASSPHRASE",
        _ => "",
    };
    key_failure(error.to_string(), hint)
}

pub(super) fn key_failure(detail: impl Into<String>, hint: &'static str) -> Failure {
    Failure::SealKey { detail: detail.into(), hint }
}

/// A task that did not come to its end.
pub(super) fn ended(error: &tokio::task::JoinError) -> Failure {
    Failure::Local { what: "a task ended before its time", detail: error.to_string() }
}

fn key_of(path: &Path) -> Result<MasterKey, Failure> {
    let key = read_key_file(path).map_err(|error| key_error(&error))?;
    if fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0) {
        display::note(&format!("others may read the key file {0}; `chmod 600 {0}` makes it yours alone", path.display()));
    }
    Ok(key)
}

/// `$XDG_STATE_HOME/tradewind/seal-salt`, or `~/.local/state/tradewind/seal-salt`.
fn salt_path() -> Result<PathBuf, Failure> {
    let state = state_folder()
        .ok_or_else(|| key_failure("no place for the salt of the passphrase", "set HOME or XDG_STATE_HOME, or use --key-file"))?;
    Ok(state.join("seal-salt"))
}

/// The first line without its end, however it ends.
fn first_line(file: impl Read) -> io::Result<Vec<u8>> {
    // All at once: a buffer that grows would leave copies of the secret behind.
    let mut line = Vec::with_capacity(PASSPHRASE_BYTES_MAX as usize + 1);
    BufReader::with_capacity(PASSPHRASE_BYTES_MAX as usize, file).take(PASSPHRASE_BYTES_MAX + 1).read_until(b'\n', &mut line)?;
    if line.len() as u64 > PASSPHRASE_BYTES_MAX {
        return Err(io::Error::other("its first line is longer than 4095 bytes"));
    }
    line.pop_if(|last| *last == b'\n');
    line.pop_if(|last| *last == b'\r');
    Ok(line)
}

/// Asks on the terminal, whatever standard input is. The terminal shows again what is typed when this returns, also after Ctrl-C.
async fn ask(prompt: &str, interrupts: &mut Interrupts) -> Result<Passphrase, Failure> {
    let hidden = Hidden::new(prompt).map_err(|_| {
        key_failure(
            "no passphrase was given, and there is no terminal to ask for it",
            "set TRADEWIND_PASSPHRASE, or give --passphrase-file or --key-file",
        )
    })?;
    let failed = |error: io::Error| key_failure(format!("cannot read from the terminal: {error}"), "");
    let terminal = hidden.terminal.try_clone().map_err(failed)?;
    let line = interrupts.unless(tokio::task::spawn_blocking(move || first_line(terminal))).await;
    drop(hidden);
    let line =
        line.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })?.map_err(|error| ended(&error))?.map_err(failed)?;
    Passphrase::new(line).map_err(|error| key_error(&error))
}

/// A terminal that does not show what is typed.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    fn new(prompt: &str) -> io::Result<Self> {
        let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // Keys pressed earlier were meant for somebody else.
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        let hidden = Self { terminal: terminal.try_clone()?, before };
        terminal.write_all(prompt.as_bytes())?;
        Ok(hidden)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
        // In place of the line end that was not shown.
        let _ = self.terminal.write_all(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_passphrase_and_spaces_count() {
        for (text, line) in [
            (b"pass\n".as_slice(), b"pass".as_slice()),
            (b" pass word \r\nsecond", b" pass word "),
            (b"pass", b"pass"),
            (b"\xff\xfe\n", b"\xff\xfe"),
            (b"\nsecond", b""),
            (b"", b""),
        ] {
            assert_eq!(first_line(text).unwrap(), line, "{text:?}");
        }
        assert_eq!(first_line([b'x'; 4096].as_slice()).unwrap().len(), 4096);
        assert!(first_line([b'x'; 4097].as_slice()).is_err());
    }

    #[tokio::test]
    async fn keys_come_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let (key, passphrase) = (folder.path().join("key"), folder.path().join("passphrase"));
        let mut interrupts = Interrupts::new().unwrap();
        let id = tradewind_seal::create_key_file(&key).unwrap();
        let by_file = SealKeyOptions { key_file: Some(key.clone()), passphrase_file: None };
        assert_eq!(by_file.master_key(&mut interrupts).await.unwrap().id(), id);
        fs::write(&passphrase, "\n").unwrap();
        for options in [
            SealKeyOptions { passphrase_file: Some(passphrase.clone()), key_file: None },
            SealKeyOptions { passphrase_file: Some(folder.path().join("none")), key_file: None },
            SealKeyOptions { key_file: Some(passphrase.clone()), passphrase_file: None },
        ] {
            assert!(options.is_given());
            let failure = options.key_ring(&mut interrupts).await.unwrap_err();
            assert_eq!(failure.exit_code(), tradewind_api::exit::AUTH);
            assert!(failure.to_string().contains(folder.path().to_str().unwrap()), "{failure}");
        }
        fs::write(&passphrase, "right\n").unwrap();
        SealKeyOptions { passphrase_file: Some(passphrase), key_file: None }.key_ring(&mut interrupts).await.unwrap();
    }
}
