//! What sealing and unsealing cost on one thread: `cargo run --release -p tradewind-seal --example throughput`.

use std::time::Instant;

use tradewind_seal::{HEADER_BYTES, KdfParameters, KeyRing, MasterKey, Passphrase, Sealer, Unsealer};
use zeroize::Zeroizing;

const BYTES: usize = 256 << 20;
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = Zeroizing::new([7; 32]);
    let plain: Vec<u8> = (0..BYTES).map(|at| at as u8).collect();
    let mut sealer = Sealer::new(&MasterKey::from_bytes(&secret)?, &[1; 16], BYTES as u64)?;
    let mut read = |offset: u64, into: &mut [u8]| {
        into.copy_from_slice(&plain[offset as usize..][..into.len()]);
        Ok(())
    };
    let mut sealed = vec![0; usize::try_from(sealer.sealed_size())?];
    for (what, piece) in [("in pieces of 4 MiB", 4 << 20), ("in pieces of 1400 bytes", 1400)] {
        let rate = best(|| {
            for (index, into) in sealed.chunks_mut(piece).enumerate() {
                sealer.read_at((index * piece) as u64, into, &mut read)?;
            }
            Ok(())
        })?;
        println!("seal {what}, one copy included: {rate:.2} GB/s");
    }
    let unsealer = Unsealer::open(&sealed, &KeyRing::new().with_key(MasterKey::from_bytes(&secret)?))?;
    let rate = best(|| {
        unsealer.unseal(&mut &sealed[HEADER_BYTES..], &mut std::io::sink())?;
        Ok(())
    })?;
    println!("unseal, one copy included: {rate:.2} GB/s");

    let passphrase = Passphrase::new(b"correct horse battery staple".to_vec())?;
    let start = Instant::now();
    MasterKey::from_passphrase(&passphrase, &KdfParameters::RECOMMENDED, &[1; 16])?;
    println!("a key from a passphrase: {:.0} ms", start.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

/// GB of contents a second in the best of some rounds.
fn best(mut round: impl FnMut() -> Result<(), Box<dyn std::error::Error>>) -> Result<f64, Box<dyn std::error::Error>> {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(BYTES as f64 / best / 1e9)
}
