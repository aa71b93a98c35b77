//! The calls of `PhactoryAPI` as bytes: protobuf messages with SCALE content.

use bytes::Bytes;
use codec::{Decode, Encode};
use parking_lot::Mutex;
use prb_core::{
    prpc::{self, Method},
    wire::{AuthoritySetChange, BlockHeaderWithChanges, Header, HeaderToSync},
};
use prost::Message;

use super::{
    Refusal,
    verifier::{Init, Pairs, Verifier},
};

/// Carries out one call. Blocks while another one holds the verifier, and for as long as the verification
/// takes.
///
/// `TakeCheckpoint` and `Stop` concern the process; only their effect on the state machine is handled here.
pub(crate) fn call(core: &Mutex<Verifier>, method: Method, body: Bytes) -> Result<Vec<u8>, Refusal> {
    match method {
        Method::GetInfo => answer(&core.lock().info()),
        Method::InitRuntime => init(core, proto(body)?),
        Method::GetRuntimeInfo => {
            let request: prpc::GetRuntimeInfoRequest = proto(body)?;
            let operator = optional(request.encoded_operator.as_deref())?;
            answer(&core.lock().runtime_info(request.force_refresh_ra, operator)?)
        }
        Method::SyncHeader => {
            let request: prpc::HeadersToSync = proto(body)?;
            let headers = scale::<Vec<HeaderToSync>>(&request.encoded_headers)?;
            // Not used, but like pRuntime's it must decode.
            optional::<AuthoritySetChange>(request.encoded_authority_set_change.as_deref())?;
            synced_to(core.lock().sync_relay(headers)?)
        }
        Method::SyncParaHeader => {
            let request: prpc::ParaHeadersToSync = proto(body)?;
            let headers = scale::<Vec<Header>>(&request.encoded_headers)?;
            synced_to(core.lock().sync_para(headers, &request.proof)?)
        }
        Method::SyncCombinedHeaders => {
            let request: prpc::CombinedHeadersToSync = proto(body)?;
            let relay = scale::<Vec<HeaderToSync>>(&request.encoded_relaychain_headers)?;
            optional::<AuthoritySetChange>(request.authority_set_change.as_deref())?;
            let para = scale::<Vec<Header>>(&request.encoded_parachain_headers)?;
            answer(&core.lock().sync_combined(relay, para, &request.proof)?)
        }
        Method::DispatchBlocks => dispatch(core, proto(body)?),
        Method::GetEgressMessages => {
            let encoded_messages = core.lock().egress();
            answer(&prpc::EgressMessages { encoded_messages })
        }
        Method::AddEndpoint => {
            let request: prpc::AddEndpointRequest = proto(body)?;
            answer(&core.lock().add_endpoint(request.encoded_endpoint_type, request.endpoint)?)
        }
        Method::SignEndpointInfo => {
            let request: prpc::SignEndpointsRequest = proto(body)?;
            let endpoints = scale::<Vec<String>>(&request.encoded_endpoints)?;
            answer(&core.lock().sign_endpoints(endpoints)?)
        }
        Method::GetEndpointInfo => answer(&core.lock().endpoint_info()?),
        Method::RefreshEndpointSigningTime => answer(&core.lock().refresh_endpoints()?),
        Method::LoadChainState => {
            let request: prpc::ChainState = proto(body)?;
            let pairs = scale::<Pairs>(&request.encoded_state)?;
            core.lock().load_chain_state(request.block_number, pairs)?;
            Ok(Vec::new())
        }
        Method::TakeCheckpoint => synced_to(core.lock().checkpoint_block()?),
        Method::Stop => proto::<prpc::StopOptions>(body).map(|_| Vec::new()),
        Method::Echo => answer(&proto::<prpc::EchoMessage>(body)?),
        _ => Err(Refusal::NotFound),
    }
}

fn init(core: &Mutex<Verifier>, request: prpc::InitRuntimeRequest) -> Result<Vec<u8>, Refusal> {
    let init = Init {
        genesis: scale(&request.encoded_genesis_info)?,
        state: scale(&request.encoded_genesis_state)?,
        operator: optional(request.encoded_operator.as_deref())?,
        debug_key: request.debug_set_key,
        // A bare enum, as a real one decodes it.
        provider: optional(request.attestation_provider.as_deref())?,
        is_parachain: request.is_parachain,
    };
    answer(&core.lock().init(init)?)
}

