//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use tradewind_api::{Fingerprint, RateChange, ResumePolicy, ServerAddress};
use tradewind_client::Compare;
use tradewind_storage::FsyncPolicy;

use crate::copy::CopyOptions;
use crate::keep::KeepOptions;
use crate::lane::{LaneOptions, PolicyOption};
use crate::lists::ListOptions;
use crate::proof::{ProofOptions, ReceiptKeyOptions, VerifyReceiptOptions};
use crate::rate::{BitRate, RateOrNone};
use crate::seal::{GetUnsealOptions, SEAL_HELP, SealKeyFileOptions, SealOptions, SendSealOptions, UNSEAL_HELP, UnsealOptions};
use crate::select::{SelectObjectsOptions, SelectOptions};
use crate::verify::VerifyOptions;

/// Moves files at line rate over any distance, straight into object storage.
#[derive(Debug, Parser)]
#[command(name = "tradewind", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes (7 is also: verify found something else than the manifest says):
  0 done                     6 destination refused
  1 internal error           7 files unreadable, changed, not written
  2 usage                    8 transfer failed
  3 access key or secret     9 cancelled on the server
  4 server not reachable    10 server busy
  5 server's key differs   130 Ctrl-C, 143 SIGTERM

Environment: TRADEWIND_SERVER, TRADEWIND_ACCESS_KEY, TRADEWIND_SECRET, TRADEWIND_TO_ACCESS_KEY,
TRADEWIND_TO_SECRET, TRADEWIND_PASSPHRASE;
TRADEWIND_LOG (error, warn, info, debug); NO_COLOR.";

const SEND_HELP: &str = "\
What files are called at the destination:
  FILE   DEST ending in '/'      DEST/FILE's last component
  FILE   DEST not ending in '/'  exactly DEST (one FILE only)
  DIR    DEST ending in '/'      DEST/DIR's last component/…
  DIR/   DEST ending in '/'      DEST/…, the contents only (also DIR/. and '.')
  s3://BUCKET and STORE: mean the same as with '/' behind them.

--file-list names more of them, a path a line; --file-pair-list says for each file what it
is called below DEST; --src-base DIR names sources by their paths from DIR on.

Special files (sockets, devices, pipes) inside directories are skipped with a note,
and so are symbolic links, unless --symlinks follow sends what they point to; a link
that is itself a SRC is followed. --symlinks copy sends all links themselves: NAME as a
file NAME.rclonelink whose contents are what it points to, as rclone does with --links
(LINK/ still means what is in that directory). Empty directories are not sent. A file that cannot be
read, or changes while it is read, is left out; the rest is sent, and the exit code is 7.
Holes of sparse files (from 1 MiB on) are not sent, unless with --seal, and are holes again.

What was interrupted goes on where it stopped when the same files are sent to the same
destination again, by whomever; files that are durable and have not changed are not sent.

--exclude and --include take patterns as in .gitignore and compare them with the names
above: '*.tmp' anywhere, '/raw/' at the top only, 'cache/' a directory and all in it.
A file is sent if no --exclude matches it or an --include does.

--seal encrypts files before they leave this machine, with a passphrase or a key file
(`tradewind seal-key`) that stays with you. FILE is stored as FILE.sealed, with --seal-names
each name is encrypted too, and an exact DEST keeps its name. What was interrupted goes on
with the same key and the same way to write DEST's store. `tradewind get --unseal`, or `unseal`
on a copy, is the way back; whoever loses the passphrase or the key file loses the files.

Destinations:
  s3://BUCKET/PREFIX/   any S3 store of the server that allows the bucket
  gs://BUCKET/PREFIX/   any store of Google Cloud Storage that allows the bucket
  az://CONTAINER/PREFIX/ any Azure store of the server that allows the container
  swift://CONTAINER/PREFIX/ any Swift store of the server that allows the container
  hdfs://NAMESERVICE/PATH/ the HDFS store of the server with that name
  netstorage://CPCODE/PREFIX/ any NetStorage store of the server with that CP code
  file:///PATH/         a directory that the server offers
  STORE:PATH/           a store by its name in the server's configuration

Examples:
  tradewind send movie.mxf s3://dailies/day-07/ --server far.example.org
  tradewind send results/ s3://lab/run-12/ --server far.example.org --policy low
  tradewind send footage/ s3://dailies/ --exclude '*' --include '*.mxf' --newer-than 36h --dry-run
  tradewind send disk.img file:///data/disk-1.img --server 192.0.2.7:33000 --rate 2G
  tradewind send footage/ s3://archive/ --seal --seal-names --key-file ~/keys/archive";

