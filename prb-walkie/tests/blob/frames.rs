//! Tests of frames, keys and answers at byte level: the documented examples, and arbitrary bytes.

use bytes::Bytes;
use codec::Encode;
use prb_core::{
    blob::{self, BlobSource, BlockBatch, BlockCursor, HeaderBatch, HeaderCursor, Heights, Span},
    conformance::blob::Sample,
    primitives::{Hash, ParaNumber, RelayNumber},
    prpc,
};
use prb_walkie::blob::{
    answer::{self, Position, Refused},
    batch_walk,
    frame::{self, Decoded, Error, Id},
    keys::{HeaderRange, Key},
};
use proptest::prelude::*;
use prost::Message;

use crate::lookups::source_of;

const ID: Id = [1, 2, 3, 4, 5, 6, 7, 8];

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

#[test]
fn documented_examples_are_encoded_and_decoded() {
    let mut out = Vec::new();
    frame::put_request(ID, "hello", &mut out);
    assert_eq!(out, hex("0d 0102030405060708 68656c6c6f"));
    assert_eq!(frame::decode(&out, 100), Ok(Decoded::Frame { body: 1..14 }));
    assert_eq!(frame::request(&out[1..]), Some((ID, "hello")));

    out.clear();
    frame::put_answer(ID, Some(b"hello world"), &mut out);
    assert_eq!(out, hex("1b 0102030405060708 00000000c99465aa 68656c6c6f20776f726c64"));
    let crc = frame::answer_crc(&out[9..17], 27).unwrap().unwrap();
    frame::check_crc(crc, b"hello world").unwrap();
    assert!(matches!(frame::check_crc(crc, b"hello_world"), Err(Error::Crc { .. })));
    // The upper half counts, too: it is zero.
    assert!(frame::check_crc(crc | 1 << 40, b"hello world").is_err());

    for missing in [None, Some(&b""[..])] {
        out.clear();
        frame::put_answer(ID, missing, &mut out);
        assert_eq!(out, hex("08 0102030405060708"));
        assert_eq!(frame::answer_crc(&[], 8), Ok(None));
    }
}

#[test]
fn requests_are_trimmed_and_short_ones_ignored() {
    let body = |key: &[u8]| [&ID[..], key].concat();
    assert_eq!(frame::request(&body(b" hello\n")), Some((ID, "hello")));
    assert_eq!(frame::request(&body(b"\xff\xfe")), Some((ID, "")), "answered as missing");
    assert_eq!(frame::request(&body(b"")), None);
    assert_eq!(frame::request(&ID[..5]), None);
    assert_eq!(frame::request(b""), None);
}

#[test]
fn oversized_lengths_are_refused_before_the_body_arrives() {
    // 4 GiB, and 2^35 - 1.
    for (claim, claimed) in [("8080808010", 1 << 32), ("ffffffff7f", (1 << 35) - 1)] {
        let refused = frame::decode(&hex(claim), 1 << 20);
        assert_eq!(refused, Err(Error::TooLong { claimed, limit: 1 << 20 }));
    }
    assert_eq!(frame::decode(&hex("ffffffffff7f"), 1 << 20), Err(Error::BadLength));
    assert_eq!(frame::decode(&hex("ffffffff"), 1 << 20), Ok(Decoded::NoLength));
    assert_eq!(frame::decode(&hex("00"), 0), Ok(Decoded::Frame { body: 1..1 }));
}

