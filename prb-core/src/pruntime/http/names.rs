//! Looks up the names of workers, a bounded number at a time.
//!
//! The system's lookup holds a thread of the runtime, and goes on after its request has timed out. With a name server that
//! does not answer, a fleet would take all of these threads, which everything else waits for.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

/// Lookups at a time: half of the 512 threads that tokio has for blocking work.
const MAX_LOOKUPS: usize = 256;

type Lookup = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Looks names up by the system.
#[derive(Debug)]
pub(super) struct Names {
    lookup: Lookup,
    free: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            // The client sets the port.
            lookup: |name| (name, 0).to_socket_addrs().map(Iterator::collect),
            free: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, free) = (self.lookup, Arc::clone(&self.free));
        Box::pin(async move {
            let permit = free.acquire_owned().await?;
            // Kept until the lookup ends, however long its request waits for it.
            let looked_up = tokio::task::spawn_blocking(move || (lookup(name.as_str()), permit).0);
            let found: Addrs = Box::new(looked_up.await??.into_iter());
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        sync::{Condvar, Mutex},
        time::Duration,
    };

    use futures::future::join_all;
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    /// Whether the name server does not answer.
    static IS_SILENT: Mutex<bool> = Mutex::new(true);
    static ANSWERS: Condvar = Condvar::new();

    fn lookup(_: &str) -> io::Result<Vec<SocketAddr>> {
        drop(ANSWERS.wait_while(IS_SILENT.lock().unwrap(), |silent| *silent).unwrap());
        Ok(vec![([192, 0, 2, 1], 0).into()])
    }

    #[tokio::test]
    async fn lookups_without_an_answer_leave_threads_to_others() {
        let names = Names { lookup, ..Names::default() };
        let lookups = (0..600).map(|n| names.resolve(format!("w{n}.example").parse().unwrap()));
        let given_up = timeout(Duration::from_millis(100), join_all(lookups)).await;
        assert!(given_up.is_err());
        let other = timeout(LIMIT, tokio::task::spawn_blocking(|| 7)).await;
        // Before it is checked: the runtime ends only with its threads.
        *IS_SILENT.lock().unwrap() = false;
        ANSWERS.notify_all();
        assert_eq!(other.unwrap().unwrap(), 7);
        let found = timeout(LIMIT, names.resolve("w.example".parse().unwrap())).await.unwrap().unwrap();
        assert_eq!(found.count(), 1);
    }
}
