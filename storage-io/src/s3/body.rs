//! A request body over the buffers the data arrived in.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::store::Body;

/// The chunks of a [`Body`] one after the other. The size is exact, so the request has a Content-Length and no chunked coding;
/// the chunks go to hyper as they are, which hands them to the socket with `writev`.
#[derive(Debug)]
pub(crate) struct Chunks {
    left: VecDeque<Bytes>,
    bytes: u64,
}

impl Chunks {
    pub(crate) fn new(body: &Body) -> Self {
        Self { left: body.chunks().iter().filter(|chunk| !chunk.is_empty()).cloned().collect(), bytes: body.len() }
    }
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.left.pop_front();
        self.bytes -= next.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Poll::Ready(next.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

/// The body as the SDK takes it. It can be sent again without a copy.
pub(super) fn sdk_body(body: &Body) -> ByteStream {
    if body.is_empty() {
        return ByteStream::new(SdkBody::empty());
    }
    let body = body.clone();
    ByteStream::new(SdkBody::retryable(move || SdkBody::from_body_1_x(Chunks::new(&body))))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tradewind_fabric::BlockPool;

    use super::*;
    use crate::checksum::Crc64;

    #[tokio::test]
    async fn the_bytes_sent_are_the_pool_slots_themselves() {
        let pool = BlockPool::new(3, 8192).unwrap();
        let chunks: Vec<Bytes> = (0..3u8)
            .map(|fill| {
                let mut slot = pool.take().unwrap();
                slot.fill(fill);
                slot.freeze(8192).slice(0..8000).unwrap().into_bytes()
            })
            .collect();
        let slots: Vec<*const u8> = chunks.iter().map(|chunk| chunk.as_ptr()).collect();
        let mut body = sdk_body(&Body::new(chunks, Crc64::default())).into_inner();
        assert_eq!(body.content_length(), Some(24_000));
        let mut again = body.try_clone().unwrap();
        for slot in &slots {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((frame.as_ptr(), frame.len()), (*slot, 8000));
        }
        assert!(body.frame().await.is_none());
        assert_eq!(again.frame().await.unwrap().unwrap().into_data().unwrap().as_ptr(), slots[0]);
        assert_eq!(pool.available(), 0);
        drop((body, again));
        assert_eq!(pool.available(), 3);
    }

    #[test]
    fn an_empty_body_has_a_length_too() {
        assert_eq!(sdk_body(&Body::default()).into_inner().content_length(), Some(0));
    }
}