const GET_HELP: &str = "\
What files are called:
  s3://BUCKET/DIR/   DEST/…                everything below DIR
  s3://BUCKET/DIR    DEST/DIR/…            if there is no object of that name
  s3://BUCKET/KEY    DEST/KEY's last part  if DEST is a directory or ends in '/'
  s3://BUCKET/KEY    exactly DEST          otherwise
STORE:PATH and file:///PATH likewise. Times and permissions are those of the files that were
sent. An object that cannot be read is left out; the rest is got, and the exit code is 7.

What was interrupted goes on where it stopped when the same objects are got into the same
directory again; until it is whole, a file is called .NAME.tradewind-partial.

--links makes each NAME.rclonelink that was got the symbolic link NAME, as rclone does, when
all files are there. One that is absolute, leaves DEST, or has '..' behind a name stays a file and is
named, as is one whose name something else has (--overwrite replaces links, never files); exit
code 7. Links are got again by the same command.

--unseal decrypts what was sent with --seal or made by `tradewind seal`: FILE.sealed becomes FILE
as soon as it is complete, and is not got again by the same command. The passphrase or key is
tried before anything is written or begun: exit code 3 if it is not the right one. What is not
sealed is got as it is. A damaged file is named and stays as FILE.sealed; exit code 7, and all
others are there.

Examples:
  tradewind get s3://dailies/day-07/ ./day-07/ --server far.example.org
  tradewind get s3://lab/run-12/reads.bam . --server far.example.org --rate 2G
  tradewind get s3://archive/ footage/ --unseal --key-file ~/keys/archive";

const RATE_HELP: &str = "\
What is not given stays as it is. The change reaches the sender within a round trip or so.

Examples:
  tradewind rate 4f0c… --rate 500M             no faster than 500 Mbit/s from now on
  tradewind rate 4f0c… --policy low            yield to everything else
  tradewind rate 4f0c… --rate none             as fast as the path takes";

const URLS: &str = "\
URLs are those of `tradewind send`, and you may list and remove where you may send to:
  s3://BUCKET/PREFIX/   any S3 store of the server that allows the bucket
  gs://BUCKET/PREFIX/   any store of Google Cloud Storage that allows the bucket
  az://CONTAINER/PREFIX/ any Azure store of the server that allows the container
  swift://CONTAINER/PREFIX/ any Swift store of the server that allows the container
  hdfs://NAMESERVICE/PATH/ the HDFS store of the server with that name
  netstorage://CPCODE/PREFIX/ any NetStorage store of the server with that CP code
  file:///PATH/         a directory that the server offers
  STORE:PATH/           a store by its name in the server's configuration
With '/' at its end a URL is a folder; without, an object, and for ls all that begins with it.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send files and directories to a server's store.
    #[command(allow_missing_positional = true, after_long_help = SEND_HELP, after_help = "See --help for how files are named at the destination.")]
    Send(Box<SendOptions>),
    /// Get objects of a server's store as files.
    #[command(allow_missing_positional = true, after_long_help = GET_HELP, after_help = "See --help for how files are named.")]
    Get(GetOptions),
    /// Copy objects from one of the server's stores to another, without a way through here.
    #[command(after_help = URLS)]
    Copy(CopyOptions),
    /// Show one transfer, or all of yours.
    Status(StatusOptions),
    /// Change policy and rates of a running transfer.
    #[command(after_help = RATE_HELP)]
    Rate(RateOptions),
    /// End a transfer. What is durable already stays.
    Cancel(CancelOptions),
    /// List the objects of a server's store.
    #[command(after_help = URLS)]
    Ls(LsOptions),
    /// Show what a server's store knows about an object.
    #[command(after_help = URLS)]
    Stat(StatOptions),
    /// Remove objects from a server's store.
    #[command(after_help = URLS)]
    Rm(RmOptions),
    /// Seal files on this machine: encrypt them with a key that stays with you.
    #[command(after_help = SEAL_HELP)]
    Seal(SealOptions),
    /// Unseal sealed files on this machine.
    #[command(after_help = UNSEAL_HELP)]
    Unseal(UnsealOptions),
    /// Make a key file for sealing.
    SealKey(SealKeyFileOptions),
    /// Have a server read stored files again and compare them with a manifest. Exit code 7: some differ or are missing.
    Verify(VerifyOptions),
    /// Check a receipt, and the manifest that it is about, without asking anybody.
    VerifyReceipt(VerifyReceiptOptions),
    /// Print the key that checks a server's receipts.
    ReceiptKey(ReceiptKeyOptions),
    /// Examine this machine and, with --server, the way to a server.
    Doctor(DoctorOptions),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which server, and who asks.
