//! Calls of a stranger and of an operator, whatever they hold, and answers as a caller reads them.
#![no_main]

use std::{cell::OnceCell, sync::Arc};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prb_core::{
    chain::memory::{Config, MemoryChain},
    inventory::memory::MemoryInventory,
    manage::{Manager, Parts},
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
        keys: Arc::new(MemoryChain::new(Config::default())),
        fleet: None,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    (runtime, manage::handlers(manager, manage::Sources::default(), Handlers::new()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    fuzzing::read_answer(bytes.clone());
    RIG.with(|it| {
        let (runtime, handlers) = it.get_or_init(rig);
        let answer = runtime.block_on(fuzzing::answer(handlers, bytes, first & 1 == 1));
        assert!(!answer.is_empty());
    });
});
