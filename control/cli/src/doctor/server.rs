//! The way to a server: name, TCP, its key, its health, the data port.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UdpSocket};
use tradewind_api::{Client, Credentials, Fingerprint, Health, HealthState, KnownServers, ServerAddress, exit, probe_fingerprint};

use super::Finding;
use crate::connect::credentials;
use crate::failure::Failure;
use crate::options::IdentityOptions;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Addresses tried, should a name have many.
const ADDRESSES_MAX: usize = 4;
/// UDP port of the engine, where the server does not tell another.
const DATA_PORT: u16 = 33001;

/// Examines one thing after the other, and stops where the next depends on what failed. Remembers nothing: an examination must not
/// change whom this user trusts.
pub(super) async fn examine(server: &ServerAddress, identity: &IdentityOptions) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let addresses = resolve(server, &mut findings).await;
    let Some(reached) = connect(&addresses, &mut findings).await else { return Ok(findings) };
    let Some((fingerprint, is_trusted)) = key(server, identity, &mut findings).await? else { return Ok(findings) };
    // Credentials are for servers whose key is known.
    let credentials = if is_trusted { credentials(identity)? } else { None };
    let health = health(server, fingerprint, credentials, &mut findings).await?;
    let (data, is_told) = data_address(reached, health.as_ref());
    findings.push(udp(data, is_told).await);
    Ok(findings)
}

async fn resolve(server: &ServerAddress, findings: &mut Vec<Finding>) -> Vec<SocketAddr> {
    let check = "server's name";
    match tokio::net::lookup_host((server.host(), server.port())).await {
        Ok(found) => {
            let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
            let list = addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
            findings.push(Finding::ok(check, format!("{} is {list}", server.host())));
            addresses
        }
        Err(error) => {
            let advice = "check the spelling and this machine's DNS (/etc/resolv.conf)";
            findings.push(Finding::fail(check, format!("{}: {error}", server.host()), advice, exit::UNREACHABLE));
            Vec::new()
        }
    }
}

