//! Rules for the start of the chains and for justified relay blocks.

use codec::{Decode, DecodeAll};
use prb_core::{
    blob::Genesis,
    primitives::RelayNumber,
    wire::{AuthoritySet, GenesisBlockInfo},
};

use super::Justified;
use crate::verify::{self, Checked, Start, grandpa, scale, state};

/// Checks the relay block that workers start after against its genesis info.
pub(crate) fn check_start(start: &Start, genesis: &Genesis) -> Result<(), String> {
    let info = GenesisBlockInfo::decode_all(&mut &genesis.info[..]).map_err(|_| "it cannot be read")?;
    let header = &info.block_header;
    if (header.number, header.hash()) != (start.number, start.hash)
        || (genesis.relay_number, genesis.relay_hash) != (RelayNumber(start.number), start.hash)
    {
        return Err("its relay block differs from the genesis info".into());
    }
    let set = state::authority_set(header.state_root, info.proof).map_err(|e| e.to_string())?;
    if set != info.authority_set || set != start.set {
        return Err("its authorities differ from those in its state".into());
    }
    let pairs = scale::pairs(&genesis.state).ok_or("the genesis state cannot be read")?;
    let key = state::value_key("ParachainInfo", "ParachainId");
    let id = pairs.iter().find(|(found, _)| *found == key).map(|(_, value)| *value);
    if id.and_then(|id| u32::decode(&mut &*id).ok()) != Some(genesis.para_id) {
        return Err("the genesis state is of another parachain".into());
    }
    Ok(())
}

/// Checks a justified block against the set that signs it; returns the set that signs after it.
pub(super) fn check_justified(
    header: &Checked,
    row: &Justified,
    set: &AuthoritySet,
    para_id: u32,
    justification: &[u8],
    stored_next: Option<AuthoritySet>,
) -> Result<AuthoritySet, verify::Error> {
    let bad = |reason| verify::Error::Justification { number: row.number, reason };
    if row.alignment.set_id != set.id {
        return Err(bad("it is of another authority set"));
    }
    grandpa::check(justification, set, header.number, header.hash)?;
    let head = state::para_head(header.state_root, row.proof.clone(), para_id)?;
    if head.map(|head| (head.number, head.hash)) != row.alignment.para_head {
        let reason = "it names a head other than the stored one".into();
        return Err(verify::Error::Proof { what: "the parachain's head", reason });
    }
    let next = header.next_set(set)?;
    if next.is_some() != row.alignment.ends_set {
        return Err(bad("the mark whether it ends its authority set is wrong"));
    }
    let Some(next) = next else { return Ok(set.clone()) };
    if state::authority_set(header.state_root, row.proof.clone())? != next
        || stored_next.as_ref() != Some(&next)
    {
        let reason = "it is not the authority set that the block schedules".into();
        return Err(verify::Error::Proof { what: "the authorities", reason });
    }
    Ok(next)
}
