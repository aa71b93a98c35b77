//! pRuntime's rules for block numbers: what is skipped, accepted and refused, with its error texts.

use bytes::Bytes;
use codec::Decode;
use prost::Message;

use super::WorkerState;
use crate::{
    primitives::{AccountId, Hash},
    prpc, wire,
};

/// HTTP status and error text.
pub(super) type Refusal = (u16, String);

pub(super) fn refusal(status: u16, message: &str) -> Refusal {
    (status, message.to_owned())
}

pub(super) fn uninitialized() -> Refusal {
    refusal(500, "Runtime not initialized")
}

pub(super) fn busy() -> Refusal {
    refusal(500, "RCU in progress, please try the request again later")
}

pub(super) fn decode<M: Message + Default>(body: Bytes) -> Result<M, Refusal> {
    M::decode(body).map_err(|e| refusal(400, &format!("DecodeError({e})")))
}

/// Decodes SCALE; trailing bytes are ignored, as in pRuntime.
pub(super) fn scale<T: Decode>(mut bytes: &[u8]) -> Result<T, Refusal> {
    T::decode(&mut bytes).map_err(|e| refusal(400, &format!("DecodeError({e})")))
}

pub(super) fn operator(encoded: Option<Vec<u8>>) -> Result<Option<AccountId>, Refusal> {
    encoded.map(|bytes| scale(&bytes)).transpose()
}

/// Decodes a SCALE `Vec`; an absent field is an empty list.
fn items<T: Decode>(encoded: &Bytes) -> Result<Vec<T>, Refusal> {
    if encoded.is_empty() { Ok(Vec::new()) } else { scale(encoded) }
}

/// Number and hash of the initial relay block; an empty genesis yields block 0 and an empty hash.
pub(super) fn genesis_block(encoded: &Bytes) -> Result<(u32, Hash), Refusal> {
    if encoded.is_empty() {
        return Ok((0, Hash::default()));
    }
    let genesis: wire::GenesisBlockInfo = scale(encoded)?;
    Ok((genesis.block_header.number, genesis.block_header.hash()))
}

/// Checks that the numbers from `wanted` on are consecutive; returns the next one after them.
fn from_wanted(numbers: impl Iterator<Item = u32>, wanted: u32) -> Result<u32, Refusal> {
    let mut next = wanted;
    for number in numbers.skip_while(|n| *n < wanted) {
        if number != next {
            return Err(refusal(500, "BlockNumberMismatch"));
        }
        next += 1;
    }
    Ok(next)
}

pub(super) fn sync_header(state: &mut WorkerState, body: Bytes) -> Result<prpc::SyncedTo, Refusal> {
    let request: prpc::HeadersToSync = decode(body)?;
    sync_relay(state, &items(&request.encoded_headers)?)?;
    Ok(prpc::SyncedTo { synced_to: state.info.headernum.wrapping_sub(1) })
}

pub(super) fn sync_para_header(state: &mut WorkerState, body: Bytes) -> Result<prpc::SyncedTo, Refusal> {
    let request: prpc::ParaHeadersToSync = decode(body)?;
    sync_para(state, &items(&request.encoded_headers)?)?;
    Ok(prpc::SyncedTo { synced_to: state.info.para_headernum.wrapping_sub(1) })
}

pub(super) fn sync_combined(state: &mut WorkerState, body: Bytes) -> Result<prpc::HeadersSyncedTo, Refusal> {
    let request: prpc::CombinedHeadersToSync = decode(body)?;
    let relay = items(&request.encoded_relaychain_headers)?;
    let para: Vec<wire::Header> = items(&request.encoded_parachain_headers)?;
    // Not atomic: relay headers stay accepted even if parachain headers are refused.
    sync_relay(state, &relay)?;
    if !para.is_empty() {
        sync_para(state, &para)?;
    }
    Ok(prpc::HeadersSyncedTo {
        // pRuntime subtracts without a check: with nothing synced yet, it answers 2^32 - 1.
        relaychain_synced_to: state.info.headernum.wrapping_sub(1),
        parachain_synced_to: state.info.para_headernum.wrapping_sub(1),
    })
}

fn sync_relay(state: &mut WorkerState, headers: &[wire::HeaderToSync]) -> Result<(), Refusal> {
    if !state.info.initialized {
        return Err(uninitialized());
    }
    // Before the checks: in pRuntime, a refused call clears it as well.
    state.info.can_load_chain_state = false;
    let next = from_wanted(headers.iter().map(|h| h.header.number), state.info.headernum)?;
    if next > state.info.headernum {
        if headers.last().is_none_or(|h| h.justification.is_none()) {
            return Err(refusal(500, "MissingJustification"));
        }
        state.info.headernum = next;
        state.info.waiting_for_paraheaders = true;
        state.relay_synced = true;
    }
    Ok(())
}

fn sync_para(state: &mut WorkerState, headers: &[wire::Header]) -> Result<(), Refusal> {
    if !state.info.initialized {
        return Err(uninitialized());
    }
    let next = from_wanted(headers.iter().map(|h| h.number), state.info.para_headernum)?;
    if next > state.info.para_headernum {
        if !state.relay_synced {
            return Err(refusal(500, "RelaychainHeaderNotSynced"));
        }
        state.info.para_headernum = next;
        state.info.waiting_for_paraheaders = false;
        state.relay_synced = false;
    }
    Ok(())
}

/// Returns the next block needed after these were dispatched. If one of them is refused, those before it stay
/// dispatched.
pub(super) fn dispatch(state: &WorkerState, body: Bytes) -> (u32, Result<(), Refusal>) {
    let mut next = state.info.blocknum;
    let result = dispatch_into(state, body, &mut next);
    (next, result)
}

fn dispatch_into(state: &WorkerState, body: Bytes, next: &mut u32) -> Result<(), Refusal> {
    let request: prpc::Blocks = decode(body)?;
    let blocks: Vec<wire::BlockHeaderWithChanges> = items(&request.encoded_blocks)?;
    if !state.info.initialized {
        return Err(uninitialized());
    }
    // Blocks that were dispatched before are skipped.
    for number in blocks.iter().map(|b| b.block_header.number).filter(|n| *n >= state.info.blocknum) {
        if number != *next {
            return Err(refusal(500, "BlockNumberMismatch"));
        }
        if number >= state.info.para_headernum {
            return Err(refusal(500, "NoStateRoot"));
        }
        *next += 1;
    }
    Ok(())
}

pub(super) fn load_chain_state(state: &mut WorkerState, body: Bytes) -> Result<(), Refusal> {
    let request: prpc::ChainState = decode(body)?;
    if !state.info.can_load_chain_state {
        return Err(refusal(500, "Can not load chain state"));
    }
    if request.block_number == 0 {
        return Err(refusal(500, "Can not load chain state from block 0"));
    }
    if !state.info.initialized {
        return Err(uninitialized());
    }
    state.info.can_load_chain_state = false;
    state.info.blocknum = request.block_number + 1;
    // As in pRuntime, the header of the loaded block itself is wanted next.
    state.info.para_headernum = request.block_number;
    state.first_block = state.info.blocknum;
    Ok(())
}

/// The last block dispatched.
pub(super) fn dispatched_to(state: &WorkerState) -> Result<prpc::SyncedTo, Refusal> {
    if !state.info.initialized {
        return Err(uninitialized());
    }
    Ok(prpc::SyncedTo { synced_to: state.info.blocknum.wrapping_sub(1) })
}
