//! Both ends over a real socket pair. Cannot see: a real engine.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::net::UnixStream;
use tradewind_ipc::*;

fn open_lane() -> ToEngine {
    ToEngine::OpenLane(Box::new(OpenLane {
        transfer_id: "t-1".into(),
        owner: "somebody".into(),
        lane_id: u64::MAX,
        secret: LaneSecret::new([9; 32]),
        cipher: Cipher::Aes256Gcm,
        block_bytes: 1 << 20,
        chunk_bytes: 0,
        credit_blocks: 64,
        call: Some(([192, 0, 2, 1], 33001).into()),
        job: Job::Receive(Receive {
            destination: Destination {
                store: Store::S3(S3Store {
                    endpoint: Some("http://127.0.0.1:8333".into()),
                    region: "us-east-1".into(),
                    bucket: "b".into(),
                    access_key: Some("key".into()),
                    secret_key: Some("very secret".into()),
                    session_token: None,
                    path_style: true,
                    dialect: Dialect::Legacy,
                }),
                name: DestinationName::Into("in/".into()),
            },
            overwrite: false,
            resume: true,
            variant: 0,
        }),
    }))
}

fn pair() -> (UnixStream, StdUnixStream) {
    let (control, engine) = StdUnixStream::pair().unwrap();
    control.set_nonblocking(true).unwrap();
    (UnixStream::from_std(control).unwrap(), engine)
}

#[tokio::test]
async fn messages_go_both_ways_on_tokio() {
    let (control, engine) = pair();
    let (control, engine) = tokio::join!(accept_engine(control, "tradewindd 1"), connect_control(engine, "tradewind-engine 1"));
    let (mut to_engine, mut from_engine, hello) = control.unwrap();
    let (mut to_control, mut from_control, _) = engine.unwrap();
    assert_eq!(hello.software, "tradewind-engine 1");

    to_engine.send(&open_lane()).await.unwrap();
    to_engine.send(&ToEngine::Drain).await.unwrap();
    assert_eq!(from_control.recv().await.unwrap(), Some(open_lane()));
    assert_eq!(from_control.recv().await.unwrap(), Some(ToEngine::Drain));

    let accepted = FromEngine::LaneOpened(LaneAccepted { lane_id: u64::MAX, chunk_bytes: 1400, credit_blocks: 32, durable: None });
    to_control.send(&accepted).await.unwrap();
    drop((to_control, from_control));
    assert_eq!(from_engine.recv().await.unwrap(), Some(accepted));
    assert_eq!(from_engine.recv().await.unwrap(), None);
    assert!(matches!(to_engine.send(&ToEngine::Drain).await, Err(IpcError::Closed { inside_frame: false })));
}

#[tokio::test]
async fn a_blocking_engine_works_too() {
    let (control, engine) = pair();
    let thread = std::thread::spawn(move || {
        let (mut channel, hello) = connect_control_sync(engine, "sync").unwrap();
        let received = channel.recv().unwrap();
        channel.send(&FromEngine::Stats(Stats::default())).unwrap();
        (hello.role, received, channel.recv().unwrap())
    });
    let (mut to_engine, mut from_engine, _) = accept_engine(control, "c").await.unwrap();
    to_engine.send(&ToEngine::StatsRequest).await.unwrap();
    assert_eq!(from_engine.recv().await.unwrap(), Some(FromEngine::Stats(Stats::default())));
    drop((to_engine, from_engine));
    assert_eq!(thread.join().unwrap(), (Role::Control, Some(ToEngine::StatsRequest), None));
}

async fn refused_hello(hello: &serde_json::Value) -> IpcError {
    let (control, mut engine) = pair();
    engine.write_all(&encode_frame(hello).unwrap()).unwrap();
    accept_engine(control, "c").await.unwrap_err()
}

#[tokio::test]
async fn other_versions_roles_and_silence_are_named() {
    let newer =
        serde_json::json!({"protocol": PROTOCOL_VERSION + 1, "role": "engine", "software": "tradewind-engine 9", "new_field": true});
    let error = refused_hello(&newer).await;
    assert!(
        matches!(&error, IpcError::VersionMismatch { ours: PROTOCOL_VERSION, theirs, .. } if *theirs == PROTOCOL_VERSION + 1),
        "{error}"
    );
    assert!(error.to_string().contains("tradewind-engine 9"), "{error}");

    let control = serde_json::json!({"protocol": PROTOCOL_VERSION, "role": "control", "software": "tradewindd"});
    assert!(matches!(refused_hello(&control).await, IpcError::WrongRole { expected: Role::Engine, found: Role::Control }));

    let (control, engine) = pair();
    drop(engine);
    assert!(accept_engine(control, "c").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_in_a_timeout() {
    let (control, _engine) = pair();
    assert!(matches!(accept_engine(control, "c").await, Err(IpcError::HandshakeTimeout { seconds: 10 })));
}

#[tokio::test]
async fn a_torn_frame_is_not_a_clean_end() {
    let (control, mut engine) = pair();
    let hello = Hello { protocol: PROTOCOL_VERSION, role: Role::Engine, software: "e".into() };
    engine.write_all(&encode_frame(&hello).unwrap()).unwrap();
    let frame = encode_frame(&FromEngine::Stats(Stats::default())).unwrap();
    engine.write_all(&frame[..frame.len() - 1]).unwrap();
    let (_to_engine, mut from_engine, _) = accept_engine(control, "c").await.unwrap();
    drop(engine);
    assert!(matches!(from_engine.recv().await, Err(IpcError::Closed { inside_frame: true })));
}

#[test]
fn inherited_descriptor_is_taken_only_if_it_is_a_unix_stream_socket() {
    let (a, mut b) = StdUnixStream::pair().unwrap();
    let mut copy = inherited_stream(a.as_raw_fd()).unwrap();
    b.write_all(b"hi").unwrap();
    let mut two = [0; 2];
    std::io::Read::read_exact(&mut copy, &mut two).unwrap();
    assert_eq!(&two, b"hi");

    let file = std::fs::File::open("/dev/null").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for fd in [file.as_raw_fd(), udp.as_raw_fd(), 9999] {
        assert!(matches!(inherited_stream(fd), Err(IpcError::NotTheSocket { .. })), "fd {fd}");
    }
}

#[test]
fn debug_of_a_message_shows_no_secret() {
    let shown = format!("{:?}", open_lane());
    assert!(!shown.contains("very secret") && !shown.contains("9, 9"), "{shown}");
}
