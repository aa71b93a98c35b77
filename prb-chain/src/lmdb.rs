//! Recognises LMDB databases that hold something else, before anything is written to them, and damaged ones.

use heed::{
    CommitOrAbort, Database, Env, MdbError, RoTxn, WithoutTls,
    types::{Bytes, DecodeIgnore},
};

/// LMDB's table without a name, whose keys are the names of the others.
type Names<'env> = Database<'env, Bytes, DecodeIgnore>;

/// More tables than any database of this crate has. A foreign database may hold millions of rows without tables.
const MAX_LOOKED_AT: usize = 64;

/// Whether a database that is not empty lacks the table `meta`, which each of this crate has, or has a table that
/// belongs to another kind of database. Two daemons that are given the same folder would otherwise each add their
/// tables, and mark each other's data as of an unknown layout.
pub(crate) fn is_foreign(env: &Env<WithoutTls>, other_kind: &str) -> heed::Result<bool> {
    let looked_at = env.open_databases_and_commit(env.read_txn()?, |db, txn| {
        let names = db.open_database::<Bytes, DecodeIgnore>(txn, None)?;
        let foreign = names.map_or(Ok(false), |names| has_foreign(names, txn, other_kind))?;
        // The tables are opened later, by their owner.
        Ok::<_, heed::Error>(CommitOrAbort::<Names<'_>, _>::Abort(foreign))
    })?;
    Ok(looked_at.unwrap_abort())
}

fn has_foreign(names: Names<'_>, txn: &RoTxn<'_, WithoutTls>, other_kind: &str) -> heed::Result<bool> {
    let (mut is_empty, mut has_meta) = (true, false);
    for entry in names.iter(txn)?.take(MAX_LOOKED_AT) {
        let (name, ()) = entry?;
        if name == other_kind.as_bytes() {
            return Ok(true);
        }
        is_empty = false;
        has_meta |= name == b"meta";
    }
    Ok(!is_empty && !has_meta)
}

/// Whether LMDB cannot read the files: they are damaged, or not of LMDB.
pub(crate) const fn is_damage(error: &MdbError) -> bool {
    matches!(
        error,
        MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Invalid
            | MdbError::VersionMismatch
            | MdbError::Incompatible
    )
}
