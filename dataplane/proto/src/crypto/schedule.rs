//! Keys by direction and epoch.

use aws_lc_rs::hkdf;
use tradewind_wire::limits::TAG_BYTES;
use tradewind_wire::{LaneId, PacketNumber};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::CipherSuite;
use super::aead::{AuthError, Key, Provider};

/// Which way packets protected by a key travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// Sender to receiver.
    Forward = 0,
    /// Receiver to sender.
    Reverse = 1,
}

/// The lane's 32-byte secret. Wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LaneSecret(pub [u8; 32]);

impl std::fmt::Debug for LaneSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LaneSecret(redacted)")
    }
}

struct OutputBytes(usize);

impl hkdf::KeyType for OutputBytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// Derives the keys of one direction of a lane.
#[derive(Debug)]
struct Schedule {
    prk: hkdf::Prk,
    lane: LaneId,
    direction: Direction,
    suite: CipherSuite,
    provider: Provider,
}

/// The key and IV of one epoch.
#[derive(Debug)]
struct EpochKey {
    epoch: u32,
    key: Key,
    iv: [u8; 12],
}

impl EpochKey {
    fn nonce(&self, packet_number: PacketNumber) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(packet_number.get().to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }
}

impl Schedule {
    fn new(secret: &LaneSecret, lane: LaneId, direction: Direction, suite: CipherSuite, provider: Provider) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tradewind lane v1").extract(&secret.0);
        Self { prk, lane, direction, suite, provider }
    }

    /// Expands `label | lane id (8) | direction (1) | key length (1) | epoch (4)` into `out`.
    fn expand(&self, label: &[u8], epoch: u32, out: &mut [u8]) {
        let lane = self.lane.0.to_be_bytes();
        let kind = [self.direction as u8, self.suite.key_bytes() as u8];
        let epoch = epoch.to_be_bytes();
        let info = [label, &lane, &kind, &epoch];
        let filled = self.prk.expand(&info, OutputBytes(out.len())).and_then(|okm| okm.fill(out));
        // HKDF fails only above 255 * 32 bytes of output; ours are at most 32.
        debug_assert!(filled.is_ok());
    }

    fn epoch(&self, epoch: u32) -> Option<EpochKey> {
        let mut bytes = [0; 32];
        let key_bytes = &mut bytes[..self.suite.key_bytes()];
        self.expand(b"key", epoch, key_bytes);
        let key = Key::new(self.provider, self.suite, key_bytes);
        bytes.zeroize();
        let mut iv = [0; 12];
        self.expand(b"iv", epoch, &mut iv);
        Some(EpochKey { epoch, key: key?, iv })
    }
}

/// Keys for the packets that this end sends. Packet numbers only grow, so one epoch is enough.
#[derive(Debug)]
pub struct SealKeys {
    schedule: Schedule,
    current: Option<EpochKey>,
}

impl SealKeys {
    /// Keys for one direction.
    #[must_use]
    pub fn new(secret: &LaneSecret, lane: LaneId, direction: Direction, suite: CipherSuite, provider: Provider) -> Self {
        let schedule = Schedule::new(secret, lane, direction, suite, provider);
        let current = schedule.epoch(0);
        Self { schedule, current }
    }

    /// Encrypts one packet: see [`Key::seal`].
    ///
    /// # Errors
    /// [`AuthError`] if the lengths do not fit.
    pub fn seal(&mut self, packet_number: PacketNumber, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), AuthError> {
        let epoch = packet_number.epoch();
        if self.current.as_ref().is_none_or(|current| current.epoch != epoch) {
            self.current = self.schedule.epoch(epoch);
        }
        let current = self.current.as_ref().ok_or(AuthError)?;
        current.key.seal(current.nonce(packet_number), aad, plaintext, out)
    }
}

/// Keys for the packets that the peer sends: the current epoch and its neighbours, all derived ahead, so a forged far
/// epoch costs a comparison.
#[derive(Debug)]
pub struct OpenKeys {
    schedule: Schedule,
    current: u32,
    keys: [Option<EpochKey>; 3],
}

impl OpenKeys {
    /// Keys for one direction.
    #[must_use]
    pub fn new(secret: &LaneSecret, lane: LaneId, direction: Direction, suite: CipherSuite, provider: Provider) -> Self {
        let schedule = Schedule::new(secret, lane, direction, suite, provider);
        let keys = [None, schedule.epoch(0), schedule.epoch(1)];
        Self { schedule, current: 0, keys }
    }

    /// Decrypts one packet: see [`Key::open`]. A packet that authenticates under the next epoch makes it the current one.
    ///
    /// # Errors
    /// [`AuthError`] if the packet does not authenticate, or its epoch is not a neighbour of the current one.
    pub fn open(&mut self, packet_number: PacketNumber, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), AuthError> {
        let epoch = packet_number.epoch();
        let slot = (epoch + 1).checked_sub(self.current).filter(|&slot| slot < 3).ok_or(AuthError)?;
        let key = self.keys[slot as usize].as_ref().ok_or(AuthError)?;
        key.key.open(key.nonce(packet_number), aad, sealed, out)?;
        if slot == 2 {
            self.keys.rotate_left(1);
            self.keys[2] = self.schedule.epoch(epoch + 1);
            self.current = epoch;
        }
        Ok(())
    }

