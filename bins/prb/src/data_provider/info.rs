//! A data provider's progress (`GetDataProviderInfo`).

use prb_chain::store::{Store, Tips};
use prb_core::{
    blob::{Genesis, Heights},
    primitives::{ParaNumber, RelayNumber},
};
use prb_walkie::proto::data_provider::{Info, Status};

/// Blocks by which a store may lag behind its nodes and still count as at the tip, because the relay chain's
/// finality advances in steps.
const AT_TIP: i32 = 20;

pub(super) fn of(store: &Store, port: u16) -> Info {
    let genesis = store.genesis().map(|(_, genesis)| genesis);
    let (tips, heights) = (store.tips(), store.heights());
    // Copied one after the other: no watch is locked while another is read.
    let tips = *tips.borrow();
    let heights = *heights.borrow();
    info(genesis, &tips, &heights, port)
}

fn info(genesis: Option<&Genesis>, tips: &Tips, heights: &Heights, port: u16) -> Info {
    // The original's values for an unknown height.
    let relay = |number: Option<RelayNumber>| number.map_or(-1, |n| signed(n.0));
    let para = |number: Option<ParaNumber>| number.map_or(-1, |n| signed(n.0));
    let mut info = Info {
        status: Status::Unknown.into(),
        para_id: genesis.map_or(-1, |genesis| signed(genesis.para_id)),
        parent_start_header: relay(genesis.map(|genesis| genesis.relay_number)),
        parent_target: relay(heights.relay_target),
        parent_fetched_height: relay(tips.relay.map(|(number, _)| number)),
        parent_processed_height: relay(heights.relay),
        parent_committed_height: relay(tips.relay.map(|(number, _)| number)),
        para_target: para(heights.para_target),
        para_fetched_height: para(tips.para_header.map(|(number, _)| number)),
        para_processed_height: para(heights.para),
        para_committed_height: genesis.map_or(-1, |_| signed(tips.changes.0)),
        blob_server_port: port.into(),
    };
    if genesis.is_some() && info.parent_target >= 0 {
        let behind = (info.parent_target - info.parent_processed_height)
            .max(info.para_target - info.para_processed_height);
        info.status = if behind > AT_TIP { Status::Synching } else { Status::Idle }.into();
    }
    info
}

/// Numbers beyond the wire's range do not occur; they would be sent as its maximum.
fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use prb_core::primitives::Hash;

    use super::*;

    fn genesis() -> Genesis {
        Genesis {
            para_id: 2035,
            relay_number: RelayNumber(7),
            relay_hash: Hash([1; 32]),
            chain_identity: Hash([2; 32]),
            info: Default::default(),
            state: Default::default(),
        }
    }

    #[test]
    fn unknown_heights_are_minus_one() {
        let info = info(None, &Tips::default(), &Heights::default(), 8012);
        assert_eq!(info.status(), Status::Unknown);
        assert_eq!([info.para_id, info.parent_start_header, info.parent_target], [-1; 3]);
        assert_eq!([info.parent_fetched_height, info.para_committed_height, info.para_target], [-1; 3]);
        assert_eq!(info.blob_server_port, 8012);
    }

    #[test]
    fn every_height_has_its_field() {
        let mut tips = Tips::default();
        tips.relay = Some((RelayNumber(90), Hash([0; 32])));
        tips.para_header = Some((ParaNumber(44), Hash([0; 32])));
        tips.changes = ParaNumber(43);
        let mut heights = Heights {
            relay: Some(RelayNumber(88)),
            para: Some(ParaNumber(42)),
            relay_target: Some(RelayNumber(100)),
            para_target: Some(ParaNumber(50)),
        };
        let at_tip = info(Some(&genesis()), &tips, &heights, 1);
        assert_eq!((at_tip.para_id, at_tip.parent_start_header, at_tip.status()), (2035, 7, Status::Idle));
        assert_eq!((at_tip.parent_target, at_tip.parent_fetched_height), (100, 90));
        assert_eq!((at_tip.parent_processed_height, at_tip.parent_committed_height), (88, 90));
        assert_eq!((at_tip.para_target, at_tip.para_fetched_height), (50, 44));
        assert_eq!((at_tip.para_processed_height, at_tip.para_committed_height), (42, 43));
        heights.para_target = Some(ParaNumber(500));
        assert_eq!(info(Some(&genesis()), &tips, &heights, 1).status(), Status::Synching);
    }
}
