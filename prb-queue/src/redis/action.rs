//! The original's actions and payloads, and ours beside them.
//!
//! A job that the original knows has its action and fields exactly; whatever else it needs stands in fields
//! that the original does not read: who signs in `data.prb`, the registration's version in the payload.
//! Calls that the original has no action for have actions of our own.

use codec::{Decode, Encode};
use prb_core::{
    chain::Call,
    primitives::{AccountId, Balance, PoolId, WorkerKey},
    queue::{Job, JobSigner},
    vault::Sealed,
    wire::{SignedMessage, WorkerEndpointPayload, WorkerRegistrationInfoV2},
};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// What is wrong with a job's data, in words for its submitter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadData(String);

fn bad(text: impl Into<String>) -> BadData {
    BadData(text.into())
}

/// `data` of a job.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Data {
    action: String,
    payload: Payload,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prb: Option<Ours>,
}

/// Ours: what a trader needs that has nothing but Redis and the identity key.
#[derive(Debug, Serialize, Deserialize)]
struct Ours {
    operator: AccountId,
    key: Sealed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxied: Option<AccountId>,
    /// The submitter's own name for the job: numbers begin anew where Redis loses its data.
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
    /// Ours: 2 for `register_worker_v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u8>,
    /// Ours: the registration that this one replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<u64>,
    /// Ours: SCALE `WorkerEndpointPayload`, and its signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    /// Ours: the calls of a mixed job.
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<Vec<Item>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    action: String,
    payload: Payload,
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Pid {
        Text(String),
        Number(u64),
        Other(IgnoredAny),
    }
    Ok(match Pid::deserialize(deserializer)? {
        Pid::Text(text) => text,
        Pid::Number(number) => number.to_string(),
        Pid::Other(_) => String::new(),
    })
}

const MESSAGES: &str = "BATCH_SYNC_MQ_MESSAGE";
const REGISTER: &str = "REGISTER_WORKER";
const ADD: &str = "ADD_WORKER";
const START: &str = "START_COMPUTING";
const RESTART: &str = "RESTART_COMPUTING";
const STOP: &str = "STOP_COMPUTING";
// Ours.
const REMOVE: &str = "REMOVE_WORKER";
const RECLAIM: &str = "RECLAIM_WORKER";
const ENDPOINT: &str = "UPDATE_WORKER_ENDPOINT";
const CALLS: &str = "CALLS";

/// A job as Redis is to hold it.
pub(super) struct Encoded {
    pub(super) action: &'static str,
    pub(super) data: Box<RawValue>,
}

/// Writes a job's `data`.
pub(super) fn encode(job: &Job, mark: String) -> Result<Encoded, serde_json::Error> {
    let JobSigner { operator, key, proxied } = job.signer.clone();
    let (action, payload) = of_calls(job);
    let prb = Some(Ours { operator, key, proxied, mark });
    let data = Data { action: action.into(), payload, prb };
    Ok(Encoded { action, data: serde_json::value::to_raw_value(&data)? })
}

fn hex_of(bytes: &[u8]) -> Option<String> {
    Some(format!("0x{}", hex::encode(bytes)))
}

fn of_calls(job: &Job) -> (&'static str, Payload) {
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
        let (action, payload) = of_call(call, job.pool);
        if payload.pid == pid {
            return (action, payload);
        }
    }
    let calls = job.calls.iter().map(|call| of_call(call, job.pool));
    let calls = calls.map(|(action, payload)| Item { action: action.into(), payload }).collect();
    (CALLS, Payload { pid, calls: Some(calls), ..Payload::default() })
}

fn of_call(call: &Call, pool: PoolId) -> (&'static str, Payload) {
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
        // `Call` may grow; whoever adds a variant adds its action: the test below goes over all of them.
        _ => (CALLS, Payload { pid: pool.to_string(), ..Payload::default() }),
    }
}

/// A job's `data`, read.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) action: String,
    pub(super) pool: PoolId,
    /// `None` where the submitter did not say.
    pub(super) signer: Option<JobSigner>,
    /// Its submitter's name for it.
    pub(super) mark: Option<String>,
    pub(super) calls: Vec<Call>,
}

/// Reads a job's `data`.
pub(super) fn decode(data: &RawValue) -> Result<Decoded, BadData> {
    let Data { action, payload, prb } = serde_json::from_str(data.get())
        .map_err(|e| bad(format!("the job's data is not what a trader knows: {e}")))?;
    let pool = payload.pool()?;
    let calls = payload.calls(&action)?;
    let (signer, mark) = match prb {
        Some(Ours { operator, key, proxied, mark }) => {
            (Some(JobSigner { operator, key, proxied }), Some(mark))
        }
        None => (None, None),
    };
    Ok(Decoded { action, pool, signer, mark, calls })
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
                        return Err(bad("the job's calls hold a list of calls"));
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
                let action: String = action.chars().take(64).collect();
                return Err(bad(format!("no trader of this version knows the action {action:?}")));
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

    /// A registration of the second version, whether or not its submitter says so.
    fn registration(&self) -> Result<Call, BadData> {
        let runtime_info = Self::bytes(self.runtime_info.as_ref(), "runtimeInfo")?;
        let attestation = Self::bytes(self.attestation.as_ref(), "attestation")?;
        if self.version == Some(2)
            && let Ok(worker) = self.worker()
        {
            return Ok(Call::RegisterWorker { worker, runtime_info, attestation, replaces: self.replaces });
        }
        let info: WorkerRegistrationInfoV2 = scale(&runtime_info, "runtimeInfo").map_err(|_| {
            bad("the job registers a worker with register_worker (version 1), which this trader does not \
                 send: its pRuntime and lifecycle manager are too old")
        })?;
        Ok(Call::RegisterWorker { worker: info.pubkey, runtime_info, attestation, replaces: self.replaces })
    }
}
