//! Handshakes of inbound connections that can be ended early, for which libp2p has no call.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::{
    FutureExt, TryFutureExt,
    future::{AbortHandle, Abortable, BoxFuture},
};
use libp2p::{
    Multiaddr, Transport, TransportError,
    core::transport::{DialOpts, ListenerId, PortUse, TransportEvent},
};

/// The handshakes in progress, by the remote address and port. Clones share them; the transport bounds their time.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Handshakes(Arc<Mutex<HashMap<Multiaddr, AbortHandle>>>);

impl Handshakes {
    fn lock(&self) -> MutexGuard<'_, HashMap<Multiaddr, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the handshake with that address, if it is in progress.
    pub(in crate::node) fn end(&self, remote: &Multiaddr) {
        if let Some(handshake) = self.lock().get(remote) {
            handshake.abort();
        }
    }

    /// Runs a handshake until it is done, or ended.
    fn run<F, T, E>(&self, remote: Multiaddr, handshake: F) -> BoxFuture<'static, Result<T, Error<E>>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let (handle, registration) = AbortHandle::new_pair();
        self.lock().insert(remote.clone(), handle);
        // Created here, so that it also removes the entry of a handshake that is never polled.
        let entry = Entry { all: self.clone(), remote };
        let run = async move {
            let _entry = entry;
            match Abortable::new(handshake, registration).await {
                Ok(done) => done.map_err(Error::Handshake),
                Err(_) => Err(Error::Ended),
            }
        };
        run.boxed()
    }
}

struct Entry {
    all: Handshakes,
    remote: Multiaddr,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.lock().remove(&self.remote);
    }
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error<E: std::error::Error> {
    #[error("another address's handshake took its place")]
    Ended,
    #[error(transparent)]
    Handshake(E),
}

/// A transport whose inbound handshakes are among [`Handshakes`], and whose outbound connections leave from free
/// ports.
///
/// libp2p by default lets them leave from the listening port, bound to all local addresses. That fails while another
/// program uses the port on any of them, however long that is; and nobody here needs it, since peers are dialled at
/// the addresses that they announce.
pub(super) struct Displaceable<T> {
    inner: T,
    handshakes: Handshakes,
}

impl<T> Displaceable<T> {
    pub(super) const fn new(inner: T, handshakes: Handshakes) -> Self {
        Self { inner, handshakes }
    }
}

impl<T> Transport for Displaceable<T>
where
    T: Transport + Unpin,
    T::Output: Send + 'static,
    T::Error: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
    T::Dial: Send + 'static,
{
    type Output = T::Output;
    type Error = Error<T::Error>;
    type ListenerUpgrade = BoxFuture<'static, Result<Self::Output, Self::Error>>;
    type Dial = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address).map_err(|e| e.map(Error::Handshake))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let options = DialOpts { port_use: PortUse::New, ..options };
        let dial = self.inner.dial(address, options).map_err(|e| e.map(Error::Handshake))?;
        Ok(dial.map_err(Error::Handshake).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let Self { inner, handshakes } = &mut *self;
        Pin::new(inner).poll(cx).map(|event| match event {
            TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                let upgrade = handshakes.run(send_back_addr.clone(), upgrade);
                TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr }
            }
            event => event
                .map_upgrade(|upgrade| upgrade.map_err(Error::Handshake).boxed())
                .map_err(Error::Handshake),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{future::ready, io};

    use super::*;

    #[tokio::test]
    async fn ended_handshakes_leave_nothing() {
        let all = Handshakes::default();
        let at = |host: u8| -> Multiaddr { format!("/ip4/192.0.2.{host}/tcp/1").parse().unwrap() };
        let endless = || std::future::pending::<io::Result<()>>();
        let done = all.run(at(1), ready(Ok::<_, io::Error>(())));
        let (ended, dropped) = (all.run(at(2), endless()), all.run(at(3), endless()));
        assert_eq!(all.lock().len(), 3);
        assert!(matches!(done.now_or_never(), Some(Ok(()))));
        all.end(&at(2));
        assert!(matches!(ended.now_or_never(), Some(Err(Error::Ended))));
        // One that was never polled.
        drop(dropped);
        assert!(all.lock().is_empty());
        all.end(&at(1));
    }
}
