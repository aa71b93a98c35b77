//! Messages of the package `prb.db`: values that the original stores, and sends unchanged.

use bytes::Bytes;
use prost::Message;

use super::{
    FullAccount,
    detail::{PoolSettings, WorkerSettings},
};

/// Value of `genesis:{paraId}:pb`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Genesis {
    /// The parachain's id.
    #[prost(uint32, tag = "1")]
    pub para_id: u32,
    /// The parachain block that workers start after.
    #[prost(uint32, tag = "2")]
    pub para_number: u32,
    /// The relay block that workers start after.
    #[prost(uint32, tag = "3")]
    pub parent_number: u32,
    /// SCALE `GenesisBlockInfo`.
    #[prost(bytes = "bytes", tag = "4")]
    pub bridge_genesis_info: Bytes,
    /// SCALE `Vec<(key, value)>`.
    #[prost(bytes = "bytes", tag = "5")]
    pub genesis_state: Bytes,
}

/// Value of `rangeByParentBlock:{n}:pb`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RangeMeta {
    /// First relay block of the range.
    #[prost(uint32, tag = "1")]
    pub parent_start_block: u32,
    /// Last relay block of the range, which is justified.
    #[prost(uint32, tag = "2")]
    pub parent_stop_block: u32,
    /// First parachain block; -1: none.
    #[prost(int32, tag = "3")]
    pub para_start_block: i32,
    /// Last parachain block; -1: none.
    #[prost(int32, tag = "4")]
    pub para_stop_block: i32,
    /// The relay blocks.
    #[prost(uint32, repeated, tag = "5")]
    pub parent_range: Vec<u32>,
    /// The parachain blocks.
    #[prost(uint32, repeated, tag = "6")]
    pub para_range: Vec<u32>,
    /// Key of this range's header batch.
    #[prost(string, tag = "7")]
    pub dry_sync_header_req_key: String,
    /// Number of the authority set.
    #[prost(int32, tag = "8")]
    pub latest_set_id: i32,
    /// Last relay block of the batch over the whole set.
    #[prost(uint32, tag = "9")]
    pub blob_parent_stop_block: u32,
    /// Last parachain block of that batch; -1: none.
    #[prost(int32, tag = "10")]
    pub blob_para_stop_block: i32,
    /// Key of that batch.
    #[prost(string, tag = "11")]
    pub blob_sync_header_req_key: String,
}

/// A pool.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Pool {
    /// Its UUID in this manager, which assigns one to a new entry.
    #[prost(string, tag = "1")]
    pub uuid: String,
    /// Its operator.
    #[prost(message, optional, tag = "2")]
    pub owner: Option<FullAccount>,
    /// Its number on chain.
    #[prost(uint64, tag = "3")]
    pub pid: u64,
    /// Its name in this manager.
    #[prost(string, tag = "4")]
    pub name: String,
    /// Whether its workers run. Set it in a new entry: protobuf's default is `false`.
    #[prost(bool, tag = "5")]
    pub enabled: bool,
    /// Whether it is, or shall be, deleted.
    #[prost(bool, tag = "6")]
    pub deleted: bool,
    /// The owner's address on Phala if the operator is a proxy; otherwise empty.
    #[prost(string, tag = "7")]
    pub real_phala_ss58: String,
    /// Whether its workers only sync, without on-chain operations.
    #[prost(bool, tag = "8")]
    pub sync_only: bool,
    /// In an edit: what the original has no field for. Never in an answer.
    #[prost(message, optional, tag = "1000")]
    pub settings: Option<PoolSettings>,
}

/// A worker.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Worker {
    /// Its UUID in this manager, which assigns one to a new entry.
    #[prost(string, tag = "1")]
    pub uuid: String,
    /// Its pool's number on chain.
    #[prost(uint64, tag = "2")]
    pub pid: u64,
    /// Its name in this manager.
    #[prost(string, tag = "3")]
    pub name: String,
    /// pRuntime's URL.
    #[prost(string, tag = "4")]
    pub endpoint: String,
    /// Whether it runs. Set it in a new entry: protobuf's default is `false`.
    #[prost(bool, tag = "5")]
    pub enabled: bool,
    /// Whether it is, or shall be, deleted.
    #[prost(bool, tag = "6")]
    pub deleted: bool,
    /// Its stake in 10^-12 PHA, decimal.
    #[prost(string, tag = "7")]
    pub stake: String,
    /// Whether it only syncs, without on-chain operations.
    #[prost(bool, tag = "8")]
    pub sync_only: bool,
    /// In an edit: what the original has no field for. Never in an answer.
    #[prost(message, optional, tag = "1000")]
    pub settings: Option<WorkerSettings>,
}
