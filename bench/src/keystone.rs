//! OpenStack Keystone on loopback, the identity service of version 3, and what a Swift that asks it for its users needs there.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::process::{Background, Interrupt};
use crate::testbed::venv;

/// What it is, for tables.
pub const SERVER: &str = "Keystone 30.0";
/// The user, in the domain `Default`.
pub const USER: &str = "tester";
/// The user's password.
pub const PASSWORD: &str = "testing pass";
/// The project whose account the user may open, in the domain `Default`.
pub const PROJECT: &str = "test";
/// Where the endpoint is, by the catalogue.
pub const REGION: &str = "R1";
const ADMIN_PASSWORD: &str = "admin's";
const START_DEADLINE: Duration = Duration::from_secs(120);

/// Serves Keystone's own application by Python's own server.
const SERVE: &str = "
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from keystone.server.wsgi import initialize_public_application

# What is left Keystone takes for its own.
port = int(sys.argv.pop())

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

class Handler(WSGIRequestHandler):
    def address_string(self): return self.client_address[0]

application = initialize_public_application()
make_server('127.0.0.1', port, application, Server, Handler).serve_forever()
";

/// Makes the project, its user, the endpoint of Swift and an application credential; prints the project's id, and id and secret of the credential.
const POPULATE: &str = "
import json, sys, urllib.request
url, admin_password, region, swift, project, user, password = sys.argv[1:]

def ask(path, body, token=None, method='POST'):
    headers = {'Content-Type': 'application/json', **({'X-Auth-Token': token} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)) as answer:
        text = answer.read()
        return json.loads(text) if text else {}, answer.headers

def log_in(name, password, project):
    identity = {'methods': ['password'], 'password': {'user': {'name': name, 'domain': {'id': 'default'}, 'password': password}}}
    answer, headers = ask('/auth/tokens', {'auth': {'identity': identity, 'scope': {'project': {'name': project, 'domain': {'id': 'default'}}}}})
    return headers['X-Subject-Token'], answer['token']['user']['id']

