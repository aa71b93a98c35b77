//! Encoding of jobs as the original's actions and payloads.
//!
//! A job that the original knows has exactly its action and fields. Additional data is in fields that the
//! original ignores: the signer in `data.prb`, the registration's version in the payload. Calls without an
//! action in the original have actions of their own.

use codec::{Decode, Encode};
use prb_core::{
    chain::Call,
    primitives::{AccountId, Balance, PoolId, WorkerKey},
    queue::{Job, JobSigner, admin::kinds},
    text::shorten,
    vault::Sealed,
    wire::{
        Attestation, SignedMessage, WorkerEndpointPayload, WorkerRegistrationInfo, WorkerRegistrationInfoV2,
    },
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};

use super::record::Record;

/// Describes what is wrong with a job's data; shown to its submitter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadData(String);

fn bad(text: impl Into<String>) -> BadData {
    BadData(text.into())
}

/// The `data` field of a job.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Data {
    action: String,
    payload: Payload,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prb: Option<Extension>,
}

/// Extension: what a trader needs that has only Redis and the identity key.
#[derive(Debug, Serialize, Deserialize)]
struct Extension {
    operator: AccountId,
    key: Sealed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxied: Option<AccountId>,
    /// The submitter's own id for the job: Redis restarts its job numbers when it loses its data.
    mark: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Payload {
    #[serde(deserialize_with = "text_or_number")]
    pid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stake: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_info: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation: Option<String>,
    /// Extension: 2 for `register_worker_v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u8>,
    /// Extension: the registration that this one replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<u64>,
    /// Extension: the SCALE-encoded `WorkerEndpointPayload`, and its signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    /// Extension: the calls of a mixed job.
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<Vec<Item>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    action: String,
    payload: Payload,
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    // The original writes text; other producers in JavaScript may pass a number. Anything else becomes a text that
    // is no number, so that the job is refused by name instead of as undecodable.
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Number(number) if number.is_u64() => number.to_string(),
        _ => String::new(),
    })
}

pub(super) const MESSAGES: &str = "BATCH_SYNC_MQ_MESSAGE";
const REGISTER: &str = "REGISTER_WORKER";
const ADD: &str = "ADD_WORKER";
const START: &str = "START_COMPUTING";
const RESTART: &str = "RESTART_COMPUTING";
const STOP: &str = "STOP_COMPUTING";
// Extensions.
const REMOVE: &str = "REMOVE_WORKER";
const RECLAIM: &str = "RECLAIM_WORKER";
const ENDPOINT: &str = "UPDATE_WORKER_ENDPOINT";
const CALLS: &str = "CALLS";

/// A job encoded for Redis.
pub(super) struct Encoded {
    pub(super) action: &'static str,
    pub(super) data: Box<RawValue>,
}

/// Encodes a job's `data`.
pub(super) fn encode(job: &Job, mark: String) -> Result<Encoded, serde_json::Error> {
    let JobSigner { operator, key, proxied } = job.signer.clone();
    let (action, payload) = encode_calls(job);
    let prb = Some(Extension { operator, key, proxied, mark });
    let data = Data { action: action.into(), payload, prb };
    Ok(Encoded { action, data: serde_json::value::to_raw_value(&data)? })
}

fn hex_of(bytes: &[u8]) -> Option<String> {
    Some(format!("0x{}", hex::encode(bytes)))
}

fn encode_calls(job: &Job) -> (&'static str, Payload) {
    let pid = job.pool.to_string();
    let messages: Option<Vec<_>> = job
        .calls
        .iter()
        .map(|call| match call {
            Call::SyncOffchainMessage(message) => hex_of(&message.encode()),
            _ => None,
        })
        .collect();
    if messages.is_some() {
        return (MESSAGES, Payload { pid, messages, ..Payload::default() });
    }
    if let [call] = &job.calls[..] {
        // A single call is encoded as the original does, which knows no lists.
        let (action, payload) = encode_call(call, job.pool);
        // A payload has room for one pool: a call for another pool than the job's needs the list, which has
        // both.
        if payload.pid == pid {
            return (action, payload);
        }
    }
    let calls = job.calls.iter().map(|call| encode_call(call, job.pool));
    let calls = calls.map(|(action, payload)| Item { action: action.into(), payload }).collect();
    (CALLS, Payload { pid, calls: Some(calls), ..Payload::default() })
}

