//! Frames: a 32-bit big-endian length, then that many bytes of JSON. No I/O here.

use serde::{Serialize, de::DeserializeOwned};
use zeroize::{Zeroize, Zeroizing};

use crate::IpcError;

/// Largest JSON text in a frame, bytes. The largest real message (an [`crate::OpenLane`] with long names) is below 16 KiB.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
const LENGTH_BYTES: usize = 4;

/// One message as a frame, ready to be written. The buffer may hold secrets and is wiped when dropped.
///
/// # Errors
/// [`IpcError::TooLarge`] above [`FRAME_BYTES_MAX`], [`IpcError::Encode`] for a path that is not UTF-8.
pub fn encode_frame<M: Serialize>(message: &M) -> Result<Zeroizing<Vec<u8>>, IpcError> {
    // Room for an ordinary message, so that growing leaves no unwiped copies behind.
    let mut frame = Zeroizing::new(Vec::with_capacity(8 * 1024));
    frame.extend_from_slice(&[0; LENGTH_BYTES]);
    serde_json::to_writer(&mut *frame, message).map_err(IpcError::Encode)?;
    let bytes = frame.len() - LENGTH_BYTES;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= FRAME_BYTES_MAX);
    let length = length.ok_or(IpcError::TooLarge { bytes, limit: FRAME_BYTES_MAX })?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// Cuts a byte stream into messages. Feed it with [`extend`](Self::extend), then call [`next`](Self::next) until it says `None`.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    pending: Vec<u8>,
}

impl FrameDecoder {
    /// An empty decoder.
    #[must_use]
    pub const fn new() -> Self {
        Self { pending: Vec::new() }
    }

    /// Adds bytes that arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// True between two messages: an end of stream here is a clean one.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next whole message, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`IpcError::TooLarge`] as soon as the length is known, [`IpcError::Malformed`] for text that is no `M`. The stream is
    /// unusable after either.
    #[expect(clippy::should_implement_trait, reason = "the message type is chosen per call, as the first frame is a Hello")]
    pub fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>, IpcError> {
        let Some(length) = self.pending.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let bytes = u32::from_be_bytes(*length) as usize;
        if bytes > FRAME_BYTES_MAX {
            return Err(IpcError::TooLarge { bytes, limit: FRAME_BYTES_MAX });
        }
        let end = LENGTH_BYTES + bytes;
        let Some(text) = self.pending.get(LENGTH_BYTES..end) else { return Ok(None) };
        let message = serde_json::from_slice(text).map_err(IpcError::Malformed);
        self.pending[..end].zeroize();
        self.pending.drain(..end);
        message.map(Some)
    }
}

impl Drop for FrameDecoder {
    fn drop(&mut self) {
        self.pending.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cutting_of_the_stream() {
        let sent = ["a", "", "a longer text"];
        let stream: Vec<u8> = sent.iter().flat_map(|text| encode_frame(text).unwrap().to_vec()).collect();
        for piece in 1..=stream.len() {
            let mut decoder = FrameDecoder::new();
            let mut received: Vec<String> = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.extend(bytes);
                while let Some(text) = decoder.next().unwrap() {
                    received.push(text);
                }
            }
            assert_eq!(received, sent, "pieces of {piece} bytes");
            assert!(decoder.is_between_frames());
        }
    }

    #[test]
    fn length_limit_passes_at_the_limit_and_fails_above_before_the_body_arrives() {
        let at_limit = "x".repeat(FRAME_BYTES_MAX - 2);
        let mut decoder = FrameDecoder::new();
        decoder.extend(&encode_frame(&at_limit).unwrap());
        assert_eq!(decoder.next::<String>().unwrap().as_deref(), Some(at_limit.as_str()));
        assert!(matches!(encode_frame(&format!("{at_limit}x")), Err(IpcError::TooLarge { .. })));

        decoder.extend(&u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes());
        assert!(matches!(decoder.next::<String>(), Err(IpcError::TooLarge { bytes, .. }) if bytes == FRAME_BYTES_MAX + 1));
    }

    #[test]
    fn the_most_orders_fit_a_frame() {
        let (lane_id, number, most) = (u64::MAX, u32::MAX, u32::MAX);
        let orders = crate::LaneOrders {
            lane_id,
            number,
            policy: crate::RatePolicy::Fixed,
            target_kbps: Some(most),
            minimum_kbps: most,
            lease_kbps: Some(most),
        };
        assert!(encode_frame(&crate::ToEngine::LaneOrders(vec![orders; crate::LANE_ORDERS_MAX])).is_ok());
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        let mut decoder = FrameDecoder::new();
        decoder.extend(&[0, 0, 0, 3, b'{', 0xff, b'}']);
        assert!(matches!(decoder.next::<String>(), Err(IpcError::Malformed(_))));
    }
}
