//! Registry of requests in flight.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::Error;
use crate::blob::frame::{self, Id};

type Answer = Result<Option<Bytes>, Error>;

/// A request in flight or about to be written.
#[derive(Debug)]
pub(super) struct PendingRequest {
    /// The largest blob that is accepted.
    pub(super) max_bytes: usize,
    answer: oneshot::Sender<Answer>,
    /// Released when the answer arrives, even if nobody waits for it any more.
    _slot: Option<OwnedSemaphorePermit>,
}

impl PendingRequest {
    /// Whether the requester has left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    /// Passes the answer to the requester, if it still waits.
    pub(super) fn deliver(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

/// Requests by id, and the encoded requests that are still to be written.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether there is a connection. Without one no request is accepted: it would wait in vain.
    open: bool,
    /// Slots, indexed by the first half of a request's id; the second half is the tag.
    asked: Vec<Option<(u32, PendingRequest)>>,
    free: Vec<u32>,
    /// The newest tag: a late or repeated answer must not match a later request in the same slot.
    tag: u32,
    out: Vec<u8>,
}

impl Pending {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts requests from now on.
    pub(super) fn open(&self) {
        let mut state = self.state();
        state.open = true;
        // What the previous connection did not write belongs to requests that have failed.
        state.out.clear();
    }

    /// Fails all requests and accepts no more.
    pub(super) fn fail(&self, error: &Error) {
        let failed = {
            let mut state = self.state();
            state.open = false;
            state.free.clear();
            std::mem::take(&mut state.asked)
        };
        // Without the lock, because a requester may ask again at once.
        failed.into_iter().flatten().for_each(|(_, request)| request.deliver(Err(error.clone())));
    }

    /// Registers a request; `None` if there is no connection.
    pub(super) fn ask(
        &self,
        key: &str,
        max_bytes: usize,
        slot: Option<OwnedSemaphorePermit>,
        written: &Notify,
    ) -> Option<oneshot::Receiver<Answer>> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        if !state.open {
            return None;
        }
        state.tag = state.tag.wrapping_add(1);
        let tag = state.tag;
        let asked = Some((tag, PendingRequest { max_bytes, answer, _slot: slot }));
        let index = match state.free.pop() {
            Some(index) => {
                state.asked[index as usize] = asked;
                index
            }
            None => {
                state.asked.push(asked);
                // At most as many slots as requests in flight.
                (state.asked.len() - 1) as u32
            }
        };
        // The writer takes all that is queued, so it needs one notification per batch only.
        let nothing_before = state.out.is_empty();
        frame::put_request(join(index, tag), key, &mut state.out);
        drop(state);
        if nothing_before {
            written.notify_one();
        }
        Some(receiver)
    }

    /// Removes the request of an arriving answer.
    pub(super) fn take(&self, id: Id) -> Option<PendingRequest> {
        let (index, tag) = split(id);
        let mut state = self.state();
        // The id comes from the wire: it may be any number.
        let slot = state.asked.get_mut(index as usize)?;
        let (_, asked) = slot.take_if(|(expected, _)| *expected == tag)?;
        state.free.push(index);
        Some(asked)
    }

    /// Returns the bytes to write and replaces them with the buffer `empty`.
    pub(super) fn take_unwritten(&self, empty: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.state().out, empty)
    }
}

fn join(index: u32, tag: u32) -> Id {
    ((u64::from(index) << 32) | u64::from(tag)).to_be_bytes()
}

const fn split(id: Id) -> (u32, u32) {
    let id = u64::from_be_bytes(id);
    ((id >> 32) as u32, id as u32)
}
