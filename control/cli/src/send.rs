//! `tradewind send`: agree with the server over HTTPS, send over UDP, wait until everything is durable.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tradewind_api::{
    Client, LaneOffer, Outcome, RatePolicy, RateRequest, SubmitRequest, SubmitResponse, TransferState, TransferStatus, exit,
};
use tradewind_client::{Group, Progress, RateOptions, Source, Upload, UploadError, UploadReport, chunk_bytes_for_packets, route_mtu};

use crate::connect::{connect, resolve, tcp_round_trip};
use crate::display::{self, Reporter};
use crate::events;
use crate::failure::{self, Failure};
use crate::interrupt::{Interrupts, Signal};
use crate::options::SendOptions;
use crate::retry::{self, Cure};
use crate::select::Selection;
use crate::sources::{self, Collected};
use crate::units;

/// Silence of the server's engine after which the transfer fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server's own account of the end is waited for.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(5);
/// A transfer that has not moved for so long is asked for on the server: its engine may be gone and say nothing.
const STALL: Duration = Duration::from_secs(3);
const LAST_WORD_INTERVAL: Duration = Duration::from_millis(200);
/// Round trips of a POST on a new connection: TCP, TLS 1.3, request.
const SUBMIT_ROUND_TRIPS: u32 = 3;

/// Runs the command.
pub(crate) async fn send(options: &SendOptions) -> Result<u8, Failure> {
    check_rates(options)?;
    let selection = Selection::new(&options.select)?;
    let mut collected = sources::collect(&options.sources, &options.destination, &selection)?;
    let quiet = options.quiet || options.json;
    if !quiet {
        collected.skipped.iter().for_each(|text| display::note(text));
    }
    if options.dry_run {
        return Ok(show(options, &collected));
    }
    let mut interrupts = Interrupts::new()?;
    let mut packet_bytes_max = None;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut begun = None;
        let result = once(options, &collected, packet_bytes_max, &mut begun, &mut interrupts).await;
        let Err(failure) = result else { return result };
        let Some(cure) = retry::cure(&failure, attempt > 1).filter(|_| attempt <= options.retries) else { return Err(failure) };
        let status = match &begun {
            Some((client, id)) => interrupts.unless(last_word(client, id)).await.ok().flatten(),
            None => None,
        };
        let left = retry::left(&collected.sources, &collected.destination, options.overwrite, status.as_ref());
        let Some(left) = left else { return Err(failure) };
        if left.is_empty() {
            let files = collected.sources.len();
            if options.json {
                events::emit(&events::done_before(&failure, files, collected.bytes, status.as_ref()));
            } else if !quiet {
                display::result(&format!("{failure}; but everything that was to be sent is durable at the destination"));
            }
            return Ok(exit::OK);
        }
        collected.sources = left;
        collected.bytes = Upload::bytes_total(&collected.sources).map_err(Failure::Source)?;
        if let Cure::SmallerPackets(bytes) = cure {
            packet_bytes_max = Some(bytes);
        }
        let wait = retry::wait(cure, attempt);
        if options.json {
            events::emit(&events::retry(&failure, attempt, wait, collected.sources.len(), packet_bytes_max));
        } else if !quiet {
            display::note(&again(&failure, attempt, options.retries, &collected, packet_bytes_max));
        }
        let interrupted = |signal| Failure::Interrupted { signal, transfer_id: failure.transfer_id().map(str::to_owned) };
        interrupts.unless(tokio::time::sleep(wait)).await.map_err(interrupted)?;
    }
}

/// `--dry-run`: what would be sent.
fn show(options: &SendOptions, collected: &Collected) -> u8 {
    let destination = &options.destination;
    let exact = collected.destination.names_one_file();
    let slash = if destination.ends_with(['/', ':']) { "" } else { "/" };
    for source in &collected.sources {
        let to = if exact { destination.clone() } else { format!("{destination}{slash}{}", String::from_utf8_lossy(&source.name)) };
        if options.json {
            events::emit(&events::file(source, &to));
        } else {
            display::result(&format!("{} -> {to}", source.path.display()));
        }
    }
    if options.json {
        events::emit(&events::dry_run(collected));
    } else if !options.quiet {
        let files = units::count(collected.sources.len() as u64, "file", "files");
        display::note(&format!(
            "would send {files} ({}), {} left out, {} skipped",
            units::bytes(collected.bytes),
            collected.unselected,
            collected.skipped.len()
        ));
    }
    exit::OK
}