    /// Decrypts a short packet in a buffer of its own.
    ///
    /// # Errors
    /// As [`OpenKeys::open`], and when the plaintext does not fit `out`.
    pub fn open_into<'out>(
        &mut self,
        packet_number: PacketNumber,
        aad: &[u8],
        sealed: &[u8],
        out: &'out mut [u8],
    ) -> Result<&'out [u8], AuthError> {
        let bytes = sealed.len().checked_sub(TAG_BYTES).filter(|&bytes| bytes <= out.len()).ok_or(AuthError)?;
        self.open(packet_number, aad, sealed, &mut out[..bytes])?;
        Ok(&out[..bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(provider: Provider, suite: CipherSuite) -> (SealKeys, OpenKeys) {
        let secret = LaneSecret([7; 32]);
        let seal = SealKeys::new(&secret, LaneId(9), Direction::Forward, suite, provider);
        (seal, OpenKeys::new(&secret, LaneId(9), Direction::Forward, suite, provider))
    }

    fn number(value: u64) -> PacketNumber {
        PacketNumber::new(value).unwrap()
    }

    #[test]
    fn both_providers_produce_the_same_packets() {
        for suite in [CipherSuite::Aes128Gcm, CipherSuite::Aes256Gcm] {
            for length in [0, 1, 15, 16, 17, 1427, 8927] {
                let plaintext: Vec<u8> = (0..length).map(|i| i as u8).collect();
                let (mut aws, mut aws_open) = pair(Provider::AwsLc, suite);
                let (mut rust, mut rust_open) = pair(Provider::RustCrypto, suite);
                let mut sealed = [vec![0; length + 16], vec![0; length + 16]];
                let pn = number(length as u64 * 77);
                aws.seal(pn, b"clear", &plaintext, &mut sealed[0]).unwrap();
                rust.seal(pn, b"clear", &plaintext, &mut sealed[1]).unwrap();
                assert_eq!(sealed[0], sealed[1]);
                let mut out = vec![0; length];
                rust_open.open(pn, b"clear", &sealed[0], &mut out).unwrap();
                assert_eq!(out, plaintext);
                aws_open.open(pn, b"clear", &sealed[1], &mut out).unwrap();
                assert_eq!(out, plaintext);
                assert_eq!(aws_open.open(pn, b"cleaR", &sealed[1], &mut out), Err(AuthError));
                sealed[0][length] ^= 1;
                assert_eq!(rust_open.open(pn, b"clear", &sealed[0], &mut out), Err(AuthError));
            }
        }
    }

    #[test]
    fn an_epoch_advances_only_by_an_authentic_packet() {
        let (mut seal, mut open) = pair(Provider::AwsLc, CipherSuite::Aes128Gcm);
        let first_of_next = number(1 << 22);
        let far = number(2 << 22);
        let mut sealed = [0; 20];
        let mut out = [0; 4];
        seal.seal(far, b"", b"data", &mut sealed).unwrap();
        assert_eq!(open.open(far, b"", &sealed, &mut out), Err(AuthError), "two epochs ahead");
        assert_eq!(open.open(first_of_next, b"", &[0; 20], &mut out), Err(AuthError), "forged");
        assert_eq!(open.current, 0);
        seal.seal(first_of_next, b"", b"data", &mut sealed).unwrap();
        open.open(first_of_next, b"", &sealed, &mut out).unwrap();
        assert_eq!(open.current, 1);
        let late = number((1 << 22) - 1);
        seal.seal(late, b"", b"late", &mut sealed).unwrap();
        open.open(late, b"", &sealed, &mut out).unwrap();
        assert_eq!(&out, b"late", "the previous epoch still opens");
    }

    #[test]
    fn directions_lanes_and_epochs_have_different_keys() {
        let secret = LaneSecret([1; 32]);
        let derive = |lane, direction, suite, epoch| {
            let mut out = [0; 16];
            Schedule::new(&secret, LaneId(lane), direction, suite, Provider::AwsLc).expand(b"key", epoch, &mut out);
            out
        };
        let all = [
            derive(1, Direction::Forward, CipherSuite::Aes128Gcm, 0),
            derive(2, Direction::Forward, CipherSuite::Aes128Gcm, 0),
            derive(1, Direction::Reverse, CipherSuite::Aes128Gcm, 0),
            derive(1, Direction::Forward, CipherSuite::Aes256Gcm, 0),
            derive(1, Direction::Forward, CipherSuite::Aes128Gcm, 1),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn keys_are_the_golden_ones() {
        let text = include_str!("../../../wire/tests/vectors/keys.txt");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut vectors = 0;
        for section in text.split("\n\n").skip(1) {
            let value = |key: &str| section.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = ")).unwrap();
            let secret: Vec<u8> = (0..32).collect();
            assert_eq!(value("lane_secret"), hex(&secret));
            let lane = LaneId(u64::from_str_radix(value("lane_id"), 16).unwrap());
            let direction = if value("direction") == "forward" { Direction::Forward } else { Direction::Reverse };
            let suite = if value("suite") == "aes-128-gcm" { CipherSuite::Aes128Gcm } else { CipherSuite::Aes256Gcm };
            let schedule = Schedule::new(&LaneSecret(secret.try_into().unwrap()), lane, direction, suite, Provider::AwsLc);
            let epoch = value("epoch").parse().unwrap();
            let (mut key, mut iv) = (vec![0; suite.key_bytes()], [0; 12]);
            schedule.expand(b"key", epoch, &mut key);
            schedule.expand(b"iv", epoch, &mut iv);
            assert_eq!((hex(&key).as_str(), hex(&iv).as_str()), (value("key"), value("iv")), "{section}");
            assert_eq!(schedule.epoch(epoch).unwrap().iv, iv);
            vectors += 1;
        }
        assert_eq!(vectors, 12);
    }
}
