//! `tradewind copy`: objects from store to store, inside one server or from one server to another; nothing of them passes this machine.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use serde_json::json;
use tradewind_api::{
    Client, ClientError, ErrorCode, Fingerprint, LaneOffer, Outcome, RatePolicy, RateRequest, RemoteLane, ResumePolicy, Select,
    ServerAddress, SubmitRequest, SubmitResponse, TransferState, TransferStatus, exit, last_part,
};
use tradewind_client::{Selected, chunk_bytes_for_packets};

use crate::connect::{connect, connect_to, resolve};
use crate::display::Reporter;
use crate::dry_get::DryRun;
use crate::events;
use crate::failure::Failure;
use crate::follow::{failed, tell_server};
use crate::interrupt::Interrupts;
use crate::lane::PolicyOption;
use crate::objects::parse;
use crate::options::{ResumeOption, ServerOptions};
use crate::rate::BitRate;
use crate::retry::{Attempts, Cure};
use crate::select::SelectObjectsOptions;
use crate::send::submit;
use crate::units;

/// `tradewind copy`.
#[derive(Debug, Args)]
pub(crate) struct CopyOptions {
    /// What to copy: with '/' at its end all below it, else an object or the folder of that name.
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Where to: with '/' at its end below it, else exactly this name for one object.
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[command(flatten)]
    pub(crate) to: ToOptions,
    #[command(flatten)]
    pub(crate) select: SelectObjectsOptions,
    /// Print what would be copied and under which names, and copy nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace objects that exist.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// What is taken for copied already.
    #[arg(long, value_enum, default_value_t = ResumeOption::Attributes)]
    pub(crate) resume: ResumeOption,
    /// Start again by itself so often when an engine or the way between the servers breaks; what is durable is not copied again.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) retries: u32,
    /// Print events as JSON, one a line: started, progress, retry, done, error; with --dry-run: file, dry_run.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors (and JSON events, if asked for).
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Another server that takes what is copied.
#[derive(Debug, Args)]
pub(crate) struct ToOptions {
    /// Server of DEST, if it is another one than that of SRC: the data goes from the one to the other and not through here. That server has to allow
    /// it (`data.copy_from`), and its engine has one worker. Your key and secret for the other server are shown to it only if it is known already.
    #[arg(id = "to", long, value_name = "HOST[:PORT]", value_hint = ValueHint::Hostname)]
    pub(crate) server: Option<ServerAddress>,
    /// Access key there. Default: the same.
    #[arg(id = "to_access_key", long, value_name = "KEY", env = "TRADEWIND_TO_ACCESS_KEY", hide_env_values = true)]
    pub(crate) access_key: Option<String>,
    /// File whose first line is the secret there. Without it, TRADEWIND_TO_SECRET is used, or the same secret.
    #[arg(id = "to_secret_file", long, requires = "to", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) secret_file: Option<PathBuf>,
    /// Accept only the server whose key has this fingerprint.
    #[arg(id = "to_fingerprint", long, requires = "to", value_name = "SHA256:…")]
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Behaviour beside other traffic on the way there. Default: fair.
    #[arg(long, value_enum, requires = "to")]
    pub(crate) policy: Option<PolicyOption>,
    /// Never faster on the way there, bits per second: 300M, 1.5G. With --policy fixed, the rate itself.
    #[arg(long, value_name = "RATE", requires = "to", required_if_eq("policy", "fixed"))]
    pub(crate) rate: Option<BitRate>,
}

/// How often servers are asked how far they are.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// When one of two servers has ended its side well, the other one has so long for its own.
const OTHER_SIDE_TIMEOUT: Duration = Duration::from_secs(20);
/// The same where it has failed: the other one may know why.
const OTHER_CAUSE_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that cannot be asked for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes of an IP packet between servers: what any path of the Internet takes, as far as anybody knows.
const PACKET_BYTES: usize = 1500;

/// A transfer at a server that takes part.
struct Side {
    client: Client,
    id: String,
    /// Which server, for people, where there are two.
    name: Option<String>,
}

/// The transfer that stores, and that which sends where that is another one.
struct Sides {
    storing: Side,
    sending: Option<Side>,
}

/// Runs the command.
pub(crate) async fn copy(options: &CopyOptions) -> Result<u8, Failure> {
    let (selected, select) = options.select.resolve()?;
    if matches!(options.resume, ResumeOption::Sparse | ResumeOption::Full) {
        return Err(Failure::Usage {
            detail: "a copy does not compare contents with what is there".to_owned(),
            hint: "use --resume attributes, or --resume none to copy everything; `tradewind verify` compares".to_owned(),
        });
    }
    let mut interrupts = Interrupts::new()?;
    if options.dry_run {
        return dry_run(options, &selected, &mut interrupts).await;
    }
    let mut attempts = Attempts::new(options.retries, options.json, options.quiet);
    loop {
        let result = copy_once(options, &select, attempts.number, &mut interrupts).await;
        let Err(failure) = result else { return result };
        let Some(cure @ Cure::Again) = attempts.cure(&failure) else { return Err(failure) };
        // Whether a server has begun to copy inside itself is not known where its answer was lost: another copy would run beside that one.
        if options.to.server.is_none() && attempts.number == 1 && matches!(failure, Failure::Server(ClientError::Unreachable { .. })) {
            return Err(failure);
        }
        attempts.go_on(&failure, cure, &mut interrupts).await?;
    }
}

/// Lists what would be copied.
async fn dry_run(options: &CopyOptions, selected: &Selected, interrupts: &mut Interrupts) -> Result<u8, Failure> {
    let client = connect(&options.server, options.quiet || options.json).await?;
    let destination = &options.destination;
    let into = !parse(destination)?.names_one_file();
    let slash = if into && destination.ends_with(['/', ':']) { "" } else { "/" };
    let mut run = DryRun::new(&client, selected, options.json, options.quiet);
    let target = |path: &str, is_single: bool| if is_single && !into { destination.clone() } else { format!("{destination}{slash}{path}") };
    let listing = run.source(&options.source, target);
    interrupts.unless(listing).await.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })??;
    Ok(run.end())
}

