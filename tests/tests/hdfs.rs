//! Transfers into and out of HDFS through the real processes.

use anyhow::{Result, ensure};
use tradewind_bench::hdfs::{Hdfs, ROOT, USER};
use tradewind_tests::containers::{a_tree_there_and_back, is_refused, with_store};

fn section(hdfs: &Hdfs, root: &str, user: &str) -> String {
    let namenode = hdfs.namenode();
    format!(
        "[stores.hadoop]\nkind = \"hdfs\"\nnamenodes = [\"{namenode}\"]\nnameservice = \"lake\"\nroot = \"{root}\"\nuser = \"{user}\"\n"
    )
}

fn by_rpc(hdfs: &Hdfs, root: &str, user: &str) -> String {
    format!("{}rpc_addresses = [\"{}\"]\n", section(hdfs, root, user), hdfs.rpc_address())
}

#[test]
fn a_tree_goes_to_hdfs_and_comes_back() -> Result<()> {
    let Some(hdfs) = Hdfs::start()? else { return Ok(()) };
    for section in [section, by_rpc] {
        a_tree_there_and_back(&with_store(&section(&hdfs, ROOT, USER))?, "hdfs://lake/", "hadoop:")?;
    }
    let left = hdfs.hadoop("fs.FsShell", &["-ls", "-R", ROOT])?;
    let left = String::from_utf8_lossy(&left);
    ensure!(!left.contains(".tradewind-"), "unfinished files that nothing needs:\n{left}");
    Ok(())
}

#[test]
fn what_hdfs_refuses_is_told_by_exit_code_and_words() -> Result<()> {
    let Some(hdfs) = Hdfs::start()? else { return Ok(()) };
    is_refused(
        &with_store(&section(&hdfs, ROOT, "stranger"))?,
        "hdfs://lake/in/",
        &["refuses to", "Permission denied"],
        "RemoteException",
    )?;
    is_refused(
        &with_store(&section(&hdfs, "/nothing-here", USER))?,
        "hdfs://lake/in/",
        &["/nothing-here", "does not exist"],
        "RemoteException",
    )
}
