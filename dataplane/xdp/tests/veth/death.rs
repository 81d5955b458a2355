//! When the process that steers is killed, the kernel takes its program off the interface and frees its queue.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    net::{LOCAL, with_veth},
    traffic::steering,
};
use tradewind_xdp::{AttachMode, XdpLink, XdpLinkConfig, probe};

const READY: &str = "the victim steers";
const ROLE: &str = "TW_XDP_TEST_VICTIM";

/// Not a test of its own: the process that [`a_killed_process_leaves_nothing_attached`] starts and kills.
#[test]
#[ignore = "started by a_killed_process_leaves_nothing_attached"]
fn victim() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let steering = steering(AttachMode::Generic);
    let _link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
    println!("\n{READY}");
    std::io::stdout().flush().expect("pipe");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_process_leaves_nothing_attached() {
    with_veth(1500, |_| {
        let program = std::env::current_exe().expect("path of this test");
        // A child starts in the namespace of the thread that starts it.
        let mut victim = Command::new(program)
            .args(["--ignored", "--exact", "death::victim", "--nocapture"])
            .env(ROLE, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the victim starts");
        let output = BufReader::new(victim.stdout.take().expect("piped"));
        let ready = output.lines().map_while(Result::ok).any(|line| line == READY);
        let attached = probe::interface(LOCAL).expect("report").features.attached_program;
        victim.kill().expect("the victim is ours");
        victim.wait().expect("the victim ends");
        assert!(ready, "the victim did not come up");
        assert_ne!(attached, 0, "its program was attached");

        let started = Instant::now();
        while probe::interface(LOCAL).expect("report").features.attached_program != 0 {
            assert!(started.elapsed() < Duration::from_secs(10), "still attached");
            std::thread::sleep(Duration::from_millis(10));
        }
        let steering = steering(AttachMode::Driver);
        XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("the queue is free");
    });
}
