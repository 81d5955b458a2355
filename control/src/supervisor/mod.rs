//! One task owns all transfers and the conversation with the engine.
//!
//! Its loop only receives; [`core::Core::apply`], a plain function of state, time and event, decides what follows; the loop then
//! carries out the effects. HTTP handlers hold a [`Supervisor`] and ask it through a channel.

mod browse;
mod core;
mod engine;
mod rates;
mod transfer;
mod verify;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tradewind_api::{ApiCode, Health, Problem, RateChange, Submission, SubmitResponse, TransferList, TransferStatus};
use tradewind_ipc::{BrowseAnswer, BrowseQuestion, Destination, FromEngine, Store, ToEngine};

pub use self::core::{ANSWER_TIMEOUT, RESTART_DELAY_MAX, RESTART_DELAY_MIN};
use self::core::{Core, Effect, Event};
use self::verify::Findings;
use crate::config::Config;
use crate::stores::Places;

const COMMANDS_WAITING_MAX: usize = 1024;
const MESSAGES_WAITING_MAX: usize = 1024;
const TICK: Duration = Duration::from_millis(100);

/// A question to the supervisor, with the place for its answer.
#[derive(Debug)]
pub(crate) enum Command {
    Submit { caller: Caller, submission: Box<Submission>, places: Box<Places>, reply: oneshot::Sender<Result<SubmitResponse, Problem>> },
    Status { owner: String, id: String, reply: oneshot::Sender<Result<TransferStatus, Problem>> },
    Durable { owner: String, id: String, reply: oneshot::Sender<Result<Option<PathBuf>, Problem>> },
    WantsList { owner: String, id: String, reply: oneshot::Sender<Result<u64, Problem>> },
    Have { owner: String, id: String, path: PathBuf, reply: oneshot::Sender<Result<(), Problem>> },
    List { owner: String, reply: oneshot::Sender<TransferList> },
    Cancel { owner: String, id: String, reply: oneshot::Sender<Result<TransferStatus, Problem>> },
    ChangeRate { owner: String, id: String, change: RateChange, reply: oneshot::Sender<Result<TransferStatus, Problem>> },
    Browse { store: Box<Store>, question: BrowseQuestion, reply: browse::Reply },
    Verify { destination: Box<Destination>, lines: Vec<String>, reply: oneshot::Sender<Result<Findings, Problem>> },
    Health { reply: oneshot::Sender<Health> },
    Drain,
}

/// Who asks for a transfer, and from where.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user.
    pub owner: String,
    /// Address that the request came from.
    pub host: IpAddr,
}

/// The supervisor's door. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    commands: mpsc::Sender<Command>,
}

impl Supervisor {
    /// Starts the supervisor and with it the engine. The task ends after [`drain`](Self::drain), when the engine has ended.
    #[must_use]
    pub fn start(config: &Config) -> (Self, tokio::task::JoinHandle<()>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
        // Of transfers that nobody can ask for any more.
        let _ = std::fs::remove_dir_all(config.state_dir.join("manifests"));
        let (core, engine) = (Core::new(config, Instant::now()), engine::EngineCommand::new(config));
        let task = tokio::spawn(run(core, engine, config.state_dir.clone(), receiver));
        (Self { commands }, task)
    }

    /// Opens a lane for a checked submission and waits for the engine's word.
    ///
    /// # Errors
    /// A [`Problem`] that says who refused and why.
    pub async fn submit(&self, caller: Caller, submission: Submission, places: Places) -> Result<SubmitResponse, Problem> {
        let (submission, places) = (Box::new(submission), Box::new(places));
        self.ask(|reply| Command::Submit { caller, submission, places, reply }).await?
    }

    /// Where a transfer of this user stands.
    ///
    /// # Errors
    /// [`ApiCode::NotFound`].
    pub async fn status(&self, owner: String, id: String) -> Result<TransferStatus, Problem> {
        self.ask(|reply| Command::Status { owner, id, reply }).await?
    }

    /// The file that lists what was durable before a transfer of this user began; `None` if nothing was.
    ///
    /// # Errors
    /// [`ApiCode::NotFound`].
    pub async fn durable(&self, owner: String, id: String) -> Result<Option<PathBuf>, Problem> {
        self.ask(|reply| Command::Durable { owner, id, reply }).await?
    }

