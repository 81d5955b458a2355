//! A server with the fake engine, for the tests of this crate.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use tradewind_api::{Client, Credentials, Fingerprint, Health, HealthState, ServerAddress, SubmitRequest};
use tradewindd::options::Options;
use tradewindd::supervisor::Supervisor;
use tradewindd::{config, http, identity};

pub(crate) const FAKE_ENGINE: &str = env!("CARGO_BIN_EXE_tradewind-fake-engine");

/// A complete configuration file in a directory of its own.
pub(crate) fn write_config(folder: &Path, more: &str) -> PathBuf {
    let text = format!(
        "state_dir = \"{0}/state\"\n[rest]\nlisten = \"127.0.0.1:0\"\n[data]\nlisten = \"0.0.0.0:33999\"\n[engine]\nbinary = \"{FAKE_ENGINE}\"\n\
         [[user]]\naccess_key = \"ann\"\nsecret = \"secret-of-ann\"\n\
         [[user]]\naccess_key = \"bob\"\nsecret = \"secret-of-bob\"\nstores = []\n\
         [stores.data]\nkind = \"local\"\nroot = \"{0}\"\n{more}",
        folder.display()
    );
    let path = folder.join("tradewindd.toml");
    std::fs::write(&path, text).unwrap();
    path
}

pub(crate) struct Server {
    pub(crate) address: ServerAddress,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) supervisor: Supervisor,
    pub(crate) supervising: tokio::task::JoinHandle<()>,
    pub(crate) http: http::Running,
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { config: Some(write_config(folder.path(), more)), ..Options::default() };
        let loaded = config::load(&options);
        assert!(loaded.is_usable(), "{}", loaded.problems_text());
        let config = loaded.config;
        let identity = identity::load_or_create(&config.state_dir).unwrap();
        let fingerprint = identity.fingerprint;
        let (supervisor, supervising) = Supervisor::start(&config);
        let router = http::router(&config, supervisor.clone());
        let limits = http::Limits { connections_max: 64 };
        let http = http::start(http::bind(config.rest.listen).await.unwrap(), limits, identity.tls_config().unwrap(), router).unwrap();
        let address = http.address.to_string().parse().unwrap();
        Self { address, fingerprint, supervisor, supervising, http, folder }
    }

    pub(crate) fn client(&self, access_key: &str, secret: &str) -> Client {
        let credentials = Credentials { access_key: access_key.into(), secret: secret.into() };
        Client::new(self.address.clone(), self.fingerprint, Some(credentials)).unwrap()
    }

    /// Ann's client, once the engine is up.
    pub(crate) async fn ready(&self) -> Client {
        let client = self.client("ann", "secret-of-ann");
        wait_for_engine(&client, 1).await;
        client
    }
}

/// Waits until the engine has been started at least so often and is up.
pub(crate) async fn wait_for_engine(client: &Client, starts: u64) -> Health {
    for _ in 0..200 {
        let health = client.health().await.unwrap();
        if health.status == HealthState::Ok && health.engine.as_ref().is_some_and(|engine| engine.starts >= starts) {
            return health;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the engine was not up within 10 s");
}

pub(crate) fn to(destination: &str) -> SubmitRequest {
    SubmitRequest { destination: Some(destination.into()), files: Some(1), bytes: Some(10), ..SubmitRequest::default() }
}
