//! The suite that every history source passes.

use std::sync::Arc;

use prb_chain::history::{HistorySource, Next, Piece};
use prb_chain::internals::history::{Blocks, MemoryHistory};
use prb_core::{blob::Span, primitives::ParaNumber};

use super::setup::{self, blocks_of, empty, filled, heights, is_part_of, relay, replay};

/// Returns the headers of pieces, with the end of each piece.
fn flat(pieces: &[Piece]) -> Vec<Vec<u8>> {
    pieces.iter().flat_map(|piece| piece.headers.clone()).collect()
}

/// Checks a source of these blocks against the trait's documentation.
pub(crate) async fn gives_all(source: Arc<dyn HistorySource>, truth: &Blocks) {
    assert_eq!(source.genesis().await.unwrap(), truth.genesis);
    assert_eq!(source.extent(), truth.extent());
    assert!(!source.name().is_empty());
    let (all, first) = (flat(&truth.relay), truth.first_relay.0);
    for number in [first, first + 1, first + all.len() as u32 / 2, first + all.len() as u32 - 1] {
        let pieces = source.relay(Next { relay: relay(number), head: ParaNumber(0) }).await.unwrap();
        let headers = flat(&pieces);
        assert!(!headers.is_empty() && all[(number - first) as usize..].starts_with(&headers), "{number}");
        for piece in &pieces {
            let known =
                truth.relay.iter().find(|known| known.headers.last() == piece.headers.last()).unwrap();
            assert_eq!(piece.justification, known.justification);
        }
    }
    let beyond = Next { relay: relay(first + all.len() as u32), head: ParaNumber(0) };
    assert_eq!(source.relay(beyond).await.unwrap(), []);

    let para = truth.changes.len() as u32;
    for (first, last) in [(0, 0), (0, 3), (1, para), (para, para), (para - 2, para + 10)] {
        let span = Span { first: ParaNumber(first), last: ParaNumber(last) };
        let headers = source.para_headers(span).await.unwrap();
        assert!(!headers.is_empty() && headers.len() <= (last - first) as usize + 1, "{first} {last}");
        assert!(truth.para_headers[first as usize..].starts_with(&headers), "{first} {last}");
        if first > 0 {
            let changes = source.changes(span).await.unwrap();
            assert!(!changes.is_empty() && changes.len() <= (last - first) as usize + 1, "{first} {last}");
            assert!(truth.changes[first as usize - 1..].starts_with(&changes), "{first} {last}");
        }
    }
    let beyond = Span { first: ParaNumber(para + 1), last: ParaNumber(para + 3) };
    assert_eq!(source.para_headers(beyond).await.unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(source.changes(beyond).await.unwrap(), Vec::<Vec<u8>>::new());

    let into = empty();
    let drained = replay(&into, vec![source]).await;
    assert_eq!((drained.stored, drained.faults), (true, vec![]));
    assert_eq!(heights(&into.store), (setup::RELAY, setup::PARA));
    is_part_of(&into.store, &filled().store);
}

#[tokio::test]
async fn memory_passes_the_suite() {
    let blocks = blocks_of(&filled().store);
    for per_answer in [1, 7, 1000] {
        gives_all(Arc::new(MemoryHistory::new("memory", blocks.clone(), per_answer)), &blocks).await;
    }
}