admin, _ = log_in('admin', admin_password, 'admin')
make = lambda path, kind, **what: ask(path, {kind: what}, admin)[0][kind]
service = make('/services', 'service', type='object-store', name='swift')
make('/endpoints', 'endpoint', interface='public', region_id=region, service_id=service['id'], url=swift + '/v1/AUTH_$(project_id)s')
made = make('/projects', 'project', name=project, domain_id='default')
tester = make('/users', 'user', name=user, password=password, domain_id='default')
role = next(role for role in ask('/roles', None, admin, 'GET')[0]['roles'] if role['name'] == 'member')
ask(f\"/projects/{made['id']}/users/{tester['id']}/roles/{role['id']}\", None, admin, 'PUT')
token, user_id = log_in(user, password, project)
credential = ask(f'/users/{user_id}/application_credentials', {'application_credential': {'name': 'transfers'}}, token)[0]['application_credential']
print(made['id'], credential['id'], credential['secret'])
";

/// A running Keystone.
pub struct Keystone {
    server: Background,
    port: u16,
    folder: TempDir,
}

/// What [`Keystone::populate`] has made.
pub struct Tenant {
    /// The id of [`PROJECT`].
    pub project_id: String,
    /// The id of an application credential of [`USER`].
    pub credential_id: String,
    /// Its secret.
    pub credential_secret: String,
}

impl Keystone {
    /// Starts it, or prints `SKIP: reason` and returns `None` where `cargo xtask setup` has not installed it. Tokens are good for an hour.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start() -> Result<Option<Self>> {
        Self::start_with(3600)
    }

    /// The same with tokens that are good for so many seconds. Below two minutes a Swift asks for another token of its own each time: it is slow.
    ///
    /// # Errors
    /// As [`Keystone::start`].
    pub fn start_with(token_seconds: u32) -> Result<Option<Self>> {
        let manage = venv()?.join("bin/keystone-manage");
        if !manage.exists() {
            println!("SKIP: Keystone is not tested: no {}; `cargo xtask setup` installs it", manage.display());
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("twkeystone-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let configuration = write_configuration(folder.path(), token_seconds)?;
        let url = format!("http://127.0.0.1:{port}/v3");
        let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        let repositories = ["--keystone-user", &user, "--keystone-group", &user];
        let mut bootstrap = vec!["--bootstrap-password", ADMIN_PASSWORD, "--bootstrap-region-id", REGION];
        for interface in ["--bootstrap-admin-url", "--bootstrap-internal-url", "--bootstrap-public-url"] {
            bootstrap.extend([interface, &url]);
        }
        for (verb, options) in
            [("db_sync", &[][..]), ("fernet_setup", &repositories), ("credential_setup", &repositories), ("bootstrap", &bootstrap)]
        {
            let mut command = Command::new(&manage);
            command.arg("--config-file").arg(&configuration).arg(verb).args(options).stdout(Stdio::null());
            let output = command.output().with_context(|| format!("cannot start {}", manage.display()))?;
            ensure!(output.status.success(), "keystone-manage {verb}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut command = Command::new(venv()?.join("bin/python"));
        command.args(["-c", SERVE, &port.to_string()]);
        command.env("OS_KEYSTONE_CONFIG_FILES", &configuration).env("OS_KEYSTONE_CONFIG_DIR", folder.path());
        let mut server = Background::start(&mut command, &folder.path().join("server.log"))?;
        server.wait_until(&Interrupt::default(), START_DEADLINE, || crate::answers(&url)).context("Keystone did not start")?;
        Ok(Some(Self { server, port, folder }))
    }

    /// Where it answers, without a version.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes the user, the project and the catalogue's entry for a Swift at `swift_url`, which need not run yet. Once.
    ///
    /// # Errors
    /// When Keystone refuses something.
    pub fn populate(&self, swift_url: &str) -> Result<Tenant> {
        let mut command = Command::new(venv()?.join("bin/python"));
        command.args(["-c", POPULATE, &format!("{}/v3", self.url()), ADMIN_PASSWORD, REGION, swift_url, PROJECT, USER, PASSWORD]);
        let output = command.output().context("cannot start python")?;
        let log = || fs::read_to_string(self.folder.path().join("keystone.log")).unwrap_or_default();
        ensure!(
            output.status.success(),
            "Keystone cannot be populated: {}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.server.log_text(),
            log()
        );
        let printed = String::from_utf8(output.stdout)?;
        let [project_id, credential_id, credential_secret] = printed.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("the script printed {printed:?}");
        };
        let [project_id, credential_id, credential_secret] = [project_id, credential_id, credential_secret].map(str::to_owned);
        Ok(Tenant { project_id, credential_id, credential_secret })
    }

    /// A command for the shell that prints an answer with a token of [`USER`] among its headers.
    pub(crate) fn log_in(&self) -> String {
        let domain = json!({"id": "default"});
        let user = json!({"name": USER, "domain": domain, "password": PASSWORD});
        let question = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"project": {"name": PROJECT, "domain": domain}},
        }});
        format!("curl -fsS -i -H 'Content-Type: application/json' -d '{question}' {}/v3/auth/tokens", self.url())
    }

    /// What stands in Swift's proxy configuration, instead of TempAuth, for it to ask this Keystone.
    pub(crate) fn filters(&self) -> String {
        let url = self.url();
        format!(
            "[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = {url}/v3
auth_url = {url}/v3
auth_type = password
username = admin
password = {ADMIN_PASSWORD}
project_name = admin
user_domain_id = default
project_domain_id = default
delay_auth_decision = true
cache = swift.cache
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
"
        )
    }
}

fn write_configuration(folder: &Path, token_seconds: u32) -> Result<std::path::PathBuf> {
    for keys in ["fernet", "credential"] {
        fs::DirBuilder::new().mode(0o700).create(folder.join(keys))?;
    }
    let at = folder.display();
    let text = format!(
        "[DEFAULT]
log_file = {at}/keystone.log
[database]
connection = sqlite:///{at}/keystone.db
[token]
provider = fernet
expiration = {token_seconds}
allow_expired_window = 0
[fernet_tokens]
key_repository = {at}/fernet
[credential]
key_repository = {at}/credential
[oslo_messaging_notifications]
driver = noop
[identity]
password_hash_rounds = 4
[cache]
enabled = false
"
    );
    let path = folder.join("keystone.conf");
    fs::write(&path, text)?;
    Ok(path)
}
