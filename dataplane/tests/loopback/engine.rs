//! An engine process, and the control process's side of the conversation.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;
use tradewind_client::{Cipher, LaneOffer};
use tradewind_ipc::{
    Destination, DestinationName, FromEngine, Job, LaneClosed, LaneReport, LaneSecret, OpenLane, Ready, Receive, Receiver, Sender, Store,
    ToEngine, accept_engine,
};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Engine {
    child: Child,
    sender: Sender<ToEngine>,
    receiver: Receiver<FromEngine>,
    listen: SocketAddr,
    lanes: u64,
}

impl Engine {
    /// Starts an engine on a free loopback port, without AF_XDP.
    pub(crate) async fn start() -> Self {
        let listen = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tradewind-engine"))
            .args(["--control-fd", "0", "--xdp", "off", "--listen", &listen.to_string(), "--pool-bytes", "268435456"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(ours).unwrap();
        let (sender, receiver, _) = timeout(PATIENCE, accept_engine(stream, "test")).await.unwrap().unwrap();
        let mut engine = Self { child, sender, receiver, listen, lanes: 0 };
        let FromEngine::Ready(Ready { xdp, .. }) = engine.receive().await else { panic!("not ready") };
        assert!(xdp.reason.is_some_and(|reason| reason.contains("--xdp off")));
        engine
    }

    pub(crate) async fn send(&mut self, message: ToEngine) {
        self.sender.send(&message).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> FromEngine {
        timeout(PATIENCE, self.receiver.recv()).await.expect("the engine is silent").unwrap().expect("the engine is gone")
    }

    /// Opens a lane into a local directory.
    pub(crate) async fn open_lane(&mut self, root: &Path, name: DestinationName, cipher: Cipher) -> Result<LaneOffer, LaneClosed> {
        let destination = Destination { store: Store::Local { root: root.to_owned() }, name };
        self.open(Job::Receive(Receive { destination, overwrite: false, resume: false, variant: 0 }), cipher).await
    }

    /// Opens a lane for whatever it is to do.
    pub(crate) async fn open(&mut self, job: Job, cipher: Cipher) -> Result<LaneOffer, LaneClosed> {
        self.lanes += 1;
        let lane_id = 0x1234_5678_0000_0000 + self.lanes;
        let secret = [self.lanes as u8; 32];
        let open = OpenLane {
            transfer_id: "test".to_owned(),
            owner: "test".to_owned(),
            lane_id,
            secret: LaneSecret::new(secret),
            cipher: match cipher {
                Cipher::Aes128Gcm => tradewind_ipc::Cipher::Aes128Gcm,
                Cipher::Aes256Gcm => tradewind_ipc::Cipher::Aes256Gcm,
            },
            block_bytes: 1 << 20,
            chunk_bytes: 0,
            credit_blocks: 0,
            job,
            call: None,
        };
        self.send(ToEngine::OpenLane(Box::new(open))).await;
        loop {
            match self.receive().await {
                FromEngine::LaneOpened(lane) => {
                    return Ok(LaneOffer {
                        lane_id,
                        secret,
                        endpoints: vec![self.listen],
                        block_bytes: 1 << 20,
                        chunk_bytes: lane.chunk_bytes,
                        credit_blocks: lane.credit_blocks,
                        cipher,
                    });
                }
                FromEngine::LaneRefused(why) => return Err(why),
                FromEngine::Progress(_) | FromEngine::LaneReport(_) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    /// The first report of a sender that is as wanted.
    pub(crate) async fn report(&mut self, wanted: impl Fn(&LaneReport) -> bool) -> LaneReport {
        let mut last = None;
        let asking = async {
            loop {
                match self.receive().await {
                    FromEngine::LaneReport(report) if wanted(&report) => return report,
                    FromEngine::LaneReport(report) => last = Some(report),
                    FromEngine::Progress(_) => {}
                    other => panic!("unexpected: {other:?}"),
                }
            }
        };
        let found = timeout(PATIENCE, asking).await;
        found.unwrap_or_else(|_| panic!("no such report; the last one: {last:?}"))
    }

    /// The last message of the lane that is open.
    pub(crate) async fn last_word(&mut self) -> FromEngine {
        loop {
            match self.receive().await {
                FromEngine::Progress(_) | FromEngine::LaneReport(_) | FromEngine::FileDone(_) => {}
                last => return last,
            }
        }
    }

    /// Lets the engine end by itself, and checks that it did so cleanly.
    pub(crate) async fn drain(mut self) {
        self.send(ToEngine::Drain).await;
        let status = timeout(PATIENCE, tokio::task::spawn_blocking(move || self.child.wait().unwrap())).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }
}
