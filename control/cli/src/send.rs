//! `tradewind send`: agree with the server over HTTPS, send over UDP, wait until everything is durable.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tradewind_api::{Client, DurableEntry, LaneOffer, RatePolicy, SampleEntry, SubmitRequest, SubmitResponse, exit};
use tradewind_client::{
    Compare, Durable, Group, RateOptions, SourceError, Sources, Upload, UploadError, chunk_bytes_for_packets, route_mtu,
};

use crate::connect::{connect, resolve, tcp_round_trip};
use crate::display::Reporter;
use crate::dry_run;
use crate::events;
use crate::failure::Failure;
use crate::follow::{Driven, drive, ended_on_server, explain, failed, last_word, tell_server};
use crate::gather::{Gathering, LeftOut, Notes};
use crate::interrupt::Interrupts;
use crate::options::SendOptions;
use crate::retry::Attempts;
use crate::seal::SealPlan;
use crate::select::Selection;
use crate::sources::Plan;

/// Silence of the server's engine after which the transfer fails.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Round trips of a POST on a new connection: TCP, TLS 1.3, request.
const SUBMIT_ROUND_TRIPS: u32 = 3;

/// Runs the command.
pub(crate) async fn send(options: &SendOptions) -> Result<u8, Failure> {
    check_rates(options)?;
    let selection = Selection::new(&options.select)?;
    let mut plan = Plan::new(&options.sources, &options.lists, &options.destination, selection)?;
    let mut interrupts = Interrupts::new()?;
    plan.seal = options.seal.plan(&plan.destination, options.dry_run, &mut interrupts).await?;
    let plan = Arc::new(plan);
    if options.dry_run {
        let (destination, json, quiet) = (options.destination.clone(), options.json, options.quiet);
        let showing = tokio::task::spawn_blocking(move || dry_run::show(&plan, &destination, json, quiet));
        let shown = interrupts.unless(showing).await.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })?;
        return shown.map_err(|error| Failure::Local { what: "the walking thread failed", detail: error.to_string() })?;
    }
    let mut attempts = Attempts::new(options.lane.retries, options.json, options.quiet);
    // The transfer of the latest attempt that the server knows.
    let mut begun = None;
    loop {
        let result = once(options, &plan, &attempts, &mut begun, &mut interrupts).await;
        let Err(failure) = result else { return result };
        let Some(cure) = attempts.cure(&failure) else { return Err(failure) };
        if let Some((client, id)) = &begun {
            // Until the server has ended the old transfer, its files may still be held by it.
            let _ = interrupts.unless(last_word(client, id)).await;
        }
        attempts.go_on(&failure, cure, &mut interrupts).await?;
    }
}

/// One transfer.
///
/// `begun` becomes the server and the id once the server knows it.
async fn once(
    options: &SendOptions,
    plan: &Arc<Plan>,
    attempts: &Attempts,
    begun: &mut Option<(Client, String)>,
    interrupts: &mut Interrupts,
) -> Result<u8, Failure> {
    let quiet = options.quiet || options.json;
    let left_out = Arc::new(LeftOut::default());
    let (lines, mut remarks) = mpsc::unbounded_channel();
    let notes = match (options.json, quiet || attempts.number > 1) {
        (true, _) => Notes::Events,
        (false, true) => Notes::Quiet,
        (false, false) => Notes::Lines(lines),
    };
    let gathering = Gathering::start(plan, &left_out, &notes)?;
    let to_the_end = plan.destination.names_one_file();
    let head = interrupts.unless(tokio::task::spawn_blocking(move || gathering.head(to_the_end))).await;
    let head = head.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })?;
    let head = head.map_err(|error| Failure::Local { what: "the walking thread failed", detail: error.to_string() })?;
    if head.is_empty {
        return Err(dry_run::nothing(plan, &left_out));
    }
    let sealing = plan.seal.as_ref().and_then(SealPlan::sealing);
    let variant = sealing.as_ref().map_or(0, |sealing| sealing.variant());
    let agreed = interrupts.unless(agree(options, head.totals, variant, attempts, quiet)).await;
    let (agreed, request) = agreed.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })??;
    let id = agreed.answer.transfer_id.as_str();
    *begun = Some((agreed.client.clone(), id.to_owned()));
    let interrupted = |signal| Failure::Interrupted { signal, transfer_id: Some(id.to_owned()) };
    let durable = match interrupts.unless(durable(&agreed, options.resume.compare())).await.map_err(interrupted).and_then(|result| result) {
        Ok(durable) => durable,
        Err(failure) => {
            // Its lane would hold what it took over until the server gives it up.
            tell_server(&agreed.client, id).await;
            return Err(failure);
        }
    };

    let cancel = Arc::new(AtomicBool::new(false));
    let noted = (Arc::clone(&left_out), notes.clone());
    let sources = head.sources.sealed(sealing).keeping(options.keep.for_sources(), move |note| noted.0.note(&note, &noted.1));
    let problems = (Arc::clone(&left_out), notes);
    let on_problem = Box::new(move |error| problems.0.fail(error, &problems.1));
    let mut reporter = Reporter::new(options.json, options.quiet, head.bytes);
    let upload = match upload(sources, durable, on_problem, &agreed, Arc::clone(&cancel)) {
        Ok(upload) => upload,
        Err(error) => return Err(explain(&agreed.client, id, error, None).await),
    };
    if options.json {
        events::emit(&events::started(&agreed.answer, upload.lane.endpoints.first().copied(), &request, agreed.round_trip));
    }
    let moved = Cell::new(Instant::now());
    let watching = ended_on_server(&agreed.client, id, &moved);
    let Driven { result, signal, ended } =
        drive(move |progress| upload.run(progress), &cancel, interrupts, &mut reporter, &mut remarks, &moved, watching).await;
    reporter.clear();
    if let (Err(UploadError::Cancelled), None, Some(outcome)) = (&result, signal, ended) {
        return Err(failed(id.to_owned(), outcome));
    }
    // All that is left is to hear the server's account; a signal ends that wait too.
    match result {
        Ok(report) => {
            let server = interrupts.unless(last_word(&agreed.client, id)).await.ok().flatten();
            let has_sent = report.files + report.files_kept > 0;
            if options.json {
                let files_failed = left_out.failed.load(Ordering::Relaxed);
                events::emit(&events::done(id, &request, &report, files_failed, server.as_ref()));
            }
            if has_sent {
                reporter.done(&report, server.as_ref());
            }
            interrupts.unless(options.proof.fetch(&agreed.client, id)).await.map_err(interrupted)??;
            left_out.failure(has_sent).map_or(Ok(exit::OK), Err)
        }
        Err(error) => {
            let explained = interrupts.unless(explain(&agreed.client, id, error, signal)).await;
            Err(explained.unwrap_or_else(interrupted))
        }
    }
}