/// What people are told before a restart.
fn again(failure: &Failure, attempt: u32, retries: u32, collected: &Collected, packet_bytes_max: Option<usize>) -> String {
    let smaller = packet_bytes_max.map_or(String::new(), |bytes| format!(", with packets of at most {bytes} bytes"));
    let files = collected.sources.len();
    format!("{failure}; starting again with {files} file{}{smaller} ({attempt} of {retries})", if files == 1 { "" } else { "s" })
}

/// One transfer. `begun` tells of it as soon as the server knows it.
async fn once(
    options: &SendOptions,
    collected: &Collected,
    packet_bytes_max: Option<usize>,
    begun: &mut Option<(Client, String)>,
    interrupts: &mut Interrupts,
) -> Result<u8, Failure> {
    let quiet = options.quiet || options.json;
    let agreed = interrupts.unless(agree(options, collected, packet_bytes_max, quiet)).await;
    let (agreed, request) = agreed.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })??;
    let id = agreed.answer.transfer_id.as_str();
    *begun = Some((agreed.client.clone(), id.to_owned()));

    let cancel = Arc::new(AtomicBool::new(false));
    let upload = match upload(collected.sources.clone(), &agreed, Arc::clone(&cancel)) {
        Ok(upload) => upload,
        Err(error) => return Err(explain(&agreed.client, id, error, None).await),
    };
    let mut reporter = Reporter::new(options.json, options.quiet, collected.bytes);
    if options.json {
        events::emit(&events::started(id, upload.lane.endpoints.first().copied(), &request, agreed.round_trip));
    }
    let moved = Cell::new(Instant::now());
    let watching = ended_on_server(&agreed.client, id, &moved);
    let Driven { result, signal, ended } = drive(upload, &cancel, interrupts, &mut reporter, &moved, watching).await;
    reporter.clear();
    if let (Err(UploadError::Cancelled), None, Some(outcome)) = (&result, signal, ended) {
        return Err(failed(id.to_owned(), outcome));
    }
    // All that is left is to hear the server's account; a signal ends that wait too.
    match result {
        Ok(report) => {
            let server = interrupts.unless(last_word(&agreed.client, id)).await.ok().flatten();
            if options.json {
                events::emit(&events::done(id, &request, &report, server.as_ref()));
            }
            reporter.done(&report, server.as_ref());
            Ok(exit::OK)
        }
        Err(error) => {
            let explained = interrupts.unless(explain(&agreed.client, id, error, signal)).await;
            Err(explained.unwrap_or_else(|signal| Failure::Interrupted { signal, transfer_id: Some(id.to_owned()) }))
        }
    }
}

