//! Transfers into and out of Azure Blob Storage, which Azurite plays, through the real processes.
//! What this cannot see: the service itself, its checksums and identities.

use anyhow::Result;
use tradewind_bench::azurite::{ACCOUNT, Azurite, KEY};
use tradewind_tests::containers::{a_tree_there_and_back, is_refused, with_store};

fn section(azurite: &Azurite, key: &str) -> String {
    let endpoint = azurite.endpoint();
    format!(
        "[stores.cloud]\nkind = \"azure\"\naccount = \"{ACCOUNT}\"\nendpoint = \"{endpoint}\"\ncontainers = [\"*\"]\naccount_key = \"{key}\"\n"
    )
}

#[test]
fn a_tree_goes_to_azure_and_comes_back() -> Result<()> {
    let Some(azurite) = Azurite::start()? else { return Ok(()) };
    a_tree_there_and_back(&with_store(&section(&azurite, KEY))?, "az://test/", "cloud:test/")
}

#[test]
fn what_azure_refuses_is_told_by_exit_code_and_words() -> Result<()> {
    let Some(azurite) = Azurite::start()? else { return Ok(()) };
    let (wrong, secret) = ("c2VjcmV0LXRoYXQtaXMtd3Jvbmc=", "c2VjcmV0");
    is_refused(&with_store(&section(&azurite, wrong))?, "az://test/in/", &["credentials"], secret)?;
    is_refused(&with_store(&section(&azurite, KEY))?, "az://nothing-here/in/", &["nothing-here", "does not exist"], KEY)
}
