//! Speed of packet protection, one core: `cargo run --release -p tradewind-sim --example aead`.

use std::time::Instant;

use tradewind_proto::crypto::{CipherSuite, Key, Provider};

const ROUNDS: u32 = 7;

/// Best of some rounds, ns per call.
fn best(mut call: impl FnMut(u64)) -> f64 {
    let calls = 20_000u64;
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(&mut call);
            start.elapsed().as_nanos() as f64 / calls as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    println!("{:<12} {:<12} {:>6} {:>10} {:>10} {:>10} {:>10}", "provider", "suite", "bytes", "seal ns", "Gbit/s", "open ns", "Gbit/s");
    for provider in [Provider::AwsLc, Provider::RustCrypto] {
        for (suite, key) in [(CipherSuite::Aes128Gcm, &[7u8; 16][..]), (CipherSuite::Aes256Gcm, &[7u8; 32][..])] {
            for bytes in [1427usize, 8927] {
                let key = Key::new(provider, suite, key).expect("the length fits");
                let plain = vec![0x5a; bytes];
                let mut sealed = vec![0; bytes + 16];
                let mut out = vec![0; bytes];
                let nonce = |i: u64| {
                    let mut nonce = [0; 12];
                    nonce[4..].copy_from_slice(&i.to_be_bytes());
                    nonce
                };
                let seal = best(|i| key.seal(nonce(i), &[0; 29], &plain, &mut sealed).expect("it seals"));
                key.seal(nonce(0), &[0; 29], &plain, &mut sealed).expect("it seals");
                let open = best(|_| key.open(nonce(0), &[0; 29], &sealed, &mut out).expect("it opens"));
                let gbit = |ns: f64| bytes as f64 * 8.0 / ns;
                println!(
                    "{:<12} {:<12} {bytes:>6} {seal:>10.0} {:>10.1} {open:>10.0} {:>10.1}",
                    format!("{provider:?}"),
                    format!("{suite:?}"),
                    gbit(seal),
                    gbit(open)
                );
            }
        }
    }
}
