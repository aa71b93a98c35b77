//! Native execution of the runtimes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use codec::{Decode, Encode};
use prb_devnet_runtime::{para, relay, types::MessageOrigin};
use sp_core::storage::StateVersion;
use sp_runtime::traits::BlakeTwo256;
use sp_state_machine::{Ext, OverlayedChanges};

use super::state::{State, read};
use crate::Error;

/// The storage key of the runtime's code.
pub(crate) const CODE_KEY: &[u8] = b":code";

/// A version of a runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// The value stored under [`CODE_KEY`].
    pub(crate) code: &'static [u8],
    /// Its state version.
    pub(crate) state_version: StateVersion,
    /// Returns the off-chain messages of an extrinsic.
    pub(crate) offchain_messages: fn(&[u8]) -> Vec<(MessageOrigin, u64)>,
    /// Counts the calls of an extrinsic.
    pub(crate) calls: fn(&[u8]) -> u32,
    dispatch: fn(&str, &[u8]) -> Option<Vec<u8>>,
}

/// The relay chain's runtime.
pub(crate) static RELAY: &[Runtime] = &[Runtime {
    code: b"prb-devnet-relay/1000",
    // As current relay chains; the version does not matter to workers, which only check proofs against given
    // roots.
    state_version: StateVersion::V1,
    offchain_messages: |_| Vec::new(),
    calls: |_| 1,
    dispatch: relay::api::dispatch,
}];

/// The parachain's runtimes, oldest first.
pub(crate) static PARA: &[Runtime] = &[
    Runtime {
        code: b"prb-devnet-para/1000",
        state_version: StateVersion::V0,
        offchain_messages: para::v1::offchain_messages,
        calls: para::v1::calls,
        dispatch: para::v1::api::dispatch,
    },
    Runtime {
        code: b"prb-devnet-para/1001",
        // Not V1: pRuntime computes the parachain's state roots with version 0.
        state_version: StateVersion::V0,
        offchain_messages: para::v2::offchain_messages,
        calls: para::v2::calls,
        dispatch: para::v2::api::dispatch,
    },
];

/// Returns the runtime that a state uses.
pub(crate) fn of_state(versions: &'static [Runtime], state: &State) -> Result<&'static Runtime, Error> {
    let code = read(state, CODE_KEY)?.unwrap_or_default();
    versions
        .iter()
        .find(|runtime| runtime.code == code)
        .ok_or_else(|| Error::State("the state names no known runtime".into()))
}

impl Runtime {
    /// Calls a runtime API method on a state with the changes so far.
    pub(crate) fn call(
        &self,
        overlay: &mut OverlayedChanges<BlakeTwo256>,
        state: &State,
        method: &str,
        arguments: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let error = |reason: String| Error::Runtime { method: method.to_owned(), reason };
        overlay.enter_runtime().map_err(|_| error("entered twice".into()))?;
        let mut ext = Ext::new(overlay, state, None);
        let result = sp_externalities::set_and_run_with_externalities(&mut ext, || {
            // A wasm runtime traps on a panic and the node continues; the native one must not take the process
            // down.
            catch_unwind(AssertUnwindSafe(|| (self.dispatch)(method, arguments)))
        });
        // Also after a panic: it closes the storage layers that the panic left open.
        overlay.exit_runtime().map_err(|_| error("not entered".into()))?;
        match result {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(error("Exported method is not found".into())),
            Err(panic) => Err(error(panic_text(&*panic))),
        }
    }

    /// Calls a runtime API method on a state and discards changes.
    pub(crate) fn query(&self, state: &State, method: &str, arguments: &[u8]) -> Result<Vec<u8>, Error> {
        // A fresh overlay that is dropped: queries have no effect on the chain.
        self.call(&mut OverlayedChanges::default(), state, method, arguments)
    }

    /// As [`Runtime::call`], with the result decoded.
    pub(crate) fn call_decoded<T: Decode>(
        &self,
        overlay: &mut OverlayedChanges<BlakeTwo256>,
        state: &State,
        method: &str,
        arguments: &impl Encode,
    ) -> Result<T, Error> {
        let output = self.call(overlay, state, method, &arguments.encode())?;
        T::decode(&mut &output[..])
            .map_err(|error| Error::Runtime { method: method.to_owned(), reason: error.to_string() })
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panicked".into())
}