fn key() -> impl Strategy<Value = Key> {
    let relay = any::<u32>().prop_map(RelayNumber);
    let para = any::<u32>().prop_map(ParaNumber);
    let sorted = |a: u32, b: u32| (a.min(b), a.max(b));
    let range = (any::<(u32, u32)>(), proptest::option::of(any::<(u32, u32)>())).prop_map(move |(r, p)| {
        let (first, last) = sorted(r.0, r.1);
        let para = p.map(|p| sorted(p.0, p.1)).map(|(a, b)| (ParaNumber(a), ParaNumber(b)));
        HeaderRange { relay_first: RelayNumber(first), relay_last: RelayNumber(last), para }
    });
    prop_oneof![
        any::<u32>().prop_map(|para_id| Key::OriginalGenesis { para_id }),
        relay.clone().prop_map(Key::RangeByParentBlock),
        range.clone().prop_map(Key::DrySyncHeader),
        range.prop_map(Key::BlobRange),
        para.clone().prop_map(Key::RangeParaBlockKey),
        para.clone().prop_map(Key::DryParaBlock),
        para.clone().prop_map(Key::RangeParaBlockBuffer),
        Just(Key::Genesis),
        (proptest::option::of(relay.clone()), proptest::option::of(para.clone()), any::<u32>())
            .prop_map(|(relay, para, wait_ms)| Key::Heights { relay, para, wait_ms }),
        (relay, para.clone(), any::<u32>()).prop_map(|(relay, para, max_bytes)| Key::Headers {
            cursor: HeaderCursor { relay, para },
            max_bytes
        }),
        (para.clone(), para, any::<u32>())
            .prop_map(|(from, to, max_bytes)| Key::Blocks { cursor: BlockCursor { from, to }, max_bytes }),
    ]
}

proptest! {
    #[test]
    fn frames_round_trip(key in "[ -~]{1,100}", payload in proptest::collection::vec(any::<u8>(), 0..5000), id in any::<Id>()) {
        let mut out = Vec::new();
        frame::put_answer(id, Some(&payload), &mut out);
        frame::put_request(id, &key, &mut out);
        let Ok(Decoded::Frame { body }) = frame::decode(&out, 1 << 20) else { panic!() };
        prop_assert_eq!(&out[body.start..body.start + 8], &id);
        let head = &out[body.start + 8..body.end.min(body.start + 16)];
        match frame::answer_crc(head, body.len()).unwrap() {
            Some(crc) => frame::check_crc(crc, &out[body.start + 16..body.end]).unwrap(),
            None => prop_assert!(payload.is_empty()),
        }
        let rest = &out[body.end..];
        let Ok(Decoded::Frame { body }) = frame::decode(rest, 1 << 20) else { panic!() };
        prop_assert_eq!(frame::request(&rest[body.clone()]), Some((id, key.trim())));
        prop_assert_eq!(body.end, rest.len());
    }

    #[test]
    fn arbitrary_bytes_are_a_frame_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40), limit in 0usize..1_000_000) {
        match frame::decode(&bytes, limit) {
            Ok(Decoded::Frame { body }) => prop_assert!(body.len() <= limit && body.start <= 5),
            Ok(Decoded::NoLength) => prop_assert!(bytes.len() < 5),
            Err(e) => {
                let expected = matches!(e, Error::TooLong { .. } | Error::BadLength);
                prop_assert!(expected);
            }
        }
        let _ = frame::request(&bytes);
        let _ = frame::answer_crc(&bytes, limit);
    }

    #[test]
    fn keys_round_trip(key in key()) {
        prop_assert_eq!(Key::parse(&key.to_string()), Some(key));
    }

    /// Each key has one spelling: what is parsed is displayed the same.
    #[test]
    fn arbitrary_text_is_a_canonical_key_or_refused(text in "\\PC{0,60}", near in "(genesis|heights|headers|blocks|drySyncHeader|rangeParaBlock)(:(-?[0-9]{1,11}|key|buffer|pb|\\+1|)){0,6}") {
        for text in [text, near] {
            if let Some(key) = Key::parse(&text) {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_answer_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120), status in 0u8..7) {
        for bytes in [bytes.clone(), [&[1, status][..], &bytes].concat()] {
            let bytes = Bytes::from(bytes);
            let _ = answer::read_headers(bytes.clone());
            let _ = answer::read_blocks(bytes.clone());
            let _ = answer::read_heights(bytes.clone());
            let _ = answer::read_genesis(bytes.clone());
            let _ = batch_walk::check_state(&bytes);
            let cursor = HeaderCursor { relay: RelayNumber(1), para: ParaNumber(1) };
            let _ = batch_walk::headers_of_request(&bytes, cursor);
            let _ = batch_walk::blocks_of_request(&bytes, Span { first: ParaNumber(1), last: ParaNumber(9) });
        }
    }

    /// A count of 2^30 items, or a length of 2^30 bytes, must not allocate memory for them.
    #[test]
    fn damaged_batches_are_refused_or_decoded_whole(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<proptest::sample::Index>()) {
        let (headers, blocks) = batches();
        let mut damaged = headers.body.to_vec();
        let i = at.index(damaged.len());
        damaged[i] ^= byte;
        let _ = batch_walk::check_headers(&HeaderBatch { body: damaged.into(), ..headers.clone() });
        // The last fields are proof nodes, of which there may be fewer.
        let proof = prpc::CombinedHeadersToSync::decode(headers.body.clone()).unwrap().proof;
        let before_proof = headers.body.len() - proof.iter().map(|node| node.len() + 3).sum::<usize>();
        let cut_short = headers.body.slice(..cut.index(before_proof));
        let checked = batch_walk::check_headers(&HeaderBatch { body: cut_short, ..headers.clone() });
        prop_assert!(checked.is_err());
        let mut damaged = blocks.body.to_vec();
        let i = at.index(damaged.len());
        damaged[i] ^= byte;
        let _ = batch_walk::check_blocks(&BlockBatch { body: damaged.into(), ..blocks.clone() });
        let cut_short = blocks.body.slice(..cut.index(blocks.body.len()));
        let checked = batch_walk::check_blocks(&BlockBatch { body: cut_short, ..blocks.clone() });
        prop_assert!(checked.is_err());
    }
}

