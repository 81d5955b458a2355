//! Copies and downloads as the engine sees them.

use std::path::Path;
use std::time::Duration;

use tradewind_client::Cipher;
use tradewind_ipc::{Destination, DestinationName, ErrorCode, FromEngine, Job, LaneClosed, LaneReceipt, Receive, Select, Store, ToEngine};

use crate::engine::Engine;

fn at(root: &Path) -> Destination {
    Destination { store: Store::Local { root: root.to_owned() }, name: DestinationName::Into(String::new()) }
}

fn copy(from: &Path, to: &Path) -> Job {
    let into = Receive { destination: at(to), overwrite: false, resume: false, variant: 0 };
    Job::Copy { source: at(from), select: Select::default(), into }
}

async fn last_word(engine: &mut Engine) -> FromEngine {
    loop {
        let message = engine.receive().await;
        if matches!(message, FromEngine::LaneDone(_) | FromEngine::LaneFailed(_)) {
            return message;
        }
    }
}

/// Bytes of the pool that are in use.
async fn pool_bytes_used(engine: &mut Engine) -> u64 {
    engine.send(ToEngine::StatsRequest).await;
    loop {
        if let FromEngine::Stats(stats) = engine.receive().await {
            return stats.pool_bytes_used;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_names_what_it_leaves_out() {
    // Files that say they have 4096 bytes and end earlier, as one does that is cut while it is read.
    let from = Path::new("/sys/kernel/mm/transparent_hugepage");
    if !from.exists() {
        println!("SKIP: this kernel has no transparent huge pages, whose settings are files of a wrong size");
        return;
    }
    let to = tempfile::tempdir().unwrap();
    let mut engine = Engine::start().await;
    engine.open(copy(from, to.path()), Cipher::Aes128Gcm).await.unwrap();
    let FromEngine::LaneDone(LaneReceipt { files, files_failed, first_failure, .. }) = last_word(&mut engine).await else {
        panic!("failed")
    };
    assert!(files == 0 && files_failed > 1, "{files} copied, {files_failed} left out");
    assert!(first_failure.is_some_and(|why| why.contains("changed while it was read")));
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0, "nothing half");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_copy_gives_its_memory_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Larger than the pool, and nothing on the disk.
    std::fs::File::create(from.path().join("large")).unwrap().set_len(8 << 30).unwrap();
    let mut engine = Engine::start().await;
    let lane_id = engine.open(copy(from.path(), to.path()), Cipher::Aes128Gcm).await.unwrap().lane_id;
    while pool_bytes_used(&mut engine).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.send(ToEngine::CloseLane(LaneClosed { lane_id, code: ErrorCode::Cancelled, text: "enough".to_owned() })).await;
    let FromEngine::LaneFailed(LaneClosed { code, .. }) = last_word(&mut engine).await else { panic!("done") };
    assert_eq!(code, ErrorCode::Cancelled);
    let mut used = u64::MAX;
    for _ in 0..100 {
        used = pool_bytes_used(&mut engine).await;
        if used == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(used, 0, "memory is held for a copy that has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_cannot_be_got() {
    let from = tempfile::tempdir().unwrap();
    let mut engine = Engine::start().await;
    let refused =
        engine.open(Job::Send { source: at(from.path()), select: Select::default(), resume: false }, Cipher::Aes128Gcm).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::SourceMissing);
}
