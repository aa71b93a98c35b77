//! Reads the outcome of a batch from its transaction's events.

use prb_core::{chain::DispatchError, primitives::Balance};
use scale_value::{At, Composite, Value, ValueDef};
use subxt::{
    SubstrateConfig,
    error::EventsError,
    events::{Event, Phase},
};

use super::Runtime;

/// The outcome of one transaction, according to its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtrinsicOutcome {
    /// The batch was executed.
    Ran {
        /// A result for each call.
        calls: Vec<Result<(), DispatchError>>,
        /// The transaction fee, if the runtime reports it.
        fee: Option<Balance>,
    },
    /// The transaction or the proxied call failed as a whole: no call took effect.
    Failed(DispatchError),
}

/// Why the outcome cannot be determined from the events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutcomeError {
    /// They cannot be decoded with this runtime's metadata.
    #[error("the block's events are not readable: {reason}")]
    Unreadable {
        /// The reason.
        reason: String,
    },
    /// They are not those of a batch with this many calls.
    #[error("the transaction's events report {found} calls instead of {expected}")]
    Count {
        /// Results found.
        found: usize,
        /// Calls in the batch.
        expected: usize,
    },
}

impl Runtime {
    /// Reads the outcome of the transaction at `index` in a block from the block's `System::Events`, which this
    /// runtime must have written.
    ///
    /// # Errors
    /// See [`OutcomeError`].
    pub fn batch_outcome(
        &self,
        events: Vec<u8>,
        index: u32,
        calls: usize,
    ) -> Result<ExtrinsicOutcome, OutcomeError> {
        let events = self.client().events().from_bytes(events);
        let mut results = Vec::with_capacity(calls);
        let (mut failed, mut fee) = (None, None);
        let mut ended = false;
        for event in events.iter() {
            let event = event.map_err(|e| unreadable(&e))?;
            if event.phase() != Phase::ApplyExtrinsic(index) {
                continue;
            }
            let fields = || fields(&event);
            match (event.pallet_name(), event.event_name()) {
                ("Utility", "ItemCompleted") => results.push(Ok(())),
                ("Utility", "ItemFailed") => results.push(Err(self.error_at(fields()?.at("error")))),
                // `Proxy::proxy` succeeds even if the call that it wraps has failed: only this event shows it.
                ("Proxy", "ProxyExecuted") => {
                    let fields = fields()?;
                    if let Some(error) = err_of(fields.at("result")) {
                        failed = Some(self.error_at(Some(error)));
                    }
                }
                ("TransactionPayment", "TransactionFeePaid") => {
                    fee = fields()?.at("actual_fee").and_then(Value::as_u128);
                }
                ("System", "ExtrinsicFailed") => {
                    ended = true;
                    failed = Some(self.error_at(fields()?.at("dispatch_error")));
                }
                ("System", "ExtrinsicSuccess") => ended = true,
                _ => {}
            }
        }
        match failed {
            Some(error) => Ok(ExtrinsicOutcome::Failed(error)),
            // Only with the final event and a result for each call: anything else is no batch of ours, or cut
            // off.
            None if ended && results.len() == calls => Ok(ExtrinsicOutcome::Ran { calls: results, fee }),
            None => Err(OutcomeError::Count { found: results.len(), expected: calls }),
        }
    }

    fn error_at(&self, error: Option<&Value<()>>) -> DispatchError {
        let name = error.and_then(|e| self.error_name(e)).unwrap_or_else(|| "Unknown".into());
        DispatchError { name }
    }

    /// Names an error: `Pallet::Error` for a `DispatchError::Module`, otherwise the variants' names.
    fn error_name(&self, error: &Value<()>) -> Option<String> {
        let ValueDef::Variant(variant) = &error.value else { return None };
        if variant.name != "Module" {
            return Some(match variant.values.at(0).and_then(variant_name) {
                Some(inner) => format!("{}::{inner}", variant.name),
                None => variant.name.clone(),
            });
        }
        let module = variant.values.at(0)?;
        let pallet = u8::try_from(module.at("index").or_else(|| module.at(0))?.as_u128()?).ok()?;
        let error = module.at("error").or_else(|| module.at(1))?;
        // The error has four bytes, of which the first is its index; in old runtimes one byte.
        let error = u8::try_from(error.as_u128().or_else(|| error.at(0)?.as_u128())?).ok()?;
        let metadata = self.metadata();
        let named = metadata
            .pallet_by_error_index(pallet)
            .and_then(|p| Some(format!("{}::{}", p.name(), p.error_variant_by_index(error)?.name)));
        Some(named.unwrap_or_else(|| format!("Module({pallet})::Error({error})")))
    }
}

fn fields(event: &Event<'_, SubstrateConfig>) -> Result<Composite<()>, OutcomeError> {
    event.decode_fields_unchecked_as().map_err(|e| unreadable(&e))
}

fn unreadable(e: &EventsError) -> OutcomeError {
    OutcomeError::Unreadable { reason: e.to_string() }
}

fn variant_name(value: &Value<()>) -> Option<&str> {
    match &value.value {
        ValueDef::Variant(variant) => Some(&variant.name),
        _ => None,
    }
}

/// The `Err` value of a `Result`.
fn err_of(result: Option<&Value<()>>) -> Option<&Value<()>> {
    match &result?.value {
        ValueDef::Variant(variant) if variant.name == "Err" => variant.values.at(0),
        _ => None,
    }
}
