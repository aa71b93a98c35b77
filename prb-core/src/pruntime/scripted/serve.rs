//! Answers the calls to a scripted worker.

use bytes::Bytes;
use codec::Encode;
use prost::Message;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Dispatching, Failure, Inner, ScriptedWorker, Syncing, WorkerState,
    identity::{self, Identity},
    is_sync,
    rules::{self, Refusal, busy, refusal},
    script::{CALLER_TIMEOUT, Script},
};
use crate::{
    prpc::{self, Method},
    pruntime::Error,
};

impl ScriptedWorker {
    pub(super) async fn serve(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let (failure, latency) = self.record_call(method, body.len());
        let _syncing = is_sync(method).then(|| Syncing(self));
        if let Some(latency) = latency {
            sleep(latency).await;
        }
        let timed_out = Error::TimedOut { method: method.name(), limit: CALLER_TIMEOUT };
        match failure {
            None => self.answer(method, body).await,
            Some(Failure::Refuse { status, message }) => {
                Err(Error::Refused { method: method.name(), status, message })
            }
            Some(Failure::Unreachable) => Err(self.unreachable(false)),
            Some(Failure::TimedOut) => Err(timed_out),
            Some(Failure::AnswerLost) => {
                self.answer(method, body).await?;
                Err(timed_out)
            }
            Some(Failure::Hang) => std::future::pending().await,
        }
    }

    async fn answer(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let done = match method {
            Method::DispatchBlocks => self.dispatch(body).await,
            Method::GetRuntimeInfo => self.runtime_info(body).await,
            _ => self.answer_immediately(method, body),
        };
        done.map(Bytes::from).map_err(|(status, message)| Error::Refused {
            method: method.name(),
            status,
            message,
        })
    }

    /// Answers calls that take no time.
    fn answer_immediately(&self, method: Method, body: Bytes) -> Result<Vec<u8>, Refusal> {
        let mut inner = self.lock();
        if inner.dispatching.is_some() && changes_state(method) {
            return Err(busy());
        }
        let stuck = inner.script.stuck && is_sync(method);
        let Inner { state, checkpoint, script, .. } = &mut *inner;
        let mut scratch = stuck.then(|| state.clone());
        // Changes made by a stuck worker are discarded.
        let target = scratch.as_mut().unwrap_or(state);
        match method {
            Method::GetInfo => Ok(state.info.encode_to_vec()),
            Method::InitRuntime => {
                self.identity.init(state, body)?;
                Ok(self.registration(state, script).encode_to_vec())
            }
            Method::SyncHeader => Ok(rules::sync_header(target, body)?.encode_to_vec()),
            Method::SyncParaHeader => Ok(rules::sync_para_header(target, body)?.encode_to_vec()),
            Method::SyncCombinedHeaders => Ok(rules::sync_combined(target, body)?.encode_to_vec()),
            Method::LoadChainState => rules::load_chain_state(state, body).map(|()| Vec::new()),
            Method::GetEgressMessages => {
                Ok(prpc::EgressMessages { encoded_messages: self.identity.egress(state).encode() }
                    .encode_to_vec())
            }
            Method::SignEndpointInfo => Ok(self.identity.sign_endpoints(state, body)?.encode_to_vec()),
            Method::TakeCheckpoint => {
                let to = rules::dispatched_to(state)?;
                *checkpoint = Some(state.clone());
                Ok(to.encode_to_vec())
            }
            Method::Echo => Ok(rules::decode::<prpc::EchoMessage>(body)?.encode_to_vec()),
            _ => Err(refusal(404, "not scripted")),
        }
    }

    /// Answers once the blocks are dispatched. They are dispatched even if no caller waits.
    async fn dispatch(&self, body: Bytes) -> Result<Vec<u8>, Refusal> {
        let (until, crashes, result) = {
            let mut inner = self.lock();
            if inner.dispatching.is_some() {
                return Err(busy());
            }
            let until = Instant::now() + inner.script.timings.dispatch(body.len());
            let before = inner.state.info.blocknum;
            let (next_block, result) = rules::dispatch(&inner.state, body);
            let crashes = inner.script.crashes_at.is_some_and(|at| (before..next_block).contains(&at));
            // A stuck worker still answers as if it had dispatched nothing new.
            let next_block = if inner.script.stuck { before } else { next_block };
            if next_block > before || crashes {
                inner.dispatching = Some(Dispatching { until, next_block, crashes });
            }
            let to = prpc::SyncedTo { synced_to: next_block.wrapping_sub(1) };
            (until, crashes, result.map(|()| to.encode_to_vec()))
        };
        if until > Instant::now() {
            sleep_until(until).await;
        }
        // Taking the lock applies a dispatch that is due (see `Inner::apply_dispatch`).
        drop(self.lock());
        if crashes {
            // Pending until the exit breaks the connection (see `exit_signal`).
            std::future::pending::<()>().await;
        }
        result
    }

    async fn runtime_info(&self, body: Bytes) -> Result<Vec<u8>, Refusal> {
        let finished = {
            let mut inner = self.lock();
            let duration = inner.script.timings.attestation;
            Identity::attest(&mut inner.state, body, duration)?
        };
        if let Some(finished) = finished {
            sleep_until(finished).await;
        }
        let mut inner = self.lock();
        let Inner { state, script, .. } = &mut *inner;
        Ok(self.registration(state, script).encode_to_vec())
    }

    fn registration(&self, state: &WorkerState, script: &mut Script) -> prpc::InitRuntimeResponse {
        let mut info = self.identity.registration(state);
        if let Some(alter) = &mut script.alter_registration {
            alter(&mut info);
        }
        identity::response(state, &info)
    }
}

/// Whether a dispatch in progress blocks the call: it works on a copy of the state.
const fn changes_state(method: Method) -> bool {
    is_sync(method) || matches!(method, Method::InitRuntime | Method::LoadChainState)
}