fn encode_call(call: &Call, pool: PoolId) -> (&'static str, Payload) {
    let of = |pool: PoolId, worker: &WorkerKey| Payload {
        pid: pool.to_string(),
        public_key: hex_of(&worker.0),
        ..Payload::default()
    };
    let staked =
        |pool, worker, stake: Balance| Payload { stake: Some(stake.to_string()), ..of(pool, worker) };
    match call {
        Call::SyncOffchainMessage(message) => {
            let messages = hex_of(&message.encode()).map(|message| vec![message]);
            (MESSAGES, Payload { pid: pool.to_string(), messages, ..Payload::default() })
        }
        Call::RegisterWorker { worker, runtime_info, attestation, replaces } => {
            let (runtime_info, attestation) = (hex_of(runtime_info), hex_of(attestation));
            let (version, replaces) = (Some(2), *replaces);
            (REGISTER, Payload { runtime_info, attestation, version, replaces, ..of(pool, worker) })
        }
        Call::RegisterWorkerV1 { worker, runtime_info, attestation, replaces } => {
            let (runtime_info, attestation) = (hex_of(runtime_info), hex_of(attestation));
            (REGISTER, Payload { runtime_info, attestation, replaces: *replaces, ..of(pool, worker) })
        }
        Call::UpdateWorkerEndpoint { payload, signature } => {
            let (endpoint, signature) = (hex_of(&payload.encode()), hex_of(signature));
            (ENDPOINT, Payload { endpoint, signature, ..of(pool, &payload.pubkey) })
        }
        Call::AddWorker { pool, worker } => (ADD, of(*pool, worker)),
        Call::RemoveWorker { pool, worker } => (REMOVE, of(*pool, worker)),
        Call::StartComputing { pool, worker, stake } => (START, staked(*pool, worker, *stake)),
        Call::RestartComputing { pool, worker, stake } => (RESTART, staked(*pool, worker, *stake)),
        Call::StopComputing { pool, worker } => (STOP, of(*pool, worker)),
        Call::ReclaimWorker { pool, worker } => (RECLAIM, of(*pool, worker)),
        // `Call` is non-exhaustive. A new variant needs an action here; the test below covers all variants.
        _ => (CALLS, Payload { pid: pool.to_string(), ..Payload::default() }),
    }
}

/// A decoded job's `data`.
#[derive(Debug)]
pub(super) struct Decoded {
    /// For display: of a mixed job, the actions of its calls.
    pub(super) action: String,
    pub(super) pool: PoolId,
    /// `None` if the submitter did not name one.
    pub(super) signer: Option<JobSigner>,
    /// The submitter's own id for the job.
    pub(super) mark: Option<String>,
    pub(super) calls: Vec<Call>,
}

/// Decodes a job's `data`.
pub(super) fn decode(data: &RawValue) -> Result<Decoded, BadData> {
    let Data { action, payload, prb } = serde_json::from_str(data.get())
        .map_err(|e| bad(format!("the job's data is not in a known format: {e}")))?;
    let pool = payload.pool()?;
    let calls = payload.calls(&action)?;
    // `CALLS` says nothing to an operator: the actions of its calls are shown instead.
    let action = match &payload.calls {
        Some(items) if action == CALLS => kinds(items.iter().map(|item| item.action.as_str())),
        _ => action,
    };
    let (signer, mark) = match prb {
        Some(Extension { operator, key, proxied, mark }) => {
            (Some(JobSigner { operator, key, proxied }), Some(mark))
        }
        None => (None, None),
    };
    Ok(Decoded { action, pool, signer, mark, calls })
}

/// Reads a job as a consumer does; `None` if it is refused or names no signer. For the fuzz target of jobs.
#[doc(hidden)]
pub fn read_job(json: &[u8]) -> Option<Job> {
    let record = Record::read(json).ok()?;
    let Decoded { pool, signer, calls, .. } = decode(&record.data).ok()?;
    let job = Job { pool, signer: signer?, calls, retries: record.tail.retries() };
    // What the next consumer finds once this one has written the job's end.
    let written = record.write(&record.tail).ok()?;
    assert!(Record::read(written.as_bytes()).is_ok(), "{written}");
    job.check().ok().map(|()| job)
}

/// Writes a job as a submitter does. For the fuzz target of jobs.
///
/// # Panics
/// If it cannot be encoded.
#[doc(hidden)]
#[expect(clippy::expect_used, reason = "a violation is what the target looks for")]
pub fn write_job(job: &Job) -> Vec<u8> {
    let encoded = encode(job, "mark".into()).expect("a valid job is encoded");
    let record = Record::new(encoded.data, job.retries, 0).expect("a record");
    record.write(&record.tail).expect("a record is written").into_bytes()
}

fn bytes_of(text: &str, field: &str) -> Result<Vec<u8>, BadData> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text))
        .map_err(|_| bad(format!("the job's {field} is not hexadecimal")))
}