async fn copy_once(options: &CopyOptions, select: &Select, attempt: u32, interrupts: &mut Interrupts) -> Result<u8, Failure> {
    let begun = Begun::default();
    let beginning = async {
        match &options.to.server {
            Some(to) => between(options, select, attempt, to, &begun).await,
            None => within(options, select, attempt).await,
        }
    };
    let sides = match interrupts.unless(beginning).await {
        Ok(sides) => sides?,
        Err(signal) => {
            begun.cancel().await;
            return Err(Failure::Interrupted { signal, transfer_id: None });
        }
    };
    let id = sides.storing.id.clone();
    if options.json {
        let sending = sides.sending.as_ref().map(|side| &side.id);
        events::emit(&json!({
            "event": "started", "transfer_id": id, "source": options.source, "destination": options.destination,
            "sending_transfer_id": sending,
        }));
    }
    let mut reporter = Reporter::new(options.json, options.quiet, 0);
    let ended = match interrupts.unless(follow(&sides, options, &mut reporter)).await {
        Ok(ended) => ended,
        Err(signal) => {
            sides.cancel().await;
            return Err(Failure::Interrupted { signal, transfer_id: Some(id) });
        }
    };
    reporter.clear();
    let Ended { stored, left_out } = match ended {
        Ok(ended) => ended,
        Err(failure) => {
            sides.cancel().await;
            return Err(failure);
        }
    };
    let (files, bytes) = (stored.totals.files_durable, stored.totals.bytes_durable);
    let elapsed = Duration::from_millis(stored.elapsed_ms);
    if options.json {
        events::emit(&json!({
            "event": "done", "transfer_id": id, "files": files, "bytes": bytes, "elapsed_s": elapsed.as_secs_f64(),
            "goodput_bps": units::goodput_bps(bytes, elapsed),
        }));
    }
    let rate = units::rate(units::goodput_bps(bytes, elapsed));
    let objects = if files == 1 { "object" } else { "objects" };
    reporter.finished(&format!("{files} {objects} copied, {} in {} ({rate})", units::bytes(bytes), units::duration(elapsed)));
    match left_out {
        (files, Some(first)) => Err(Failure::NotGot { files, first }),
        _ => Ok(exit::OK),
    }
}

/// Transfers that were begun at servers while the other one was not yet.
#[derive(Default)]
struct Begun(Mutex<Vec<(Client, String)>>);

impl Begun {
    fn add(&self, client: &Client, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((client.clone(), id.to_owned()));
    }

