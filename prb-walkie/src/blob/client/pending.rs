//! Requests that wait for their answer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::Error;
use crate::blob::frame::{self, Id};

type Answer = Result<Option<Bytes>, Error>;

/// A request that was written, or will be.
#[derive(Debug)]
pub(super) struct Asked {
    /// The largest blob that is taken.
    pub(super) max_bytes: usize,
    answer: oneshot::Sender<Answer>,
    /// Freed when the answer is here, not when nobody waits for it any more.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Asked {
    /// Whether nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    /// Gives the answer to whoever waits, if anybody still does.
    pub(super) fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

/// Requests by id, and those of them that are still to be written.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// There is a connection. Nothing is taken while there is none: it would wait for nobody.
    open: bool,
    /// By the first half of their ids; the second half is the tag.
    asked: Vec<Option<(u32, Asked)>>,
    free: Vec<u32>,
    /// The newest tag: a late or repeated answer must not meet another request.
    tag: u32,
    out: Vec<u8>,
}

impl Pending {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes requests from now on.
    pub(super) fn open(&self) {
        let mut state = self.state();
        state.open = true;
        state.out.clear();
    }

    /// Fails all, and takes no more.
    pub(super) fn fail(&self, error: &Error) {
        let failed = {
            let mut state = self.state();
            state.open = false;
            state.free.clear();
            std::mem::take(&mut state.asked)
        };
        failed.into_iter().flatten().for_each(|(_, asked)| asked.answer(Err(error.clone())));
    }

    /// Takes a request; `None` without a connection.
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
        let asked = Some((tag, Asked { max_bytes, answer, _slot: slot }));
        let index = match state.free.pop() {
            Some(index) => {
                state.asked[index as usize] = asked;
                index
            }
            None => {
                state.asked.push(asked);
                // There are as many as slots for requests at the most.
                (state.asked.len() - 1) as u32
            }
        };
        let nothing_before = state.out.is_empty();
        frame::put_request(join(index, tag), key, &mut state.out);
        drop(state);
        if nothing_before {
            written.notify_one();
        }
        Some(receiver)
    }

    /// Takes a request out, because its answer is coming.
    pub(super) fn take(&self, id: Id) -> Option<Asked> {
        let (index, tag) = split(id);
        let mut state = self.state();
        let slot = state.asked.get_mut(index as usize)?;
        let (_, asked) = slot.take_if(|(expected, _)| *expected == tag)?;
        state.free.push(index);
        Some(asked)
    }

    /// Gives what is to be written; `empty` takes its place.
    pub(super) fn written(&self, empty: Vec<u8>) -> Vec<u8> {
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
