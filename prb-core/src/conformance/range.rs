//! Conformance suite of [`RangeSource`], in addition to that of the blob seam.
//!
//! A backend of the blob suite provides its source as a [`RangeSource`] too, and calls [`run`] in a test.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::blob::{Backend, RelayBlock, Sample, head_before, para_blocks, possible_batches};
use crate::{
    blob::{
        Error, HeaderCursor, Span,
        range::{Range, RangeSource, Ranges},
    },
    primitives::{ParaNumber, RelayNumber},
};

const NO_LIMIT: usize = 64 << 20;

/// A source under test.
pub trait RangeBackend: Backend {
    /// The source.
    fn ranges(&self) -> Arc<dyn RangeSource>;
}

/// Runs the suite on a backend that drops no justified header.
///
/// ```
/// use prb_core::conformance::range::{self, RangeBackend};
///
/// /// `Own` is the backend of the blob suite.
/// async fn conforms<Own: RangeBackend>() {
///     range::run::<Own>().await;
/// }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn run<B: RangeBackend>() {
    for seed in 10..14 {
        let sample = Sample::generate(seed, 70);
        let backend = filled::<B>(&sample, para_blocks(&sample).len()).await;
        let source = backend.ranges();
        let first = sample.genesis_number.next().0;
        for from in first..=first + sample.relay.len() as u32 {
            check_ranges(&sample, &*source, RelayNumber(from)).await;
        }
        let before = source.ranges(sample.genesis_number).await;
        assert!(matches!(before, Err(Error::BadCursor { .. })), "{before:?}");
    }
    ranges_wait_for_the_parachain::<B>(&Sample::generate(15, 60)).await;
}

async fn filled<B: RangeBackend>(sample: &Sample, para: usize) -> B {
    let mut backend = B::create(sample).await;
    backend.push_relay(&sample.relay).await;
    backend.push_para(&para_blocks(sample)[..para]).await;
    backend
}

/// Computes the ranges exhaustively.
fn expected(sample: &Sample, from: RelayNumber) -> Option<Ranges> {
    let first_para = head_before(sample, from).map_or(0, |head| head + 1);
    let mut set_id = sample.genesis_set.id;
    let mut ranges: Option<Ranges> = None;
    for RelayBlock { header, justified } in &sample.relay {
        let Some(justified) = justified else { continue };
        if header.number >= from.0 {
            let range = Range {
                relay: Span { first: from, last: RelayNumber(header.number) },
                para: justified
                    .para_head
                    .filter(|head| head.0 >= first_para)
                    .map(|last| Span { first: ParaNumber(first_para), last }),
                set_id,
                ends_set: justified.next_set.is_some(),
            };
            ranges = Some(Ranges {
                longest: range,
                ..ranges.unwrap_or(Ranges { shortest: range, longest: range })
            });
            if range.ends_set {
                break;
            }
        }
        set_id = justified.next_set.as_ref().map_or(set_id, |set| set.id);
    }
    ranges
}

async fn check_ranges(sample: &Sample, source: &dyn RangeSource, from: RelayNumber) {
    let expected = expected(sample, from);
    assert_eq!(source.ranges(from).await.unwrap(), expected, "ranges from {from}");
    let Some(Ranges { longest, .. }) = expected else { return };
    let para = ParaNumber(head_before(sample, from).map_or(0, |head| head + 1));
    let cursor = HeaderCursor { relay: from, para };
    let batch_ends = sample.relay.iter().filter(|block| {
        (from.0..=longest.relay.last.0).contains(&block.header.number) && block.justified.is_some()
    });
    let (mut end, mut last_body) = (from, None);
    for (end_block, body) in batch_ends.zip(possible_batches(sample, cursor)) {
        let number = RelayNumber(end_block.header.number);
        // After the previous batch end, each relay block yields the batch up to this end.
        while end <= number {
            let batch = source.headers_to(cursor, end, NO_LIMIT).await.unwrap().unwrap();
            assert_eq!((batch.relay.last, &batch.body[..]), (number, &body[..]), "{cursor:?} to {end}");
            end = end.next();
        }
        let cut = source.headers_to(cursor, number, body.len() - 1).await;
        assert!(matches!(cut, Err(Error::TooLarge { .. })), "{cut:?}");
        last_body = Some(body);
    }
    assert!(last_body.is_some(), "no range was checked");
    let beyond = source.headers_to(cursor, longest.relay.last.next(), NO_LIMIT).await.unwrap();
    assert_eq!(beyond, None, "no batch crosses a change of set, or the tip");
}

/// Ranges end where the parachain's headers end.
async fn ranges_wait_for_the_parachain<B: RangeBackend>(sample: &Sample) {
    let stored = sample.para.len() / 2;
    let backend = filled::<B>(sample, stored).await;
    let source = backend.ranges();
    let tip = source.heights().borrow().relay.unwrap();
    for from in sample.genesis_number.next().0..=tip.0 {
        let ranges = source.ranges(RelayNumber(from)).await.unwrap().unwrap();
        assert!(
            ranges.longest.relay.last <= tip,
            "the longest range from {from} ends after `Heights::relay`"
        );
        assert!(
            ranges.longest.para.is_none_or(|span| (span.last.0 as usize) < stored),
            "the longest range from {from} needs parachain headers that are not stored"
        );
    }
    assert_eq!(source.ranges(tip.next()).await.unwrap(), None, "the parachain is behind");
}