    async fn cancel(&self) {
        let begun = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (client, id) in begun {
            tell_server(&client, &id).await;
        }
    }
}

/// Begins a copy from store to store of one server.
async fn within(options: &CopyOptions, select: &Select, attempt: u32) -> Result<Sides, Failure> {
    let client = connect(&options.server, options.quiet || options.json).await?;
    let request = SubmitRequest { source: Some(options.source.clone()), select: select.clone(), ..storing(options, attempt) };
    let ((answer, _), _) = submit(&client, resolve(&options.server.server).await, &request).await?;
    Ok(Sides { storing: Side { client, id: answer.transfer_id, name: None }, sending: None })
}

/// What the server is asked that stores.
fn storing(options: &CopyOptions, attempt: u32) -> SubmitRequest {
    SubmitRequest {
        destination: Some(options.destination.clone()),
        overwrite: options.overwrite,
        resume: resume(options, attempt),
        ..SubmitRequest::default()
    }
}

/// What is taken for copied. Nothing of one object that gets another name: what is there is known by the name there, and what is read by its own.
fn resume(options: &CopyOptions, attempt: u32) -> ResumePolicy {
    let (source, destination) = (last_part(&options.source), last_part(&options.destination));
    if destination.is_empty() || source == destination { options.resume.for_server(attempt) } else { ResumePolicy::None }
}

/// Begins a copy from one server to another: the first opens a lane as for a download, the second is told of it in the place of files of ours,
/// and what the second has already goes to the first.
async fn between(options: &CopyOptions, select: &Select, attempt: u32, to: &ServerAddress, begun: &Begun) -> Result<Sides, Failure> {
    let quiet = options.quiet || options.json;
    let (source, sink) = (connect(&options.server, quiet).await?, connect_to(to, options, quiet).await?);
    let address = resolve(&options.server.server).await;
    let chunk_bytes_max = address.and_then(|address| chunk_bytes_for_packets(PACKET_BYTES, address.ip()));
    let rate = RateRequest {
        policy: options.to.policy.map_or(RatePolicy::Fair, PolicyOption::for_server),
        target_rate_bps: options.to.rate.map(|rate| rate.bits_per_s()),
        minimum_rate_bps: None,
    };
    let resume = resume(options, attempt);
    let (source_url, select) = (Some(options.source.clone()), select.clone());
    let request = SubmitRequest { source: source_url, select, resume, rate, chunk_bytes_max, ..SubmitRequest::default() };
    let ((answer, server), _) = submit(&source, address, &request).await?;
    begun.add(&source, &answer.transfer_id);
    let sending = Side { client: source, id: answer.transfer_id.clone(), name: Some(options.server.server.to_string()) };
    match join(storing(options, attempt), to, &sending, &sink, (&answer, server), begun).await {
        Ok(stored) => {
            Ok(Sides { storing: Side { client: sink, id: stored.transfer_id, name: Some(to.to_string()) }, sending: Some(sending) })
        }
        Err(failure) => {
            tell_server(&sending.client, &sending.id).await;
            Err(failure)
        }
    }
}

/// Tells the server that stores of the lane of the one that sends.
async fn join(
    storing: SubmitRequest,
    to: &ServerAddress,
    sending: &Side,
    sink: &Client,
    (offered, server): (&SubmitResponse, IpAddr),
    begun: &Begun,
) -> Result<SubmitResponse, Failure> {
    let lane = offered.lanes.first().and_then(|lane| remote(lane, server));
    let from = lane.ok_or_else(|| Failure::Usage {
        detail: format!("{} offers no address to get the objects from", sending.name.as_deref().unwrap_or("the server")),
        hint: "its release may be another one than that of this command".to_owned(),
    })?;
    let request = SubmitRequest { from: Some(from), ..storing };
    let ((answer, _), _) = submit(sink, resolve(to).await, &request).await?;
    begun.add(sink, &answer.transfer_id);
    if request.resume == ResumePolicy::Attributes {
        let mut lines = Vec::new();
        let mut add = |entry| {
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut lines, &entry);
            lines.push(b'\n');
        };
        let told = match sink.durable(&answer.transfer_id, &mut add).await {
            Ok(()) => sending.client.have(&sending.id, lines).await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tell_server(sink, &answer.transfer_id).await;
            return Err(error.into());
        }
    }
    Ok(answer)
}