#[derive(Debug, Args)]
pub(crate) struct ServerOptions {
    /// Server and its HTTPS port (default 33000).
    #[arg(long, value_name = "HOST[:PORT]", env = "TRADEWIND_SERVER", value_hint = ValueHint::Hostname)]
    pub(crate) server: ServerAddress,
    #[command(flatten)]
    pub(crate) identity: IdentityOptions,
}

/// Who asks, and whom to trust.
#[derive(Debug, Args)]
pub(crate) struct IdentityOptions {
    /// Access key of your user on the server.
    #[arg(long, value_name = "KEY", env = "TRADEWIND_ACCESS_KEY", hide_env_values = true)]
    pub(crate) access_key: Option<String>,
    /// File whose first line is the secret of the access key. Without it, TRADEWIND_SECRET is used.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) secret_file: Option<PathBuf>,
    /// Accept only the server whose key has this fingerprint, as `tradewindd --fingerprint` prints it. Otherwise the key seen at
    /// first use is remembered and required.
    #[arg(long, value_name = "SHA256:…")]
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Refuse a server that is not known yet, rather than remember it.
    #[arg(long, conflicts_with = "fingerprint")]
    pub(crate) strict: bool,
}

/// `tradewind send`.
#[derive(Debug, Args)]
pub(crate) struct SendOptions {
    /// Files and directories to send.
    #[arg(value_name = "SRC", required_unless_present_any = ["file_list", "file_pair_list"], num_args = 0.., value_hint = ValueHint::AnyPath)]
    pub(crate) sources: Vec<PathBuf>,
    /// Where to: s3://BUCKET/PREFIX/, file:///PATH/ or STORE:PATH/.
    #[arg(value_name = "DEST", required = true)]
    pub(crate) destination: String,
    #[command(flatten)]
    pub(crate) lists: ListOptions,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[command(flatten)]
    pub(crate) select: SelectOptions,
    #[command(flatten)]
    pub(crate) keep: KeepOptions,
    #[command(flatten)]
    pub(crate) proof: ProofOptions,
    #[command(flatten)]
    pub(crate) seal: SendSealOptions,
    /// Print what would be sent and under which names, and send nothing. The server is not asked.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace files that exist at the destination.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// What of earlier transfers to the same destination is not sent again.
    #[arg(long, value_enum, default_value_t = ResumeOption::Attributes)]
    pub(crate) resume: ResumeOption,
    #[command(flatten)]
    pub(crate) lane: LaneOptions,
    /// Never send slower, even when the network is full, bits per second.
    #[arg(long, value_name = "RATE")]
    pub(crate) min_rate: Option<BitRate>,
    /// Print events as JSON, one a line: started, progress, file_error, retry, done, error; with --dry-run: file, dry_run.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors (and JSON events, if asked for).
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// `tradewind get`.
#[derive(Debug, Args)]
pub(crate) struct GetOptions {
    /// What to get: s3://BUCKET/PREFIX/, s3://BUCKET/KEY, file:///PATH or STORE:PATH.
    #[arg(value_name = "URL", required = true, num_args = 1..)]
    pub(crate) sources: Vec<String>,
    /// Directory, or with one object the name of the file.
    #[arg(value_name = "DEST", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) destination: PathBuf,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[command(flatten)]
    pub(crate) select: SelectObjectsOptions,
    #[command(flatten)]
    pub(crate) unseal: GetUnsealOptions,
    /// Print what would be got and under which names, and get nothing. Sealed objects are shown as they are stored.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace files that exist.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Make each NAME.rclonelink that is got the symbolic link NAME, unless it leads out of DEST.
    #[arg(long)]
    pub(crate) links: bool,
    /// Give files the numeric owner and group that were kept with `send --preserve owner`. Takes root.
    #[arg(long)]
    pub(crate) preserve_owner: bool,
    /// When files are made to survive a loss of power. After one, what was got with another policy than `each` may be damaged and look complete.
    #[arg(long, value_enum, default_value_t = FsyncOption::Each)]
    pub(crate) fsync: FsyncOption,
    /// What of earlier downloads into the same directory is not got again.
    #[arg(long, value_enum, default_value_t = ResumeOption::Attributes)]
    pub(crate) resume: ResumeOption,
    #[command(flatten)]
    pub(crate) lane: LaneOptions,
    /// Print events as JSON, one a line: started, progress, file, unsealed, link, file_error, retry, done, error; with --dry-run: file, dry_run.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors (and JSON events, if asked for).
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// When files are made to survive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FsyncOption {
    /// Before a file has its name.
    Each,
    /// All together, before the command says that it is done.
    End,
    /// When the operating system likes.
    Never,
}

impl FsyncOption {
    /// As the store is told.
    pub(crate) const fn policy(self) -> FsyncPolicy {
        match self {
            Self::Each => FsyncPolicy::Each,
            Self::End => FsyncPolicy::End,
            Self::Never => FsyncPolicy::Never,
        }
    }
}

/// What is taken for durable already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResumeOption {
    /// Nothing: everything is sent.
    None,
    /// Files and parts of files whose size and modification time are those of the source now.
    Attributes,
    /// The same, if samples of their contents are too, compared by CRC-64: files up to 4 MiB as a whole; of larger ones the beginning, the end and up
    /// to six blocks evenly between; of what is not complete yet up to eight of its parts likewise. For `get`, as `attributes`.
    Sparse,
    /// The same, if their contents are too: sources are read and compared by CRC-64. For `get`, as `attributes`.
    Full,
}

