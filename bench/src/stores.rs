//! The test stores, each started once to see that it works on this machine; or kept running, to be tried by hand.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::azurite::{self, Azurite};
use crate::ceph::{self, Ceph};
use crate::gcs::{self, Gcs};
use crate::hdfs::{self, Hdfs};
use crate::keystone::{self, Keystone};
use crate::loopback::Loopback;
use crate::netstorage::{self, NetStorage};
use crate::process::Interrupt;
use crate::swift::{self, Swift};
use crate::testbed::BUCKET;

/// Options of `tradewind-bench stores`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Leave them running until Ctrl-C, all at once
    #[arg(long)]
    keep: bool,
}

/// What keeps a store running while it is held, and how it is reached.
type Running = (Box<dyn std::any::Any>, String);
type Start = fn(&Interrupt) -> Result<Option<Running>>;

const STORES: [(&str, Start); 8] = [
    ("SeaweedFS (S3)", |interrupt| {
        let server = Loopback::start_with(&std::env::temp_dir(), true, interrupt)?;
        let store = server.store().context("it was asked for")?;
        let (endpoint, (access, secret)) = (store.endpoint(), store.credentials());
        Ok(Some((Box::new(server), format!("{endpoint}  bucket {BUCKET}, access key {access}, secret key {secret}"))))
    }),
    ("Azurite (Azure Blob)", |_| {
        let Some(server) = Azurite::start()? else { return Ok(None) };
        let how = format!("{}  container {}, account {}, its documented key", server.endpoint(), azurite::CONTAINER, azurite::ACCOUNT);
        Ok(Some((Box::new(server), how)))
    }),
    ("Google Cloud Storage", |_| {
        let Some(server) = Gcs::start()? else { return Ok(None) };
        let how = format!("{}  bucket {}, an emulator without credentials", server.endpoint(), gcs::BUCKET);
        Ok(Some((Box::new(server), how)))
    }),
    ("Swift (TempAuth)", |_| {
        let Some(server) = Swift::start()? else { return Ok(None) };
        let how = format!("{}  container {}, user {}, key {}", server.auth_url(), swift::CONTAINER, swift::USER, swift::KEY);
        Ok(Some((Box::new(server), how)))
    }),
    ("Swift (Keystone)", |_| {
        let Some(keystone) = Keystone::start()? else { return Ok(None) };
        let Some((server, _)) = Swift::start_with_keystone(&keystone)? else { return Ok(None) };
        let (user, password, project) = (keystone::USER, keystone::PASSWORD, keystone::PROJECT);
        let how = format!("{}  container {}, user {user}, password \"{password}\", project {project}", keystone.url(), swift::CONTAINER);
        Ok(Some((Box::new((server, keystone)), how)))
    }),
    ("HDFS", |_| {
        let Some(server) = Hdfs::start()? else { return Ok(None) };
        let how = format!("{}  RPC {}, root {}, user {}", server.namenode(), server.rpc_address(), hdfs::ROOT, hdfs::USER);
        Ok(Some((Box::new(server), how)))
    }),
    ("Akamai NetStorage", |_| {
        let server = NetStorage::start()?;
        let (cp_code, account, key) = (netstorage::CP_CODE, netstorage::ACCOUNT, netstorage::KEY);
        let how = format!("{}  an emulator; CP code {cp_code}, account {account}, key {key}", server.url());
        Ok(Some((Box::new(server), how)))
    }),
    ("Ceph (S3, Swift)", |_| {
        let Some(server) = Ceph::start()? else { return Ok(None) };
        let (access, secret, user, key) = (ceph::ACCESS, ceph::SECRET, ceph::USER, ceph::KEY);
        let keys = format!("access key {access}, secret key {secret}; Swift: user {user}, key {key}");
        let how = format!("{}  bucket {}, {keys}", server.url(), ceph::BUCKET);
        Ok(Some((Box::new(server), how)))
    }),
];

/// Starts each and prints how it is reached.
///
/// # Errors
/// When one does not start, is not installed, or a signal comes.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<()> {
    let (mut kept, mut missing) = (Vec::new(), Vec::new());
    for (name, start) in STORES {
        interrupt.check()?;
        let since = Instant::now();
        match start(interrupt) {
            Ok(Some((store, how))) => {
                println!("{name:22} up in {:4.1} s  {how}", since.elapsed().as_secs_f64());
                kept.push(store);
                if !arguments.keep {
                    kept.clear();
                }
            }
            // It has said why.
            Ok(None) => missing.push(name.to_owned()),
            Err(error) => {
                println!("{name:22} does not start: {error:#}");
                missing.push(name.to_owned());
            }
        }
    }
    if arguments.keep && !kept.is_empty() {
        println!("until Ctrl-C");
        while interrupt.check().is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
    drop(kept);
    ensure!(missing.is_empty(), "not started: {}", missing.join(", "));
    Ok(())
}
