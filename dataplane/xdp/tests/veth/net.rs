//! Two unnamed network namespaces joined by a veth pair. Each belongs to one thread and ends with it, so nothing is left
//! behind by a crash, and there is nothing to remove.
#![expect(unsafe_code, reason = "unshare(2) and gettid(2)")]

use std::{
    process::Command,
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

pub(crate) const LOCAL: &str = "twl0";
pub(crate) const PEER: &str = "twp0";
pub(crate) const LOCAL_V4: &str = "10.77.0.1";
pub(crate) const PEER_V4: &str = "10.77.0.2";
pub(crate) const LOCAL_V6: &str = "fd77::1";
pub(crate) const PEER_V6: &str = "fd77::2";

type Job = Box<dyn FnOnce() + Send>;

/// The other namespace: runs closures on its thread.
pub(crate) struct Peer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start() -> (Self, i32) {
        let (jobs, queue) = channel::<Job>();
        let (tell, told) = channel();
        let thread = thread::spawn(move || {
            enter_new_namespace();
            // SAFETY: gettid(2) has no arguments and cannot fail.
            tell.send(unsafe { libc::gettid() }).expect("the test waits");
            for job in queue {
                job();
            }
        });
        let id = told.recv().expect("namespace of the peer");
        (Self { jobs: Some(jobs), thread: Some(thread) }, id)
    }

    /// Runs `job` in the peer's namespace; what it opens stays there.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let job = Box::new(move || {
            let _ = tell.send(job());
        });
        self.jobs.as_ref().expect("running").send(job).expect("running");
        told.recv().expect("the job ran to its end")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn enter_new_namespace() {
    // SAFETY: unshare(2) takes flags only; it changes the namespace of this thread alone.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
}

/// Runs a command and asserts that it succeeds.
#[track_caller]
pub(crate) fn sh(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().expect("sh");
    assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `body` in a namespace of its own, joined to a peer by a veth pair with this MTU. Prints `SKIP` without privilege.
pub(crate) fn with_veth(mtu: u32, body: impl FnOnce(&Peer) + Send + 'static) {
    // SAFETY: geteuid(2) has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIP: network namespaces and AF_XDP need root");
        return;
    }
    let thread = thread::spawn(move || {
        enter_new_namespace();
        let (peer, peer_thread) = Peer::start();
        sh(&format!(
            "ip link add {LOCAL} numrxqueues 1 numtxqueues 1 mtu {mtu} type veth peer name {PEER} numrxqueues 1 numtxqueues 1 mtu {mtu}
             ip link set {PEER} netns {peer_thread}
             ip link set lo up; ip link set {LOCAL} up
             ip addr add {LOCAL_V4}/24 dev {LOCAL}; ip -6 addr add {LOCAL_V6}/64 dev {LOCAL} nodad"
        ));
        peer.run(|| {
            // A kernel sender must not hand super-packets or unfinished checksums across the veth: no wire carries them. GRO on
            // the peer switches its NAPI on, which native XDP on our end needs to send to it.
            sh(&format!(
                "ip link set lo up; ip link set {PEER} up
                 ip addr add {PEER_V4}/24 dev {PEER}; ip -6 addr add {PEER_V6}/64 dev {PEER} nodad
                 ethtool -K {PEER} tx off gso off tso off gro on txvlan off 2>/dev/null
                 true"
            ));
        });
        sh(&format!("ethtool -K {LOCAL} tx off gso off tso off gro on rxvlan off 2>/dev/null; true"));
        body(&peer);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