impl ResumeOption {
    /// As the server is told. A later attempt of the same command never sends again what an earlier one has brought there.
    pub(crate) const fn for_server(self, attempt: u32) -> ResumePolicy {
        match self {
            Self::None if attempt == 1 => ResumePolicy::None,
            Self::None | Self::Attributes | Self::Sparse | Self::Full => ResumePolicy::Attributes,
        }
    }

    /// How much of the sources is compared.
    pub(crate) const fn compare(self) -> Compare {
        match self {
            Self::None | Self::Attributes => Compare::Attributes,
            Self::Sparse => Compare::Samples,
            Self::Full => Compare::All,
        }
    }
}

/// `tradewind status`.
#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// The transfer; without it all of yours are listed, newest first.
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Print the server's answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tradewind rate`.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("change").args(["policy", "rate", "min_rate"]).required(true).multiple(true))]
pub(crate) struct RateOptions {
    /// The transfer.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Behaviour beside other traffic.
    #[arg(long, value_enum)]
    pub(crate) policy: Option<PolicyOption>,
    /// Never send faster, bits per second: 300M, 1.5G; or none. With the policy fixed, the rate itself.
    #[arg(long, value_name = "RATE|none")]
    pub(crate) rate: Option<RateOrNone>,
    /// Never send slower, even when the network is full, bits per second; or none.
    #[arg(long, value_name = "RATE|none")]
    pub(crate) min_rate: Option<RateOrNone>,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Print the server's answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl RateOptions {
    /// As the server is told.
    pub(crate) fn change(&self) -> RateChange {
        RateChange {
            policy: self.policy.map(PolicyOption::for_server),
            target_rate_bps: self.rate.map(RateOrNone::bits_per_s),
            minimum_rate_bps: self.min_rate.map(RateOrNone::bits_per_s),
        }
    }
}

