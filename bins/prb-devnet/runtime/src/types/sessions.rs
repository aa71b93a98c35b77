//! Sessions of workers.

use codec::{Decode, DecodeWithMemTracking, Encode};
use scale_info::TypeInfo;
use sp_core::crypto::AccountId32;

use super::{AccountId, WorkerPublicKey};

/// A session's state.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkerState {
    /// Bound, not computing.
    #[codec(index = 0)]
    Ready,
    /// Computing.
    #[codec(index = 1)]
    WorkerIdle,
    /// Not in use.
    #[codec(index = 2)]
    _Unused,
    /// Computing, without heartbeats.
    #[codec(index = 3)]
    WorkerUnresponsive,
    /// Stopped; the stake is not free yet.
    #[codec(index = 4)]
    WorkerCoolingDown,
}

impl WorkerState {
    /// Whether the session is computing.
    #[must_use]
    pub fn is_computing(self) -> bool {
        matches!(self, Self::WorkerIdle | Self::WorkerUnresponsive)
    }
}

/// A session's performance.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug, Default)]
pub struct Benchmark {
    /// At its start.
    pub p_init: u32,
    /// By its last heartbeat.
    pub p_instant: u32,
    /// By its last heartbeat.
    pub iterations: u64,
    /// Chain time of its start, seconds.
    pub working_start_time: u64,
    /// Chain time of the last challenge answered, seconds.
    pub challenge_time_last: u64,
}

/// A session's earnings.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionStats {
    /// Total reward, with 12 decimals.
    pub total_reward: u128,
}

/// A worker's session.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// Its state.
    pub state: WorkerState,
    /// V at the start, U64F64 bits.
    pub ve: u128,
    /// V, U64F64 bits.
    pub v: u128,
    /// Chain time of V's last update, seconds.
    pub v_updated_at: u64,
    /// Performance.
    pub benchmark: Benchmark,
    /// Chain time when it stopped, seconds.
    pub cool_down_start: u64,
    /// Earnings.
    pub stats: SessionStats,
}

/// Derives a session's account from its pool and worker: the first 32 bytes of
/// `SCALE(("spm/", blake2-256(SCALE((pid, worker)))))`.
#[must_use]
pub fn session_account(pid: u64, worker: &WorkerPublicKey) -> AccountId {
    let hash = sp_io::hashing::blake2_256(&(pid, worker).encode());
    let mut bytes = (*b"spm/", hash).encode();
    bytes.resize(32, 0);
    let mut account = [0u8; 32];
    account.copy_from_slice(&bytes);
    AccountId32::new(account)
}
