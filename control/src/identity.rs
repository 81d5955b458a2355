//! The server's key and certificate, made on first start.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tradewind_api::Fingerprint;
use tradewind_integrity::SigningKey;

/// Key, certificate and the fingerprint that clients pin.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// Fingerprint of the public key.
    pub fingerprint: Fingerprint,
}

/// The identity cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory.
    #[error("{}: {source}; state_dir must be a directory that tradewindd may write to", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The key can be read by others.
    #[error("{} can be read by others (mode {mode:o}); run chmod 600 on it, and make a new one if it leaked", path.display())]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file's content.
    #[error("{}: {reason}; restore it, or remove it to make a new identity (the tls directory as a whole; clients must then accept the new fingerprint or receipt key)", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Making a new one failed.
    #[error("a key cannot be made: {0}")]
    Generate(#[from] rcgen::Error),
}

/// Loads `tls/key.pem` and `tls/certificate.pem` below `state_dir`; makes them (ECDSA P-256, key mode 0600) if the key is missing.
///
/// # Errors
/// [`IdentityError`].
pub fn load_or_create(state_dir: &Path) -> Result<Identity, IdentityError> {
    let folder = state_dir.join("tls");
    let (key_path, certificate_path) = (folder.join("key.pem"), folder.join("certificate.pem"));
    if !key_path.exists() {
        create(&folder, &key_path, &certificate_path)?;
    }
    let mode = fs::metadata(&key_path).map_err(io_at(&key_path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyExposed { path: key_path, mode });
    }
    let content = |path: &Path, reason: String| IdentityError::Content { path: path.to_owned(), reason };
    let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|e| content(&key_path, e.to_string()))?;
    let certificate = CertificateDer::from_pem_file(&certificate_path).map_err(|e| content(&certificate_path, e.to_string()))?;
    let fingerprint = Fingerprint::of_certificate(&certificate).map_err(|e| content(&certificate_path, e.to_string()))?;
    Ok(Identity { certificate, key, fingerprint })
}

fn create(folder: &Path, key_path: &Path, certificate_path: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_at(folder))?;
    let made = rcgen::generate_simple_self_signed(vec!["tradewind".to_owned()])?;
    // The certificate first: a key is only there when everything is.
    write_new(certificate_path, made.cert.pem().as_bytes(), 0o644)?;
    write_new(key_path, made.signing_key.serialize_pem().as_bytes(), 0o600)
}

/// Loads the key that signs receipts, `receipt-key.pem` in `state_dir` (Ed25519, PKCS#8); makes it (mode 0600) if it is missing.
///
/// # Errors
/// [`IdentityError`].
pub fn receipt_key(state_dir: &Path) -> Result<SigningKey, IdentityError> {
    let path = state_dir.join("receipt-key.pem");
    let content = |reason: String| IdentityError::Content { path: path.clone(), reason };
    if !path.exists() {
        let made = SigningKey::generate().and_then(|key| key.to_pkcs8()).map_err(|error| content(error.to_string()))?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(io_at(state_dir))?;
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(made));
        write_new(&path, pem.as_bytes(), 0o600)?;
    }
    let mode = fs::metadata(&path).map_err(io_at(&path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyExposed { path, mode });
    }
    let der = PrivatePkcs8KeyDer::from_pem_file(&path).map_err(|error| content(error.to_string()))?;
    SigningKey::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| content(error.to_string()))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || -> io::Result<()> {
        let temporary = tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempfile_in(folder)?;
        OpenOptions::new().write(true).mode(mode).open(temporary.path())?.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(io_at(path))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

impl Identity {
    /// TLS 1.3 with this identity, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// A key that does not belong to the certificate.
    pub fn tls_config(self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?.with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.certificate], self.key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_kept_and_refused_when_exposed() {
        let state = tempfile::tempdir().unwrap();
        let first = load_or_create(state.path()).unwrap();
        assert_eq!(load_or_create(state.path()).unwrap().fingerprint, first.fingerprint);
        let key = state.path().join("tls/key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.tls_config().is_ok());
        let signing = receipt_key(state.path()).unwrap().public();
        assert_eq!(receipt_key(state.path()).unwrap().public(), signing, "the same after a restart");
        assert_eq!(fs::metadata(state.path().join("receipt-key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(state.path().join("receipt-key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(receipt_key(state.path()), Err(IdentityError::KeyExposed { mode: 0o644, .. })));

        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_create(state.path()), Err(IdentityError::KeyExposed { mode: 0o640, .. })));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(state.path().join("tls/certificate.pem"), "no pem").unwrap();
        assert!(matches!(load_or_create(state.path()), Err(IdentityError::Content { .. })));
    }
}