/// `tradewind cancel`.
#[derive(Debug, Args)]
pub(crate) struct CancelOptions {
    /// The transfer.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Print the server's answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tradewind ls`.
#[derive(Debug, Args)]
pub(crate) struct LsOptions {
    /// What to list.
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// All objects below it, not only the folder itself.
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// With size and time of the last change.
    #[arg(long, short)]
    pub(crate) long: bool,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Print an object of JSON a line: url, name, folder, size, modified_ns (nanoseconds since 1970), etag.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tradewind stat`.
#[derive(Debug, Args)]
pub(crate) struct StatOptions {
    /// The object.
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Print the server's answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tradewind rm`.
#[derive(Debug, Args)]
pub(crate) struct RmOptions {
    /// What to remove.
    #[arg(value_name = "URL", required = true, num_args = 1..)]
    pub(crate) urls: Vec<String>,
    /// Also folders (URLs that end in '/'), with all objects below them. Directories of a local store stay, empty.
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Print what would be removed, and remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// An object that is not there is no failure, and with -r a whole bucket or store may be removed.
    #[arg(long, short)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
}

/// `tradewind doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// Also examine the way to this server.
    #[arg(long, value_name = "HOST[:PORT]", env = "TRADEWIND_SERVER", value_hint = ValueHint::Hostname)]
    pub(crate) server: Option<ServerAddress>,
    #[command(flatten)]
    pub(crate) identity: IdentityOptions,
    /// Only this network interface.
    #[arg(long, value_name = "IF")]
    pub(crate) interface: Option<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;
    use crate::lane::CipherOption;
    use tradewind_api::RatePolicy;

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once("tradewind").chain(line.split_whitespace()))
    }

    fn send(line: &str) -> SendOptions {
        match parse(line).unwrap().command {
            Command::Send(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_last_word_of_send_is_the_destination() {
        let options = send("send a b dir/ s3://bucket/in/ --server far:1");
        assert_eq!(options.sources, ["a", "b", "dir/"].map(PathBuf::from));
        assert_eq!(options.destination, "s3://bucket/in/");
        assert_eq!(options.server.server.to_string(), "far:1");
        assert_eq!((options.lane.policy, options.lane.cipher), (PolicyOption::Fair, CipherOption::Aes128Gcm));
        assert!(options.lane.rate.is_none() && !options.overwrite && !options.json);
        assert_eq!(parse("send s3://bucket/ --server far").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn rates_and_policies() {
        let options = send("send a s3://bucket/in/ --server far --policy fixed --rate 1.5G --min-rate 10M --cipher aes-256-gcm");
        assert_eq!(options.lane.rate.unwrap().bits_per_s(), 1_500_000_000);
        assert_eq!(options.min_rate.unwrap().bits_per_s(), 10_000_000);
        assert_eq!(options.lane.cipher, CipherOption::Aes256Gcm);
        let missing = parse("send a s3://bucket/in/ --server far --policy fixed").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(missing.exit_code(), i32::from(tradewind_api::exit::USAGE));
        for wrong in ["--rate fast", "--rate 1", "--policy greedy", "--cipher none", "--server a:0", "--fingerprint MD5:x"] {
            let line = format!("send a s3://bucket/in/ --server far {wrong}");
            assert!(parse(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn other_commands() {
        assert!(matches!(parse("status --server far").unwrap().command, Command::Status(StatusOptions { id: None, .. })));
        assert!(matches!(parse("cancel abc --server far").unwrap().command, Command::Cancel(CancelOptions { id, .. }) if id == "abc"));
        let Command::Rate(rate) = parse("rate abc --server far --policy low --rate none").unwrap().command else { panic!("not a rate") };
        let expected = RateChange { policy: Some(RatePolicy::Low), target_rate_bps: Some(None), minimum_rate_bps: None };
        assert_eq!((rate.id.as_str(), rate.change()), ("abc", expected));
        let Command::Rate(rate) = parse("rate abc --server far --min-rate 5M").unwrap().command else { panic!("not a rate") };
        assert_eq!(rate.change(), RateChange { minimum_rate_bps: Some(Some(5_000_000)), ..RateChange::default() });
        assert_eq!(parse("rate abc --server far").unwrap_err().kind(), ErrorKind::MissingRequiredArgument, "a change of nothing");
        assert!(parse("rate abc --server far --rate 1").is_err());
        assert!(matches!(
            parse("ls -lr s3://b/ --server far").unwrap().command,
            Command::Ls(LsOptions { long: true, recursive: true, .. })
        ));
        assert!(matches!(parse("rm -f a b --server far").unwrap().command, Command::Rm(RmOptions { urls, .. }) if urls == ["a", "b"]));
        assert_eq!(parse("rm --server far").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        assert!(matches!(parse("doctor --json").unwrap().command, Command::Doctor(DoctorOptions { json: true, .. })));
        assert!(matches!(parse("completions bash").unwrap().command, Command::Completions { .. }));
        assert_eq!(parse("cancel --server far").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        use tradewind_api::exit;
        for code in [
            exit::OK,
            exit::INTERNAL,
            exit::USAGE,
            exit::AUTH,
            exit::UNREACHABLE,
            exit::FINGERPRINT,
            exit::DESTINATION,
            exit::SOURCE,
            exit::TRANSFER,
            exit::CANCELLED,
            exit::BUSY,
            exit::INTERRUPTED,
            exit::TERMINATED,
        ] {
            assert!(EXIT_CODES.split(|c: char| !c.is_ascii_digit()).any(|word| word == code.to_string()), "{code}");
        }
    }
}
