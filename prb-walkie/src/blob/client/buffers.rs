//! A pool of large buffers: fresh memory is slow because of page faults on first use.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Most bytes of idle buffers in the pool.
const MAX_IDLE_BYTES: usize = 16 << 20;

/// The pool of idle buffers. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<IdleBuffers>>);

#[derive(Debug, Default)]
struct IdleBuffers {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    /// Returns an empty buffer of about this capacity: a holder of any slice keeps the whole buffer.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<u8>| (bytes..=bytes + bytes / 4).contains(&buffer.capacity());
        match idle.buffers.iter().rposition(fits) {
            Some(i) => {
                let buffer = idle.buffers.swap_remove(i);
                idle.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(bytes),
        }
    }

    /// Freezes the buffer; it returns to the pool when the last reference is dropped.
    pub(super) fn share(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(PooledBuffer { buffer, to: self.clone() })
    }

    fn put_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Evict the oldest ones, whose sizes are no longer in demand.
        while idle.bytes + buffer.capacity() > MAX_IDLE_BYTES && !idle.buffers.is_empty() {
            let oldest = idle.buffers.remove(0);
            idle.bytes -= oldest.capacity();
        }
        if buffer.capacity() <= MAX_IDLE_BYTES {
            idle.bytes += buffer.capacity();
            idle.buffers.push(buffer);
        }
    }
}

struct PooledBuffer {
    buffer: Vec<u8>,
    to: Buffers,
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.to.put_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_reuses_buffers_within_its_bound() {
        let buffers = Buffers::default();
        let mut first = buffers.take(1 << 20);
        first.resize(1 << 20, 7);
        let address = first.as_ptr();
        let shared = buffers.share(first);
        let part = shared.slice(5..10);
        drop(shared);
        assert_eq!(&part[..], [7; 5]);
        let other = buffers.take(1 << 20);
        assert_ne!(other.as_ptr(), address, "a slice of it is in use");
        drop(part);
        let again = buffers.take(900_000);
        assert_eq!(again.as_ptr(), address);
        for _ in 0..40 {
            let all: Vec<_> = (0..3).map(|_| buffers.share(buffers.take(1 << 20))).collect();
            drop(all);
            drop(buffers.share(buffers.take(3 << 20)));
        }
        assert!(buffers.0.lock().unwrap_or_else(PoisonError::into_inner).bytes <= MAX_IDLE_BYTES);
        drop(buffers.share(buffers.take(MAX_IDLE_BYTES + 1)));
        assert!(buffers.take(MAX_IDLE_BYTES + 1).capacity() > MAX_IDLE_BYTES, "too large to be idle");
    }
}