/// A header batch with parachain headers, and a block batch.
fn batches() -> (HeaderBatch, BlockBatch) {
    let sample = Sample::generate(3, 20);
    let source = source_of(&sample);
    let cursor = HeaderCursor { relay: sample.genesis_number.next(), para: ParaNumber(0) };
    let blocks = BlockCursor { from: ParaNumber(1), to: ParaNumber(6) };
    let ready = |future| futures::executor::block_on(future);
    let headers = ready(source.headers(cursor, 1 << 20));
    let blocks = futures::executor::block_on(source.blocks(blocks, 1 << 20));
    (headers.unwrap().unwrap(), blocks.unwrap().unwrap())
}

#[test]
fn only_consistent_batches_pass_the_checks() {
    let (headers, blocks) = batches();
    batch_walk::check_headers(&headers).unwrap();
    batch_walk::check_blocks(&blocks).unwrap();

    let mut later = headers.clone();
    later.relay.first = later.relay.first.next();
    let other = batch_walk::check_headers(&later);
    assert!(matches!(other, Err(batch_walk::Malformed::OtherSpan { .. })), "{other:?}");
    let other = batch_walk::check_headers(&HeaderBatch { para: None, ..headers.clone() });
    assert!(matches!(other, Err(batch_walk::Malformed::OtherSpan { .. })), "{other:?}");
    let mut fewer = blocks.clone();
    fewer.blocks.last = ParaNumber(5);
    let other = batch_walk::check_blocks(&fewer);
    assert!(matches!(other, Err(batch_walk::Malformed::OtherSpan { .. })), "{other:?}");

    // Alter the state root, so that it is still a header but not the next one's parent. The root follows the
    // parent hash and number, after the lengths of the field and the list.
    let mut altered = headers.body.to_vec();
    altered[50] ^= 1;
    let unchained = batch_walk::check_headers(&HeaderBatch { body: altered.into(), ..headers });
    assert!(matches!(unchained, Err(batch_walk::Malformed::Unchained { .. })), "{unchained:?}");
}

