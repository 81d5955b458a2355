//! Whether this machine can run tests over AF_XDP.

use rustix::net::{AddressFamily, SocketType, socket};

use crate::process;

/// What is missing for AF_XDP tests; `None` if nothing is. Asked independently of the product, which might be what is broken.
pub(super) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some(String::from("not root"));
    }
    if let Err(error) = socket(AddressFamily::XDP, SocketType::RAW, None) {
        return Some(format!("the kernel opens no AF_XDP socket: {error}"));
    }
    // The namespace and its devices end with the command.
    let veth = ["--net", "ip", "link", "add", "twprobe0", "type", "veth", "peer", "name", "twprobe1"];
    if !process::succeeds("unshare", &veth) {
        return Some(String::from("no veth pair can be made in a new network namespace (`unshare --net ip link add … type veth`)"));
    }
    None
}
