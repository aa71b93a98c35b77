//! Answers arbitrary calls of a stranger and of an operator, and decodes answers as a caller does.

use std::{cell::OnceCell, sync::Arc};

use bytes::Bytes;
use prb_core::{
    inventory::memory::MemoryInventory,
    manage::{Manager, Parts, memory::MemoryKeys},
    vault::memory::MemoryVault,
};
use prb_walkie::{fuzzing, manage, rpc::Handlers};

thread_local! {
    static RIG: OnceCell<(tokio::runtime::Runtime, Handlers)> = const { OnceCell::new() };
}

fn rig() -> (tokio::runtime::Runtime, Handlers) {
    let manager = Manager::new(Parts {
        inventory: Arc::new(MemoryInventory::default()),
        vault: Arc::new(MemoryVault::new()),
        keys: Arc::new(MemoryKeys),
        fleet: None,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    (runtime, manage::handlers(manager, manage::Sources::default(), Handlers::new()))
}

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    fuzzing::read_answer(bytes.clone());
    RIG.with(|it| {
        let (runtime, handlers) = it.get_or_init(rig);
        let answer = runtime.block_on(fuzzing::answer(handlers, bytes, first & 1 == 1));
        assert!(!answer.is_empty());
    });
}