fn remote(lane: &LaneOffer, server: IpAddr) -> Option<RemoteLane> {
    let address = lane.socket_addresses(server).first().copied()?;
    Some(RemoteLane {
        lane_id: lane.lane_id,
        secret: lane.secret.clone(),
        address,
        block_bytes: lane.block_bytes,
        chunk_bytes: lane.chunk_bytes,
    })
}

/// A copy that went through.
struct Ended {
    stored: TransferStatus,
    /// Objects that could not be read, and why the first.
    left_out: (u64, Option<String>),
}

/// Follows all sides until they have ended.
async fn follow(sides: &Sides, options: &CopyOptions, reporter: &mut Reporter) -> Result<Ended, Failure> {
    let mut first_end = None;
    let mut heard = [Instant::now(); 2];
    loop {
        let stored = sides.storing.status(reporter, &mut heard[0]).await?;
        let sent = match &sides.sending {
            Some(side) => side.status(reporter, &mut heard[1]).await?,
            None => stored.clone(),
        };
        let ended = [&stored, &sent].map(|status| status.as_ref().is_some_and(|status| status.state.is_final()));
        let failure = || {
            let sending = sides.sending.as_ref().zip(sent.as_ref());
            let failures = [Some(&sides.storing).zip(stored.as_ref()), sending];
            first_cause(failures.into_iter().flatten().filter_map(|(side, status)| side.failure(status)))
        };
        match (&stored, ended) {
            (Some(stored), [true, true]) => {
                if let Some(failure) = failure() {
                    return Err(failure);
                }
                // What one side cannot read, and what the other cannot write.
                let other = sent.filter(|_| sides.sending.is_some()).map_or((0, None), |sent| (sent.files_failed, sent.first_failure));
                let left_out = (other.0 + stored.files_failed, other.1.or_else(|| stored.first_failure.clone()));
                return Ok(Ended { stored: stored.clone(), left_out });
            }
            (_, [true, false] | [false, true]) => {
                let since: &Instant = first_end.get_or_insert_with(Instant::now);
                let failure = failure();
                if since.elapsed() > if failure.is_some() { OTHER_CAUSE_TIMEOUT } else { OTHER_SIDE_TIMEOUT } {
                    return Err(failure.unwrap_or_else(|| Failure::Local {
                        what: "the copy has ended at one of the servers and not at the other",
                        detail: "the same command again copies what is missing".to_owned(),
                    }));
                }
            }
            (Some(stored), _) if options.json => {
                events::emit(&json!({
                    "event": "progress", "elapsed_s": stored.elapsed_ms as f64 / 1e3, "bytes_durable": stored.totals.bytes_durable,
                    "files_durable": stored.totals.files_durable,
                }));
            }
            _ => {}
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Of what both sides say, what is not just that the other one has gone.
fn first_cause(failures: impl Iterator<Item = Failure>) -> Option<Failure> {
    let is_consequence = |failure: &Failure| {
        matches!(failure, Failure::Transfer { code: ErrorCode::PeerGone | ErrorCode::IdleTimeout | ErrorCode::Cancelled, .. })
    };
    let (consequences, causes): (Vec<_>, Vec<_>) = failures.partition(is_consequence);
    causes.into_iter().chain(consequences).next()
}

impl Sides {
    async fn cancel(&self) {
        for side in self.sending.iter().chain([&self.storing]) {
            tell_server(&side.client, &side.id).await;
        }
    }
}

impl Side {
    /// The server's account; `None` when it could not be asked just now.
    async fn status(&self, reporter: &mut Reporter, heard: &mut Instant) -> Result<Option<TransferStatus>, Failure> {
        match self.client.status(&self.id).await {
            Ok(status) => {
                *heard = Instant::now();
                Ok(Some(status))
            }
            Err(error) if error.is_retryable() && heard.elapsed() < SILENCE_MAX => {
                reporter.note(&error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Why this side failed, if it did.
    fn failure(&self, status: &TransferStatus) -> Option<Failure> {
        let outcome = status.outcome.clone().filter(|_| matches!(status.state, TransferState::Failed | TransferState::Cancelled))?;
        let detail = match &self.name {
            Some(name) => format!("{name}: {}", outcome.detail),
            None => outcome.detail,
        };
        Some(failed(self.id.clone(), Outcome { detail, ..outcome }))
    }
}