/// The first address that takes a connection; every address is tried and told of.
async fn connect(addresses: &[SocketAddr], findings: &mut Vec<Finding>) -> Option<IpAddr> {
    let mut reached = None;
    let mut refusals = Vec::new();
    for address in addresses {
        let started = Instant::now();
        let check = format!("TCP to {address}");
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                findings.push(Finding::ok(check, format!("connected in {:.1} ms", started.elapsed().as_secs_f64() * 1e3)));
                reached = reached.or(Some(address.ip()));
            }
            Ok(Err(error)) => refusals.push((check, error.to_string())),
            Err(_) => refusals.push((check, format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }
    for (check, reason) in refusals {
        let advice = "check that tradewindd runs and listens there, and that no firewall drops TCP to that port";
        findings.push(match reached {
            Some(_) => Finding::warn(check, reason, advice),
            None => Finding::fail(check, reason, advice, exit::UNREACHABLE),
        });
    }
    reached
}

/// The key that the server holds, and whether it is the expected one; `None` ends the examination.
async fn key(
    server: &ServerAddress,
    identity: &IdentityOptions,
    findings: &mut Vec<Finding>,
) -> Result<Option<(Fingerprint, bool)>, Failure> {
    let check = "server's key (TLS)";
    let presented = match probe_fingerprint(server, CONNECT_TIMEOUT).await {
        Ok(presented) => presented,
        Err(error) => {
            let advice = "what answers on that port is no tradewindd, or something between changes TLS";
            findings.push(Finding::fail(check, format!("no TLS 1.3 handshake: {error}"), advice, exit::UNREACHABLE));
            return Ok(None);
        }
    };
    let expected = match identity.fingerprint {
        Some(fingerprint) => Some(fingerprint),
        None => KnownServers::of_user()?.lookup(server)?,
    };
    let finding = key_finding(check, presented, expected, identity.strict);
    let goes_on = finding.level != super::Level::Fail;
    findings.push(finding);
    Ok(goes_on.then_some((presented, expected.is_some())))
}

fn key_finding(check: &str, presented: Fingerprint, expected: Option<Fingerprint>, strict: bool) -> Finding {
    let advice = format!("compare with `tradewindd --fingerprint` on the server; --fingerprint {presented} pins it");
    match expected {
        Some(expected) if expected == presented => Finding::ok(check, format!("{presented}, as expected")),
        Some(expected) => Finding::fail(
            check,
            format!("{presented}, but {expected} is expected"),
            "somebody may intercept the connection; if the server was set up anew, compare with `tradewindd --fingerprint` on it",
            exit::FINGERPRINT,
        ),
        None if strict => Finding::fail(check, format!("{presented}, of a server that is not known"), advice, exit::FINGERPRINT),
        None => Finding::note(check, format!("{presented}, of a server not met before"), advice),
    }
}

async fn health(
    server: &ServerAddress,
    fingerprint: Fingerprint,
    credentials: Option<Credentials>,
    findings: &mut Vec<Finding>,
) -> Result<Option<Health>, Failure> {
    let has_credentials = credentials.is_some();
    let client = Client::new(server.clone(), fingerprint, credentials)?;
    match client.health().await {
        Ok(health) => {
            findings.push(health_finding(&health));
            if !has_credentials {
                let advice = "give --access-key and a secret, to a server whose key is known, to examine these too";
                findings.push(Finding::note("server's engine", "not examined: no credentials were sent", advice));
            } else if let Some(engine) = &health.engine {
                let reason = engine.xdp.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                let workers = crate::units::count(u64::from(engine.workers), "worker", "workers");
                let found = format!("{}, XDP mode {}{reason}, {workers}", engine.version, engine.xdp.mode);
                findings.push(Finding::ok("server's engine", found));
            }
            Ok(Some(health))
        }
        Err(error) => {
            let advice = error.hint().unwrap_or("check the address and that tradewindd runs there").to_owned();
            findings.push(Finding::fail("server's health", error.to_string(), advice, error.exit_code()));
            Ok(None)
        }
    }
}

fn health_finding(health: &Health) -> Finding {
    let check = "server's health";
    let why = health.engine_problem.as_deref().map(|problem| format!(": {problem}")).unwrap_or_default();
    match health.status {
        HealthState::Ok => Finding::ok(check, "ready for transfers"),
        HealthState::EngineDown => {
            Finding::fail(check, format!("its engine is not up{why}"), "try again in a few seconds; see the server's log", exit::BUSY)
        }
        HealthState::Draining => Finding::fail(check, "it is shutting down", "try again when it is back", exit::BUSY),
    }
}

/// Where packets would go, and whether the server said so: its word, with the address that was reached where it names none; or else
/// the usual port.
fn data_address(reached: IpAddr, health: Option<&Health>) -> (SocketAddr, bool) {
    let endpoints = health.and_then(|health| health.engine.as_ref()).map(|engine| engine.endpoints.as_slice()).unwrap_or_default();
    let same_family = endpoints.iter().find(|endpoint| endpoint.is_ipv4() == reached.is_ipv4());
    match same_family.or(endpoints.first()) {
        None => (SocketAddr::new(reached, DATA_PORT), false),
        Some(endpoint) if endpoint.ip().is_unspecified() => (SocketAddr::new(reached, endpoint.port()), true),
        Some(endpoint) => (*endpoint, true),
    }
}

/// One datagram that no engine answers. An ICMP refusal shows that the port is closed; silence shows nothing.
async fn udp(address: SocketAddr, is_told: bool) -> Finding {
    let check = format!("UDP to {address}");
    match refused(address).await {
        Ok(false) => Finding::note(
            check,
            format!("one datagram was sent, no refusal came back within {} s", REFUSAL_TIMEOUT.as_secs()),
            "this does not prove that UDP passes: engines never answer strangers, so an open port and a firewall that drops look the same; \
             send a small file to be sure",
        ),
        Ok(true) if !is_told => Finding::warn(
            check,
            "refused (ICMP port unreachable), but the server did not say that this is its data port",
            "give --access-key and a secret, to a server whose key is known, and it will say which",
        ),
        Ok(true) => Finding::fail(
            check,
            "refused (ICMP port unreachable)",
            "the engine does not listen on that port, or a firewall rejects UDP to it",
            exit::UNREACHABLE,
        ),
        Err(error) => Finding::fail(
            check,
            format!("cannot send: {error}"),
            "check this machine's routes (`ip route get`) and firewall",
            exit::UNREACHABLE,
        ),
    }
}

async fn refused(address: SocketAddr) -> std::io::Result<bool> {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(&[0]).await?;
    match tokio::time::timeout(REFUSAL_TIMEOUT, socket.recv(&mut [0; 16])).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::{EngineHealth, XdpMode, XdpStatus};

    use super::super::Level;
    use super::*;

    fn health(status: HealthState, endpoints: &[&str]) -> Health {
        let engine = EngineHealth {
            version: "0.1.0".to_owned(),
            endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
            xdp: XdpStatus { mode: XdpMode::Driver, reason: None, zero_copy: false },
            workers: 1,
            pool_bytes: 0,
            starts: 1,
            transfers_active: 0,
        };
        Health { status, version: None, engine: Some(engine), engine_problem: None }
    }

    #[test]
    fn the_data_port_is_the_servers_word_at_the_address_reached() {
        let reached = "192.0.2.7".parse().unwrap();
        let at = |endpoints: &[&str]| data_address(reached, Some(&health(HealthState::Ok, endpoints))).0.to_string();
        assert_eq!(data_address(reached, None), ("192.0.2.7:33001".parse().unwrap(), false));
        assert_eq!(at(&["0.0.0.0:5"]), "192.0.2.7:5");
        assert_eq!(at(&["[2001:db8::1]:4", "203.0.113.1:5"]), "203.0.113.1:5");
    }

    #[test]
    fn keys() {
        let [a, b] = ["a", "b"].map(|key| Fingerprint::of_public_key(key.as_bytes()));
        for (expected, strict, level) in
            [(Some(a), false, Level::Ok), (Some(b), false, Level::Fail), (None, false, Level::Note), (None, true, Level::Fail)]
        {
            let finding = key_finding("key", a, expected, strict);
            assert_eq!(finding.level, level);
            assert!(finding.found.contains(&a.to_string()));
            assert!(level != Level::Fail || finding.exit_code == exit::FINGERPRINT);
        }
    }

    #[test]
    fn a_server_that_cannot_take_transfers_fails_as_busy() {
        assert_eq!(health_finding(&health(HealthState::Ok, &[])).level, Level::Ok);
        for state in [HealthState::EngineDown, HealthState::Draining] {
            assert_eq!(health_finding(&health(state, &[])).exit_code, exit::BUSY);
        }
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_an_open_one_proves_nothing() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(udp(address, true).await.level, Level::Note);
        drop(socket);
        assert_eq!(udp(address, false).await.level, Level::Warn, "a guessed port proves nothing about the server");
        let finding = udp(address, true).await;
        assert_eq!((finding.level, finding.exit_code), (Level::Fail, exit::UNREACHABLE));
    }

    #[tokio::test]
    async fn nothing_listening_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let identity = IdentityOptions { access_key: None, secret_file: None, fingerprint: None, strict: false };
        let findings = examine(&address.to_string().parse().unwrap(), &identity).await.unwrap();
        assert_eq!(super::super::exit_code(&findings), exit::UNREACHABLE, "{findings:?}");
    }
}