fn scale<T: Decode>(bytes: &[u8], field: &str) -> Result<T, BadData> {
    let mut rest = bytes;
    match T::decode(&mut rest) {
        Ok(value) if rest.is_empty() => Ok(value),
        _ => Err(bad(format!("the job's {field} cannot be decoded"))),
    }
}

impl Payload {
    fn pool(&self) -> Result<PoolId, BadData> {
        self.pid.parse().map(PoolId).map_err(|_| bad("the job's pid is not a number"))
    }

    fn field<'a>(value: Option<&'a String>, name: &str) -> Result<&'a str, BadData> {
        value.map(String::as_str).ok_or_else(|| bad(format!("the job has no {name}")))
    }

    fn bytes(value: Option<&String>, name: &str) -> Result<Vec<u8>, BadData> {
        bytes_of(Self::field(value, name)?, name)
    }

    fn worker(&self) -> Result<WorkerKey, BadData> {
        let key = Self::field(self.public_key.as_ref(), "publicKey")?;
        key.parse().map_err(|_| bad("the job's publicKey is not 64 hexadecimal digits"))
    }

    fn stake(&self) -> Result<Balance, BadData> {
        let stake = Self::field(self.stake.as_ref(), "stake")?;
        stake.parse().map_err(|_| bad("the job's stake is not a number"))
    }

    fn calls(&self, action: &str) -> Result<Vec<Call>, BadData> {
        let call = match action {
            MESSAGES => return self.synced_messages(),
            CALLS => {
                let items = self.calls.as_ref().ok_or_else(|| bad("the job has no calls"))?;
                let mut calls = Vec::new();
                for Item { action, payload } in items {
                    if action == CALLS {
                        return Err(bad("the job's list of calls contains another list"));
                    }
                    calls.extend(payload.calls(action)?);
                }
                return Ok(calls);
            }
            REGISTER => self.registration()?,
            ADD => Call::AddWorker { pool: self.pool()?, worker: self.worker()? },
            REMOVE => Call::RemoveWorker { pool: self.pool()?, worker: self.worker()? },
            START => {
                Call::StartComputing { pool: self.pool()?, worker: self.worker()?, stake: self.stake()? }
            }
            RESTART => {
                Call::RestartComputing { pool: self.pool()?, worker: self.worker()?, stake: self.stake()? }
            }
            STOP => Call::StopComputing { pool: self.pool()?, worker: self.worker()? },
            RECLAIM => Call::ReclaimWorker { pool: self.pool()?, worker: self.worker()? },
            ENDPOINT => {
                let payload = Self::bytes(self.endpoint.as_ref(), "endpoint")?;
                let payload: WorkerEndpointPayload = scale(&payload, "endpoint")?;
                let signature = Self::bytes(self.signature.as_ref(), "signature")?;
                Call::UpdateWorkerEndpoint { payload, signature }
            }
            _ => {
                let action = shorten(action, 64);
                return Err(bad(format!("this version does not know the action {action:?}")));
            }
        };
        Ok(vec![call])
    }

    fn synced_messages(&self) -> Result<Vec<Call>, BadData> {
        let messages = self.messages.as_ref().ok_or_else(|| bad("the job has no messages"))?;
        let read = |text: &String| {
            let message: SignedMessage = scale(&bytes_of(text, "message")?, "message")?;
            Ok(Call::SyncOffchainMessage(message))
        };
        messages.iter().map(read).collect()
    }

    /// Decodes a registration of either version. The original's payload does not name the version. The worker's
    /// registration info tells it: version 2 appends fields, so version 1 data does not decode as version 2.
    fn registration(&self) -> Result<Call, BadData> {
        let runtime_info = Self::bytes(self.runtime_info.as_ref(), "runtimeInfo")?;
        let attestation = Self::bytes(self.attestation.as_ref(), "attestation")?;
        let replaces = self.replaces;
        if self.version == Some(2)
            && let Ok(worker) = self.worker()
        {
            return Ok(Call::RegisterWorker { worker, runtime_info, attestation, replaces });
        }
        if let Ok(info) = scale::<WorkerRegistrationInfoV2>(&runtime_info, "runtimeInfo") {
            return Ok(Call::RegisterWorker { worker: info.pubkey, runtime_info, attestation, replaces });
        }
        let info: WorkerRegistrationInfo = scale(&runtime_info, "runtimeInfo")?;
        scale::<Attestation>(&attestation, "attestation")?;
        Ok(Call::RegisterWorkerV1 { worker: info.pubkey, runtime_info, attestation, replaces })
    }
}

#[cfg(test)]
mod tests;
