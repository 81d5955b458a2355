//! Transfers into and out of Google Cloud Storage, as an emulator has it, through the real processes.

use anyhow::Result;
use tradewind_bench::gcs::Gcs;
use tradewind_tests::containers::{a_tree_there_and_back, is_refused, with_store};

fn section(gcs: &Gcs) -> String {
    format!("[stores.google]\nkind = \"gcs\"\nendpoint = \"{}\"\nbuckets = [\"*\"]\nanonymous = true\n", gcs.endpoint())
}

#[test]
fn a_tree_goes_to_google_cloud_storage_and_comes_back() -> Result<()> {
    let Some(gcs) = Gcs::start()? else { return Ok(()) };
    a_tree_there_and_back(&with_store(&section(&gcs))?, "gs://test/", "google:test/")
}

#[test]
fn what_google_cloud_storage_refuses_is_told_by_exit_code_and_words() -> Result<()> {
    let Some(gcs) = Gcs::start()? else { return Ok(()) };
    is_refused(&with_store(&section(&gcs))?, "gs://nothing-here/in/", &["nothing-here", "does not exist"], "anonymous")
}
