//! Decodes JSON answers of chain nodes.

use prb_chain::internals::{
    rpc::json::{
        Header, HexBytes, HexNumber, Justification, ReadProof, ScaleChanges, SignedBlock, StorageChanges,
        parse,
    },
    verify::{self, scale},
};
use prb_core::primitives::Hash;

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(header) = parse::<Header>(text) {
        let encoded = header.encode();
        // The hash decides whether it is the header that was asked for.
        let checked = verify::header(Hash::of(&encoded), header.number(), encoded);
        assert!(checked.is_ok(), "{text}: {checked:?}");
    }
    if let Ok(ScaleChanges(encoded)) = parse::<ScaleChanges>(text) {
        assert!(scale::is_storage_changes(&encoded), "{text}");
    }
    let _ = parse::<SignedBlock>(text);
    let _ = parse::<Justification>(text);
    let _ = parse::<ReadProof>(text).map(ReadProof::into_nodes);
    let _ = parse::<StorageChanges>(text).map(|changes| changes.into_main().count());
    let _ = parse::<Vec<(HexBytes, HexBytes)>>(text);
    let _ = parse::<HexNumber>(text);
}