fn check_rates(options: &SendOptions) -> Result<(), Failure> {
    match (options.rate, options.min_rate) {
        (Some(rate), Some(minimum)) if minimum > rate => Err(Failure::Usage {
            detail: format!("--min-rate ({minimum}) is above --rate ({rate})"),
            hint: "give a --min-rate that is at most the --rate".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn submit_request(options: &SendOptions, collected: &Collected, chunk_bytes_max: Option<u32>) -> SubmitRequest {
    SubmitRequest {
        destination: options.destination.clone(),
        overwrite: options.overwrite,
        files: Some(collected.sources.len() as u64),
        bytes: Some(collected.bytes),
        rate: RateRequest {
            policy: options.policy.for_server(),
            target_rate_bps: options.rate.map(|rate| rate.bits_per_s()),
            minimum_rate_bps: options.min_rate.map(|rate| rate.bits_per_s()),
        },
        cipher: options.cipher.for_server(),
        chunk_bytes_max,
    }
}

/// What was agreed with the server.
struct Agreed {
    client: Client,
    answer: SubmitResponse,
    /// The address that answered over HTTPS.
    server: IpAddr,
    round_trip: Option<Duration>,
}

async fn agree(
    options: &SendOptions,
    collected: &Collected,
    packet_bytes_max: Option<usize>,
    quiet: bool,
) -> Result<(Agreed, SubmitRequest), Failure> {
    let client = connect(&options.server, quiet).await?;
    let address = resolve(&options.server.server).await;
    let request = submit_request(options, collected, address.and_then(|address| chunk_bytes_max(&address, packet_bytes_max)));
    let ((answer, server), round_trip) = submit(&client, address, &request).await?;
    Ok((Agreed { client, answer, server, round_trip: Some(round_trip) }, request))
}

/// Payload that fits the route to the server as far as this host knows it, and IP packets of at most so many bytes.
fn chunk_bytes_max(server: &SocketAddr, packet_bytes_max: Option<usize>) -> Option<u32> {
    let bytes = route_mtu(server).ok().into_iter().chain(packet_bytes_max).min()?;
    chunk_bytes_for_packets(bytes, server.ip())
}

/// Submits, and measures the round trip beside it, so that measuring costs no time.
async fn submit(
    client: &Client,
    address: Option<SocketAddr>,
    request: &SubmitRequest,
) -> Result<((SubmitResponse, IpAddr), Duration), Failure> {
    let started = Instant::now();
    let connecting = async {
        match address {
            Some(address) => tcp_round_trip(address).await,
            None => None,
        }
    };
    let submitting = client.submit(request);
    tokio::pin!(connecting, submitting);
    let mut measured = None;
    let mut is_measuring = true;
    let answer = loop {
        tokio::select! {
            answer = &mut submitting => break answer,
            time = &mut connecting, if is_measuring => (measured, is_measuring) = (time, false),
        }
    };
    let bound = started.elapsed() / SUBMIT_ROUND_TRIPS;
    Ok((answer?, measured.map_or(bound, |time: Duration| time.min(bound))))
}

fn upload(sources: Vec<Source>, agreed: &Agreed, cancel: Arc<AtomicBool>) -> Result<Upload, UploadError> {
    let offer = agreed.answer.lanes.first().ok_or_else(|| UploadError::Offer("it names no lane".to_owned()))?;
    Ok(Upload {
        lane: tradewind_client::LaneOffer {
            lane_id: offer.lane_id,
            secret: *offer.secret.expose(),
            endpoints: endpoints(offer, agreed.server),
            block_bytes: offer.block_bytes,
            chunk_bytes: offer.chunk_bytes,
            credit_blocks: offer.credit_blocks,
            cipher: match offer.cipher {
                tradewind_api::Cipher::Aes128Gcm => tradewind_client::Cipher::Aes128Gcm,
                tradewind_api::Cipher::Aes256Gcm => tradewind_client::Cipher::Aes256Gcm,
            },
        },
        sources,
        rate: RateOptions {
            policy: for_sender(offer.rate.policy),
            target_bytes_per_s: offer.rate.target_rate_bps.map(|rate| rate / 8),
            minimum_bytes_per_s: offer.rate.minimum_rate_bps.map(|rate| rate / 8),
            lease_bytes_per_s: offer.rate.lease_rate_bps.map(|rate| rate / 8),
            group: offer.rate.group.map(|group| Group { share_bytes_per_s: group.share_rate_bps / 8, lanes: group.lanes.into() }),
            initial_round_trip: agreed.round_trip,
        },
        cancel,
        idle_timeout: IDLE_TIMEOUT,
    })
}

/// As the sender is told.
const fn for_sender(policy: RatePolicy) -> tradewind_client::Policy {
    match policy {
        RatePolicy::Fixed => tradewind_client::Policy::Fixed,
        RatePolicy::High => tradewind_client::Policy::High,
        RatePolicy::Fair => tradewind_client::Policy::Fair,
        RatePolicy::Low => tradewind_client::Policy::Low,
    }
}

/// Where to send, best first: what the server offers, with the address that answered over HTTPS where it names none. Addresses of
/// the family that HTTPS came through on go first, for that family is known to get there.
fn endpoints(offer: &LaneOffer, server: IpAddr) -> Vec<SocketAddr> {
    let mut endpoints = offer.socket_addresses(server);
    for endpoint in &mut endpoints {
        if endpoint.ip().is_unspecified() {
            endpoint.set_ip(server);
        }
    }
    endpoints.sort_by_key(|endpoint| endpoint.is_ipv4() != server.is_ipv4());
    endpoints
}

/// How an upload ended.
struct Driven {
    result: Result<UploadReport, UploadError>,
    /// The signal that stopped it, if one did.
    signal: Option<Signal>,
    /// The server's account, if that was heard first.
    ended: Option<Outcome>,
}

/// Runs the upload on a thread of its own and shows how it goes. The first signal asks it to stop, the second ends the process; it
/// is stopped too when `watching` finds out that the server has ended the transfer.
async fn drive(
    upload: Upload,
    cancel: &AtomicBool,
    interrupts: &mut Interrupts,
    reporter: &mut Reporter,
    moved: &Cell<Instant>,
    watching: impl Future<Output = Outcome>,
) -> Driven {
    tokio::pin!(watching);
    let (mut ended, mut bytes) = (None, (0, 0));
    let (moments, mut shown) = mpsc::unbounded_channel::<Progress>();
    let mut running = tokio::task::spawn_blocking(move || {
        // The channel's other end lives as long as this upload does.
        upload.run(|progress| drop(moments.send(progress.clone())))
    });
    let mut first: Option<Signal> = None;
    loop {
        tokio::select! {
            biased;
            signal = interrupts.next() => match first {
                None => {
                    cancel.store(true, Ordering::Relaxed);
                    first = Some(signal);
                    reporter.note("stopping; press Ctrl-C again to end at once");
                }
                Some(_) => {
                    reporter.clear();
                    std::process::exit(i32::from(signal.exit_code()));
                }
            },
            Some(progress) = shown.recv() => {
                if bytes != (progress.bytes_sent, progress.bytes_durable) {
                    bytes = (progress.bytes_sent, progress.bytes_durable);
                    moved.set(Instant::now());
                }
                reporter.progress(&progress);
            }
            outcome = &mut watching, if ended.is_none() => {
                cancel.store(true, Ordering::Relaxed);
                ended = Some(outcome);
            }
            result = &mut running => {
                while let Ok(progress) = shown.try_recv() {
                    reporter.progress(&progress);
                }
                let panicked = |error: tokio::task::JoinError| UploadError::Local { what: "the sending thread failed", source: error.into() };
                return Driven { result: result.map_err(panicked).and_then(|result| result), signal: first, ended };
            }
        }
    }
}

/// Resolves when the server says that the transfer has ended without success. Asks only while nothing moves.
async fn ended_on_server(client: &Client, id: &str, moved: &Cell<Instant>) -> Outcome {
    loop {
        tokio::time::sleep(STALL.saturating_sub(moved.get().elapsed()).max(Duration::from_secs(1))).await;
        if moved.get().elapsed() < STALL {
            continue;
        }
        // A server that cannot be asked is the idle limit's business.
        if let Some(outcome) = client.status(id).await.ok().and_then(|status| outcome(status, false)) {
            return outcome;
        }
    }
}

/// The server's account once the transfer has ended there; the latest one known if that takes too long.
async fn last_word(client: &Client, id: &str) -> Option<TransferStatus> {
    let mut latest = None;
    let asking = async {
        loop {
            match client.status(id).await {
                Ok(status) => {
                    let is_final = status.state.is_final();
                    latest = Some(status);
                    if is_final {
                        return;
                    }
                }
                Err(error) if !error.is_retryable() => return,
                Err(_) => {}
            }
            tokio::time::sleep(LAST_WORD_INTERVAL).await;
        }
    };
    // Too late is as good as never: what is known so far is used.
    let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, asking).await;
    latest
}

/// Lets the server end a transfer that has ended here.
async fn tell_server(client: &Client, id: &str) {
    match tokio::time::timeout(LAST_WORD_TIMEOUT, client.cancel(id)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::info!("the server could not be told that the transfer ended: {error}"),
        Err(_) => tracing::info!("the server did not answer that it ended the transfer"),
    }
}

/// Makes of the sending end's error what the user should know, with the server's account of it.
async fn explain(client: &Client, id: &str, error: UploadError, signal: Option<Signal>) -> Failure {
    let transfer_id = id.to_owned();
    match (error, signal) {
        (UploadError::Cancelled, Some(signal)) => {
            tell_server(client, id).await;
            Failure::Interrupted { signal, transfer_id: Some(transfer_id) }
        }
        (UploadError::Refused { code, text }, _) => {
            let outcome = last_word(client, id).await.and_then(|status| outcome(status, false));
            refusal(transfer_id, code, text, outcome)
        }
        // The server may know better why nothing was heard of its engine.
        (source @ (UploadError::Lost { .. } | UploadError::NoAnswer { .. }), _) => {
            let status = tokio::time::timeout(LAST_WORD_TIMEOUT, client.status(id)).await.ok().and_then(Result::ok);
            match status.and_then(|status| outcome(status, true)) {
                Some(outcome) => failed(transfer_id, outcome),
                None => {
                    tell_server(client, id).await;
                    Failure::Upload { transfer_id, source }
                }
            }
        }
        (source, _) => {
            tell_server(client, id).await;
            Failure::Upload { transfer_id, source }
        }
    }
}

/// Why the server says that the transfer ended. `other_than_silence` leaves out what this end knows better itself.
fn outcome(status: TransferStatus, other_than_silence: bool) -> Option<Outcome> {
    use tradewind_api::ErrorCode::{IdleTimeout, PeerGone};
    let ended = matches!(status.state, TransferState::Failed | TransferState::Cancelled);
    status.outcome.filter(|outcome| ended && !(other_than_silence && matches!(outcome.code, IdleTimeout | PeerGone)))
}

fn failed(transfer_id: String, Outcome { code, detail, hint }: Outcome) -> Failure {
    Failure::Transfer { transfer_id, code, detail, hint }
}

/// The server's account goes first, then the code in the CLOSE packet's text, then its number.
fn refusal(transfer_id: String, close_code: u16, text: String, outcome: Option<Outcome>) -> Failure {
    if let Some(outcome) = outcome {
        return failed(transfer_id, outcome);
    }
    match failure::named_code(&text) {
        Some((code, detail)) => Failure::Transfer { transfer_id, code, detail: detail.to_owned(), hint: code.hint().to_owned() },
        None => Failure::Upload { transfer_id, source: UploadError::Refused { code: close_code, text } },
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::{Cipher, ErrorCode, LaneSecret, OfferedEndpoint, Totals};

    use super::*;

    fn offer(endpoints: &[(Option<&str>, u16)]) -> LaneOffer {
        let endpoints = endpoints.iter().map(|&(ip, port)| OfferedEndpoint { ip: ip.map(|ip| ip.parse().unwrap()), port }).collect();
        LaneOffer {
            lane_id: 1,
            secret: LaneSecret::new([0; 32]),
            endpoints,
            block_bytes: 1 << 20,
            chunk_bytes: 1400,
            credit_blocks: 8,
            cipher: Cipher::Aes128Gcm,
            rate: tradewind_api::RateGrant::default(),
        }
    }

    fn shown(offer: &LaneOffer, server: &str) -> Vec<String> {
        endpoints(offer, server.parse().unwrap()).iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn an_address_that_names_no_host_is_the_servers() {
        assert_eq!(shown(&offer(&[(None, 33001)]), "192.0.2.7"), ["192.0.2.7:33001"]);
        assert_eq!(shown(&offer(&[(Some("0.0.0.0"), 1), (Some("::"), 2)]), "192.0.2.7"), ["192.0.2.7:1", "192.0.2.7:2"]);
        assert_eq!(shown(&offer(&[(Some("203.0.113.1"), 5)]), "192.0.2.7"), ["203.0.113.1:5"]);
    }

    #[test]
    fn addresses_of_the_family_that_works_go_first() {
        let both = offer(&[(Some("2001:db8::1"), 1), (Some("203.0.113.1"), 2), (Some("203.0.113.2"), 3)]);
        assert_eq!(shown(&both, "192.0.2.7"), ["203.0.113.1:2", "203.0.113.2:3", "[2001:db8::1]:1"]);
        assert_eq!(shown(&both, "2001:db8::9"), ["[2001:db8::1]:1", "203.0.113.1:2", "203.0.113.2:3"]);
    }

    fn status(state: TransferState, code: Option<ErrorCode>) -> TransferStatus {
        TransferStatus {
            transfer_id: "t".to_owned(),
            state,
            destination: "s3://bucket/".to_owned(),
            submitted_unix_ms: 0,
            elapsed_ms: 0,
            files_announced: None,
            bytes_announced: None,
            totals: Totals::default(),
            rate: tradewind_api::RateStatus::default(),
            files: Vec::new(),
            outcome: code.map(|code| Outcome { code, detail: "from the server".to_owned(), hint: "do this".to_owned() }),
        }
    }

    #[test]
    fn the_servers_account_goes_before_the_close_packets() {
        let known = outcome(status(TransferState::Failed, Some(ErrorCode::BucketMissing)), false);
        let failure = refusal("t".into(), 5, "store_unavailable: x".into(), known);
        assert_eq!((failure.exit_code(), failure.code().as_str()), (exit::DESTINATION, "bucket_missing"));
        assert!(failure.to_string().ends_with("from the server"));
        let failure = refusal("t".into(), 5, "disk_full: /data".into(), None);
        assert_eq!((failure.exit_code(), failure.code().as_str()), (exit::TRANSFER, "disk_full"));
        assert_eq!(failure.to_string(), "no space left at the destination: /data");
        assert_eq!(refusal("t".into(), 6, "going down".into(), None).exit_code(), exit::BUSY);
    }

    #[test]
    fn silence_is_explained_by_the_server_only_if_it_knows_more() {
        assert!(outcome(status(TransferState::Failed, Some(ErrorCode::EngineDied)), true).is_some());
        assert!(outcome(status(TransferState::Failed, Some(ErrorCode::IdleTimeout)), true).is_none());
        assert!(outcome(status(TransferState::Failed, Some(ErrorCode::IdleTimeout)), false).is_some());
        assert!(outcome(status(TransferState::Running, None), false).is_none());
    }
}