#[test]
fn requests_and_bodies_convert_both_ways() {
    let (headers, blocks) = batches();
    let request = batch_walk::request_of_headers(&headers.body).unwrap();
    let cursor = HeaderCursor { relay: headers.relay.first, para: headers.para.unwrap().first };
    assert_eq!(batch_walk::headers_of_request(&request, cursor).unwrap(), Some(headers.clone()));
    // A worker that has some of the headers gets the rest, in a complete body.
    let later = HeaderCursor { relay: cursor.relay.next(), para: cursor.para.next() };
    let rest = batch_walk::headers_of_request(&request, later).unwrap().unwrap();
    assert_eq!((rest.relay.first, rest.relay.last), (later.relay, headers.relay.last));
    batch_walk::check_headers(&rest).unwrap();
    let beyond = HeaderCursor { relay: headers.relay.last.next(), ..cursor };
    assert_eq!(batch_walk::headers_of_request(&request, beyond).unwrap(), None);
    // Headers that the worker needs are missing.
    let earlier = HeaderCursor { relay: RelayNumber(cursor.relay.0 - 1), ..cursor };
    assert_eq!(batch_walk::headers_of_request(&request, earlier).unwrap(), None);

    let request = batch_walk::request_of_blocks(&blocks.body).unwrap();
    let within = blocks.blocks;
    assert_eq!(batch_walk::blocks_of_request(&request, within).unwrap(), Some(blocks));
    let inner = Span { first: ParaNumber(3), last: ParaNumber(4) };
    let some = batch_walk::blocks_of_request(&request, inner).unwrap().unwrap();
    assert_eq!(some.blocks, inner);
    batch_walk::check_blocks(&some).unwrap();
    assert!(batch_walk::blocks_of_request(&[0xff; 30], within).is_err());
}

#[test]
fn answers_round_trip() {
    let (headers, blocks) = batches();
    let none = HeaderBatch { para: None, ..headers.clone() };
    for batch in [headers, none] {
        let bytes = answer::headers(Ok(Some(batch.clone()))).join();
        let read = answer::read_headers(bytes.clone()).unwrap().unwrap().unwrap();
        assert_eq!(read, batch);
        assert!(bytes.as_ptr_range().contains(&read.body.as_ptr()), "a slice of the frame");
    }
    let bytes = answer::blocks(Ok(Some(blocks.clone()))).join();
    assert_eq!(answer::read_blocks(bytes).unwrap(), Ok(Some(blocks)));
    assert_eq!(answer::read_blocks(answer::blocks(Ok(None)).join()).unwrap(), Ok(None));

    let position = Position {
        heights: Heights {
            relay: Some(RelayNumber(0)),
            para_target: Some(ParaNumber(9)),
            ..Heights::default()
        },
        identity: Some(Hash([7; 32])),
    };
    for position in [position, Position::default()] {
        assert_eq!(answer::read_heights(answer::heights(&position).join()).unwrap(), position);
    }
    let genesis = Sample::generate(1, 5).genesis();
    let read = answer::read_genesis(answer::genesis(Ok(genesis.clone())).join()).unwrap();
    assert_eq!(read, Ok(Some(genesis)));

    let refused = |error| answer::read_headers(answer::headers(Err(error)).join()).unwrap().unwrap_err();
    assert_eq!(refused(blob::Error::NotReady), Refused::NotReady);
    let reason = "ä".repeat(1000);
    let Refused::BadCursor(text) = refused(blob::Error::BadCursor { cursor: "5".into(), reason }) else {
        panic!()
    };
    assert_eq!(text, "ä".repeat(128), "cut at a character boundary");
    let too_large = blob::Error::TooLarge { cursor: "5".into(), size_bytes: 1 << 40, limit_bytes: 5 };
    assert_eq!(refused(too_large), Refused::TooLarge(1 << 40));
    assert_eq!(refused(blob::Error::Storage("/var/secret/path".into())), Refused::Failed);

    assert_eq!(answer::read_blocks(Bytes::from_static(&[2, 0])), Err(answer::Malformed::Version(2)));
    assert!(batch_walk::check_state(&vec![(vec![1u8], vec![2u8])].encode()).is_ok());
    assert!(batch_walk::check_state(&[4, 4, 1]).is_err());
}
