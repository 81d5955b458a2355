//! TLS as this client wants it: version 1.3, and a server that proves it holds the key with the expected fingerprint.
//!
//! No certificate authority takes part: names, dates and chains are not looked at, the key is. The handshake's signature is
//! checked against the very bytes whose fingerprint was compared, so that two parsers cannot disagree about the key.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme};
use tokio::net::TcpStream;

use crate::{Fingerprint, ServerAddress};

/// The fingerprint a server presented, seen from outside the handshake.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presented(Arc<Mutex<Option<Fingerprint>>>);

impl Presented {
    pub(crate) fn get(&self) -> Option<Fingerprint> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set(&self, fingerprint: Fingerprint) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(fingerprint);
    }
}

#[derive(Debug)]
struct KeyVerifier {
    /// `None` takes any key: only for learning the fingerprint, never with a request following.
    expected: Option<Fingerprint>,
    presented: Presented,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let found = Fingerprint::of_public_key(&key);
        self.presented.set(found);
        match self.expected {
            Some(expected) if expected != found => Err(CertificateError::ApplicationVerificationFailure.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = ParsedCertificate::try_from(cert)?.subject_public_key_info();
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn tls_config(expected: Option<Fingerprint>, presented: Presented) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = KeyVerifier { expected, presented, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// TLS 1.3 that accepts exactly the server whose key has this fingerprint.
///
/// # Errors
/// Only if the crypto provider lacks TLS 1.3.
pub fn pinned_tls_config(expected: Fingerprint) -> Result<ClientConfig, Error> {
    tls_config(Some(expected), Presented::default())
}

pub(crate) fn pinned_and_watched(expected: Fingerprint) -> Result<(ClientConfig, Presented), Error> {
    let presented = Presented::default();
    Ok((tls_config(Some(expected), presented.clone())?, presented))
}

/// Makes a TLS handshake with the server, sends nothing, and says which key it proved to hold.
///
/// # Errors
/// The connection's, the handshake's, or `TimedOut` after `timeout`.
pub async fn probe_fingerprint(server: &ServerAddress, timeout: Duration) -> std::io::Result<Fingerprint> {
    let handshake = async {
        let presented = Presented::default();
        let config = tls_config(None, presented.clone()).map_err(std::io::Error::other)?;
        let name = ServerName::try_from(server.host().to_owned()).map_err(std::io::Error::other)?;
        let stream = TcpStream::connect((server.host(), server.port())).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        presented.get().ok_or_else(|| std::io::Error::other("the server presented no certificate"))
    };
    let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no TLS handshake within {} s", timeout.as_secs()));
    tokio::time::timeout(timeout, handshake).await.map_err(|_| late())?
}
