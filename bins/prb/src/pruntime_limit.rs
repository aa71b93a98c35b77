//! Limits calls in flight to workers, as a decorator of any [`Connect`] (`PRPC_QUEUE_SIZE`,
//! `PRPC_SUBQUEUE_SIZE`).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    prpc::Method,
    pruntime::{Connect, ConnectError, Error, PRuntimeClient},
};
use tokio::sync::Semaphore;

/// Clients that share a limit, each with an additional limit of its own. Excess calls wait; the wait does not
/// count towards the call's timeout.
#[derive(Debug)]
pub struct Limited<C> {
    inner: C,
    all: Arc<Semaphore>,
    each: usize,
}

impl<C: Connect> Limited<C> {
    /// Allows at most `all` calls in flight together, and `each` to one worker.
    pub fn new(inner: C, all: u32, each: u32) -> Self {
        Self { inner, all: Arc::new(Semaphore::new(all as usize)), each: each as usize }
    }
}

impl<C: Connect> Connect for Limited<C> {
    fn connect(&self, endpoint: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
        let inner = self.inner.connect(endpoint)?;
        Ok(Arc::new(LimitedClient { inner, all: Arc::clone(&self.all), own: Semaphore::new(self.each) }))
    }
}

#[derive(Debug)]
struct LimitedClient {
    inner: Arc<dyn PRuntimeClient>,
    all: Arc<Semaphore>,
    own: Semaphore,
}

#[async_trait]
impl PRuntimeClient for LimitedClient {
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        // Cannot fail: neither semaphore is ever closed. The worker's own permit is acquired first, so that a call
        // waiting for it holds no shared permit.
        let _own = self.own.acquire().await;
        let _all = self.all.acquire().await;
        self.inner.call(method, body).await
    }

    async fn kick(&self) -> Result<(), Error> {
        self.inner.kick().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    /// Counts concurrent calls and their maximum, by worker and in total.
    #[derive(Clone, Debug, Default)]
    struct Counting {
        all: Arc<[AtomicUsize; 2]>,
        own: Arc<[AtomicUsize; 2]>,
    }

    impl Connect for Counting {
        fn connect(&self, _: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
            Ok(Arc::new(Self { all: Arc::clone(&self.all), own: Arc::default() }))
        }
    }

    #[async_trait]
    impl PRuntimeClient for Counting {
        async fn call(&self, _: Method, _: Bytes) -> Result<Bytes, Error> {
            for [now, most] in [&*self.all, &*self.own] {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            }
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(self.own[1].load(Ordering::SeqCst) <= 2, "more than two at one worker");
            for [now, _] in [&*self.all, &*self.own] {
                now.fetch_sub(1, Ordering::SeqCst);
            }
            Ok(Bytes::new())
        }

        async fn kick(&self) -> Result<(), Error> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn both_limits_are_enforced_and_reached() {
        let counting = Counting::default();
        let limited = Limited::new(counting.clone(), 5, 2);
        let mut calls = JoinSet::new();
        for worker in 0..4 {
            let client = limited.connect(&format!("http://w{worker}")).unwrap();
            for _ in 0..6 {
                let client = Arc::clone(&client);
                calls.spawn(async move { client.call(Method::GetInfo, Bytes::new()).await.unwrap() });
            }
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
        assert_eq!(counting.all[1].load(Ordering::SeqCst), 5);
    }
}
