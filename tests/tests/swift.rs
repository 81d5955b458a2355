//! Transfers into and out of OpenStack Swift through the real processes.

use anyhow::Result;
use tradewind_bench::swift::{KEY, Swift, USER};
use tradewind_tests::containers::{a_tree_there_and_back, is_refused, with_store};

fn section(swift: &Swift, key: &str, large_objects: &str) -> String {
    let auth_url = swift.auth_url();
    format!(
        "[stores.stack]\nkind = \"swift\"\nauth_url = \"{auth_url}\"\nuser = \"{USER}\"\npassword = \"{key}\"\ncontainers = [\"*\"]\n\
         large_objects = \"{large_objects}\"\n"
    )
}

#[test]
fn a_tree_goes_to_swift_and_comes_back() -> Result<()> {
    let Some(swift) = Swift::start()? else { return Ok(()) };
    for large_objects in ["auto", "dynamic"] {
        a_tree_there_and_back(&with_store(&section(&swift, KEY, large_objects))?, "swift://test/", "stack:test/")?;
        assert_eq!(swift.names("test_segments")?, "", "{large_objects}: segments that nothing needs");
    }
    Ok(())
}

#[test]
fn what_swift_refuses_is_told_by_exit_code_and_words() -> Result<()> {
    let Some(swift) = Swift::start()? else { return Ok(()) };
    is_refused(&with_store(&section(&swift, "a-wrong-key", "auto"))?, "swift://test/in/", &["credentials"], "wrong-key")?;
    is_refused(&with_store(&section(&swift, KEY, "auto"))?, "swift://nothing-here/in/", &["nothing-here", "does not exist"], KEY)
}