fn dispatch(core: &Mutex<Verifier>, request: prpc::Blocks) -> Result<Vec<u8>, Refusal> {
    let blocks = scale::<Vec<BlockHeaderWithChanges>>(&request.encoded_blocks)?;
    // On a copy and without the lock: meanwhile GetInfo is answered, and other calls are refused as busy, as by
    // pRuntime.
    let (mut runtime, pause) = {
        let mut core = core.lock();
        (core.begin_dispatch()?, core.options().work_faults.dispatch_pause())
    };
    if !pause.is_zero() {
        // Runs on a blocking thread.
        std::thread::sleep(pause);
    }
    let result = runtime.dispatch(blocks);
    match &result {
        // The process ends without keeping any of it.
        Err(Refusal::Abort(_)) => core.lock().abandon_dispatch(),
        // Also after a refusal: the blocks before the refused one stay applied.
        _ => core.lock().end_dispatch(runtime),
    }
    synced_to(result?)
}

fn answer(message: &impl Message) -> Result<Vec<u8>, Refusal> {
    Ok(message.encode_to_vec())
}

fn synced_to(synced_to: u32) -> Result<Vec<u8>, Refusal> {
    answer(&prpc::SyncedTo { synced_to })
}

fn proto<M: Message + Default>(body: Bytes) -> Result<M, Refusal> {
    M::decode(body).map_err(|error| Refusal::Decode(format!("{error:?}")))
}

/// Decodes SCALE; trailing bytes are ignored, as in pRuntime.
pub(crate) fn scale<T: Decode>(mut bytes: &[u8]) -> Result<T, Refusal> {
    T::decode(&mut bytes).map_err(|error| Refusal::Decode(format!("{error:?}")))
}

fn optional<T: Decode>(bytes: Option<&[u8]>) -> Result<Option<T>, Refusal> {
    bytes.map(scale).transpose()
}

/// Converts a legacy call's SCALE body to protobuf and returns its method.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::Decode`].
pub(crate) fn from_legacy(name: &str, mut body: &[u8]) -> Result<(Method, Vec<u8>), Refusal> {
    let bad = |error: codec::Error| Refusal::Decode(format!("{error:?}"));
    match name {
        "sync_combined_headers" => {
            // The SCALE fields of `SyncCombinedHeadersReq`; `DispatchBlockReq` below has one field, so its
            // bytes are those of `encoded_blocks`.
            type Request = (Vec<HeaderToSync>, Option<AuthoritySetChange>, Vec<Header>, Vec<Vec<u8>>);
            let (relay, change, para, proof) = Request::decode(&mut body).map_err(bad)?;
            let request = prpc::CombinedHeadersToSync {
                encoded_relaychain_headers: relay.encode().into(),
                authority_set_change: change.map(|change| change.encode()),
                encoded_parachain_headers: para.encode().into(),
                proof,
            };
            Ok((Method::SyncCombinedHeaders, request.encode_to_vec()))
        }
        "dispatch_block" => {
            let blocks = prpc::Blocks { encoded_blocks: Bytes::copy_from_slice(body) };
            Ok((Method::DispatchBlocks, blocks.encode_to_vec()))
        }
        _ => Err(Refusal::NotFound),
    }
}

/// The JSON content of a legacy call's answer.
pub(crate) fn legacy_payload(method: Method, answer: &[u8]) -> serde_json::Value {
    match method {
        Method::SyncCombinedHeaders => {
            let synced = prpc::HeadersSyncedTo::decode(answer).unwrap_or_default();
            serde_json::json!({
                "relaychain_synced_to": synced.relaychain_synced_to,
                "parachain_synced_to": synced.parachain_synced_to,
            })
        }
        _ => {
            let synced = prpc::SyncedTo::decode(answer).unwrap_or_default();
            serde_json::json!({ "dispatched_to": synced.synced_to })
        }
    }
}
