//! Byte budgets: the batch size of one worker, and a bound over all workers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A semaphore counts in 32 bits: a unit of 1 KiB lets it count terabytes.
pub(super) const UNIT_BYTES: usize = 1024;

/// A bound on the bytes in flight to all workers together. Clones share it.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    units: Arc<Semaphore>,
    all: u32,
}

impl ByteBudget {
    /// Creates a budget of `max_bytes`, rounded up to whole KiB.
    pub fn new(max_bytes: usize) -> Self {
        let all = units(max_bytes).max(1);
        Self { units: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits until `bytes` are free, then holds them. A request for more than the budget holds all of it.
    ///
    /// # Cancel safety
    /// Safe; a cancelled call loses its place in the queue.
    pub async fn hold(&self, bytes: usize) -> ByteLease {
        let wanted = units(bytes).min(self.all);
        // The semaphore is never closed, so acquiring cannot fail.
        ByteLease(Arc::clone(&self.units).acquire_many_owned(wanted).await.ok())
    }

    /// Bytes that are currently free.
    pub fn free_bytes(&self) -> usize {
        self.units.available_permits() * UNIT_BYTES
    }
}

/// Bytes held from a [`ByteBudget`]; released when dropped.
#[derive(Debug)]
pub struct ByteLease(Option<OwnedSemaphorePermit>);

impl ByteLease {
    /// Releases everything beyond `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.0 {
            let surplus = permit.num_permits().saturating_sub(units(bytes) as usize);
            drop(permit.split(surplus));
        }
    }
}

pub(super) fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The adaptive batch size of a worker: halved when batches prove too large or too slow, doubled after
/// several successes.
///
/// Always a power of two, so that workers at the same cursor request the same size and share the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    now: usize,
    max: usize,
    successes: u32,
}

impl BatchSize {
    /// The lower bound, in bytes.
    pub const MIN_BYTES: usize = 16 * 1024;
    /// Successful batches before the size is doubled.
    const SUCCESSES: u32 = 8;

    /// Starts at `max_bytes` (rounded down to a power of two) and never exceeds it, unless a single item is
    /// larger.
    pub fn new(max_bytes: usize) -> Self {
        // At most 1 GiB, far above pRuntime's limits: doubling can then not overflow.
        let max = (1 << max_bytes.max(Self::MIN_BYTES).ilog2()).min(1 << 30);
        Self { now: max, max, successes: 0 }
    }

    /// The size to request, in bytes.
    pub const fn bytes(&self) -> usize {
        self.now
    }

    /// Records that a batch was too large, or took too long.
    pub fn halve(&mut self) {
        self.successes = 0;
        self.now = (self.now / 2).max(Self::MIN_BYTES).min(self.now);
    }

    /// Records a success.
    pub fn succeeded(&mut self) {
        // It was raised for a single large item.
        if self.now > self.max {
            self.now = self.max;
        } else if self.now < self.max {
            self.successes += 1;
            if self.successes >= Self::SUCCESSES {
                self.successes = 0;
                self.now *= 2;
            }
        }
    }

    /// Raises the size to fit the smallest batch, of `size_bytes`, if that is within pRuntime's
    /// `limit_bytes`. Returns whether it was raised.
    pub fn grow_to_fit(&mut self, size_bytes: usize, limit_bytes: usize) -> bool {
        if size_bytes > limit_bytes || size_bytes <= self.now {
            return false;
        }
        // Above `max` for this one item: the next success lowers it again.
        self.now = size_bytes.next_power_of_two().min(limit_bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_budget_is_never_exceeded_and_given_back() {
        let budget = ByteBudget::new(10 * 1024);
        let mut first = budget.hold(8 * 1024).await;
        assert_eq!(budget.free_bytes(), 2 * 1024);
        let second = budget.hold(4 * 1024);
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        first.shrink(6 * 1024);
        let second = second.await;
        assert_eq!(budget.free_bytes(), 0);
        drop((first, second));
        // More than there ever is holds all of it, and does not wait forever.
        let all = budget.hold(1 << 30).await;
        assert_eq!(budget.free_bytes(), 0);
        drop(all);
        assert_eq!(budget.free_bytes(), 10 * 1024);
    }

    #[test]
    fn batch_sizes_fall_fast_and_rise_slowly() {
        const MIB: usize = 1024 * 1024;
        let mut size = BatchSize::new(MIB + 5);
        assert_eq!(size.bytes(), MIB);
        size.halve();
        assert_eq!(size.bytes(), MIB / 2);
        for _ in 0..100 {
            size.halve();
        }
        assert_eq!(size.bytes(), BatchSize::MIN_BYTES);
        assert!(size.grow_to_fit(5 * MIB, 100 * MIB));
        assert_eq!(size.bytes(), 8 * MIB, "one block may need more than the maximum");
        assert!(!size.grow_to_fit(101 * MIB, 100 * MIB));
        size.succeeded();
        assert_eq!(size.bytes(), MIB);
        size.halve();
        for _ in 0..7 {
            size.succeeded();
        }
        assert_eq!(size.bytes(), MIB / 2);
        for _ in 0..100 {
            size.succeeded();
        }
        assert_eq!(size.bytes(), MIB);
    }
}