/// What the destination has already.
async fn durable(agreed: &Agreed, compare: Compare) -> Result<Durable, Failure> {
    let mut durable = Durable::compared(compare);
    let Some(summary) = agreed.answer.durable else { return Ok(durable) };
    if summary.files == 0 && summary.parts == 0 {
        return Ok(durable);
    }
    let mut add = |entry| match entry {
        DurableEntry::File { file, crc64, samples } => {
            let range = |sample: SampleEntry| (sample.offset..sample.offset.saturating_add(sample.length), sample.crc64);
            durable.add_file(file, crc64, samples.into_iter().map(range));
        }
        DurableEntry::Part { file, offset, length, crc64 } => durable.add_part(file, offset..offset.saturating_add(length), crc64),
    };
    agreed.client.durable(&agreed.answer.transfer_id, &mut add).await?;
    Ok(durable)
}

fn check_rates(options: &SendOptions) -> Result<(), Failure> {
    match (options.lane.rate, options.min_rate) {
        (Some(rate), Some(minimum)) if minimum > rate => Err(Failure::Usage {
            detail: format!("--min-rate ({minimum}) is above --rate ({rate})"),
            hint: "give a --min-rate that is at most the --rate".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn submit_request(options: &SendOptions, totals: Option<(u64, u64)>, attempt: u32, chunk_bytes_max: Option<u32>) -> SubmitRequest {
    let mut request = options.lane.request();
    request.rate.minimum_rate_bps = options.min_rate.map(|rate| rate.bits_per_s());
    SubmitRequest {
        destination: Some(options.destination.clone()),
        overwrite: options.overwrite,
        resume: options.resume.for_server(attempt),
        files: totals.map(|(files, _)| files),
        bytes: totals.map(|(_, bytes)| bytes),
        chunk_bytes_max,
        ..request
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
    totals: Option<(u64, u64)>,
    variant: u64,
    attempts: &Attempts,
    quiet: bool,
) -> Result<(Agreed, SubmitRequest), Failure> {
    let client = connect(&options.server, quiet).await?;
    let address = resolve(&options.server.server).await;
    let chunk_bytes_max = address.and_then(|address| chunk_bytes_max(&address, attempts.packet_bytes_max));
    let request = SubmitRequest { variant, ..submit_request(options, totals, attempts.number, chunk_bytes_max) };
    let ((answer, server), round_trip) = submit(&client, address, &request).await?;
    Ok((Agreed { client, answer, server, round_trip: Some(round_trip) }, request))
}

/// Payload that fits the route to the server as far as this host knows it, and IP packets of at most so many bytes.
pub(crate) fn chunk_bytes_max(server: &SocketAddr, packet_bytes_max: Option<usize>) -> Option<u32> {
    let bytes = route_mtu(server).ok().into_iter().chain(packet_bytes_max).min()?;
    chunk_bytes_for_packets(bytes, server.ip())
}

/// Submits, and measures the round trip beside it, so that measuring costs no time.
pub(crate) async fn submit(
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

fn upload(
    sources: Sources,
    durable: Durable,
    on_problem: Box<dyn FnMut(SourceError) + Send>,
    agreed: &Agreed,
    cancel: Arc<AtomicBool>,
) -> Result<Upload, UploadError> {
    let offer = agreed.answer.lanes.first().ok_or_else(|| UploadError::Offer("it names no lane".to_owned()))?;
    Ok(Upload {
        lane: lane_offer(offer, agreed.server),
        sources,
        durable,
        on_problem,
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

/// The lane as the library takes it.
pub(crate) fn lane_offer(offer: &LaneOffer, server: IpAddr) -> tradewind_client::LaneOffer {
    tradewind_client::LaneOffer {
        lane_id: offer.lane_id,
        secret: *offer.secret.expose(),
        endpoints: endpoints(offer, server),
        block_bytes: offer.block_bytes,
        chunk_bytes: offer.chunk_bytes,
        credit_blocks: offer.credit_blocks,
        cipher: match offer.cipher {
            tradewind_api::Cipher::Aes128Gcm => tradewind_client::Cipher::Aes128Gcm,
            tradewind_api::Cipher::Aes256Gcm => tradewind_client::Cipher::Aes256Gcm,
        },
    }
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

#[cfg(test)]
mod tests {
    use tradewind_api::{Cipher, LaneSecret, OfferedEndpoint};

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
}