    /// The lane of a download of this user that takes a list of what the client has.
    ///
    /// # Errors
    /// [`ApiCode::NotFound`], [`ApiCode::Invalid`] for a transfer that takes none.
    pub async fn wants_list(&self, owner: String, id: String) -> Result<u64, Problem> {
        self.ask(|reply| Command::WantsList { owner, id, reply }).await?
    }

    /// Tells the engine what the client of a download of this user has already: a file, which the engine removes.
    ///
    /// # Errors
    /// As [`Supervisor::wants_list`].
    pub async fn have(&self, owner: String, id: String, path: PathBuf) -> Result<(), Problem> {
        self.ask(|reply| Command::Have { owner, id, path, reply }).await?
    }

    /// This user's transfers, newest first.
    ///
    /// # Errors
    /// Only while the server ends.
    pub async fn list(&self, owner: String) -> Result<TransferList, Problem> {
        self.ask(|reply| Command::List { owner, reply }).await
    }

    /// Ends a transfer of this user.
    ///
    /// # Errors
    /// [`ApiCode::NotFound`].
    pub async fn cancel(&self, owner: String, id: String) -> Result<TransferStatus, Problem> {
        self.ask(|reply| Command::Cancel { owner, id, reply }).await?
    }

    /// Changes policy and rates of a running transfer of this user.
    ///
    /// # Errors
    /// [`ApiCode::NotFound`], [`ApiCode::Invalid`] for rates that make no sense or a transfer that has ended,
    /// [`ApiCode::RateUnavailable`].
    pub async fn change_rate(&self, owner: String, id: String, change: RateChange) -> Result<TransferStatus, Problem> {
        self.ask(|reply| Command::ChangeRate { owner, id, change, reply }).await?
    }

    /// Asks the engine about the objects of a store.
    ///
    /// # Errors
    /// A [`Problem`] when the engine cannot be asked or does not answer; what the store says is in the answer.
    pub async fn browse(&self, store: Store, question: BrowseQuestion) -> Result<BrowseAnswer, Problem> {
        let store = Box::new(store);
        self.ask(|reply| Command::Browse { store, question, reply }).await?
    }

    /// Has stored objects read and compared with lines of a manifest. Dropping the findings ends it.
    ///
    /// # Errors
    /// A [`Problem`] when the engine cannot be asked or too many others have.
    pub(crate) async fn verify(&self, destination: Destination, lines: Vec<String>) -> Result<Findings, Problem> {
        let destination = Box::new(destination);
        self.ask(|reply| Command::Verify { destination, lines, reply }).await?
    }

    /// State of server and engine.
    ///
    /// # Errors
    /// Only while the server ends.
    pub async fn health(&self) -> Result<Health, Problem> {
        self.ask(|reply| Command::Health { reply }).await
    }

    /// Takes no new transfers, lets the running ones end within `limits.shutdown_timeout_s`, ends the engine.
    pub async fn drain(&self) {
        // An error means that the supervisor has ended already.
        let _ = self.commands.send(Command::Drain).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Problem> {
        let ending = || Problem::new(ApiCode::EngineUnavailable, "the server is shutting down");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }
}

/// What the task of one engine process reports. `generation` counts the processes.
#[derive(Debug)]
pub(crate) enum EngineEvent {
    Said { generation: u64, message: FromEngine },
    Ended { generation: u64, reason: String },
}

async fn run(mut core: Core, command: engine::EngineCommand, state_dir: PathBuf, mut commands: mpsc::Receiver<Command>) {
    let (events, mut engine_events) = mpsc::channel(MESSAGES_WAITING_MAX);
    let mut outbox: Option<mpsc::Sender<ToEngine>> = None;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            Some(command) = commands.recv() => Event::Command(command),
            Some(event) = engine_events.recv() => Event::Engine(event),
            _ = tick.tick() => Event::Tick,
        };
        for effect in core.apply(Instant::now(), event) {
            match effect {
                Effect::StartEngine { generation } => {
                    let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
                    outbox = Some(sender);
                    tokio::spawn(engine::run(command.clone(), generation, receiver, events.clone()));
                }
                // A full outbox means an engine that does not read: end it, and it will be started again.
                Effect::Send(message) => {
                    if outbox.as_ref().is_some_and(|outbox| outbox.try_send(message).is_err()) {
                        outbox = None;
                    }
                }
                Effect::KillEngine => outbox = None,
                Effect::Forget { transfer_id } => {
                    // Not every transfer has one.
                    tokio::spawn(tokio::fs::remove_file(crate::http::manifest_path(&state_dir, &transfer_id)));
                }
                Effect::Stop => return,
            }
        }
    }
}
