//! The JSON form of the API's messages: snake_case names, bytes as arrays of numbers, `null` for absent
//! values. Converted from and to protobuf, so that the rest knows one form only.

use prb_core::prpc::Method;
use serde_json::{Map, Value};

use super::Refusal;

#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Number,
    Text,
    Bytes,
    Message(Fields),
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// Always has a value; a default one is not on the wire.
    Plain,
    Optional,
    Repeated,
}

type Field = (&'static str, u32, Rule, Kind);
type Fields = &'static [Field];

use Kind::{Bool, Bytes, Message, Number, Text};
use Rule::{Optional, Plain, Repeated};

const GATEKEEPER: Fields = &[("role", 1, Plain, Number), ("master_public_key", 2, Plain, Text)];
const MEMORY: Fields = &[
    ("rust_used", 1, Plain, Number),
    ("rust_peak_used", 2, Plain, Number),
    ("total_peak_used", 3, Plain, Number),
    ("free", 4, Plain, Number),
    ("rust_spike", 5, Plain, Number),
];
const SYSTEM: Fields = &[
    ("registered", 1, Plain, Bool),
    ("public_key", 2, Plain, Text),
    ("ecdh_public_key", 3, Plain, Text),
    ("gatekeeper", 4, Optional, Message(GATEKEEPER)),
    ("number_of_clusters", 5, Plain, Number),
    ("number_of_contracts", 6, Plain, Number),
    ("max_supported_consensus_version", 7, Plain, Number),
    ("genesis_block", 8, Plain, Number),
];
const INFO: Fields = &[
    ("initialized", 1, Plain, Bool),
    ("registered", 2, Plain, Bool),
    ("genesis_block_hash", 4, Optional, Text),
    ("public_key", 5, Optional, Text),
    ("ecdh_public_key", 6, Optional, Text),
    ("headernum", 7, Plain, Number),
    ("para_headernum", 8, Plain, Number),
    ("blocknum", 9, Plain, Number),
    ("state_root", 10, Plain, Text),
    ("dev_mode", 11, Plain, Bool),
    ("pending_messages", 12, Plain, Number),
    ("score", 13, Plain, Number),
    ("gatekeeper", 14, Optional, Message(GATEKEEPER)),
    ("version", 15, Plain, Text),
    ("git_revision", 16, Plain, Text),
    ("memory_usage", 18, Optional, Message(MEMORY)),
    ("waiting_for_paraheaders", 21, Plain, Bool),
    ("system", 23, Optional, Message(SYSTEM)),
    ("can_load_chain_state", 24, Plain, Bool),
    ("safe_mode_level", 25, Plain, Number),
    ("current_block_time", 26, Plain, Number),
    ("max_supported_pink_runtime_version", 27, Plain, Text),
    ("supported_attestation_methods", 28, Repeated, Text),
    ("live_sidevm_instances", 29, Plain, Number),
    ("query_timeout", 30, Plain, Number),
];
const INIT_REQUEST: Fields = &[
    ("skip_ra", 1, Plain, Bool),
    ("encoded_genesis_info", 2, Plain, Bytes),
    ("debug_set_key", 3, Optional, Bytes),
    ("encoded_genesis_state", 4, Plain, Bytes),
    ("encoded_operator", 5, Optional, Bytes),
    ("is_parachain", 6, Plain, Bool),
    ("attestation_provider", 7, Optional, Bytes),
];
const REPORT: Fields =
    &[("report", 1, Plain, Text), ("signature", 2, Plain, Bytes), ("signing_cert", 3, Plain, Bytes)];
const ATTESTATION: Fields = &[
    ("version", 1, Plain, Number),
    ("provider", 2, Plain, Text),
    ("payload", 3, Optional, Message(REPORT)),
    ("timestamp", 4, Plain, Number),
    ("encoded_report", 5, Plain, Bytes),
];
const INIT_RESPONSE: Fields = &[
    ("encoded_runtime_info", 1, Plain, Bytes),
    ("encoded_genesis_block_hash", 2, Plain, Bytes),
    ("encoded_public_key", 3, Plain, Bytes),
    ("encoded_ecdh_public_key", 4, Plain, Bytes),
    ("attestation", 5, Optional, Message(ATTESTATION)),
];
const RUNTIME_INFO: Fields =
    &[("force_refresh_ra", 1, Plain, Bool), ("encoded_operator", 2, Optional, Bytes)];
const RELAY_HEADERS: Fields =
    &[("encoded_headers", 1, Plain, Bytes), ("encoded_authority_set_change", 2, Optional, Bytes)];
const PARA_HEADERS: Fields = &[("encoded_headers", 1, Plain, Bytes), ("proof", 2, Repeated, Bytes)];
const COMBINED: Fields = &[
    ("encoded_relaychain_headers", 1, Plain, Bytes),
    ("authority_set_change", 2, Optional, Bytes),
    ("encoded_parachain_headers", 3, Plain, Bytes),
    ("proof", 4, Repeated, Bytes),
];
const SYNCED: Fields = &[("synced_to", 1, Plain, Number)];
const BOTH_SYNCED: Fields =
    &[("relaychain_synced_to", 1, Plain, Number), ("parachain_synced_to", 2, Plain, Number)];
const BLOCKS: Fields = &[("encoded_blocks", 1, Plain, Bytes)];
const EGRESS: Fields = &[("encoded_messages", 1, Plain, Bytes)];
const ADD_ENDPOINT: Fields = &[("encoded_endpoint_type", 1, Plain, Bytes), ("endpoint", 2, Plain, Text)];
const SIGN_ENDPOINTS: Fields = &[("encoded_endpoints", 1, Plain, Bytes)];
const ENDPOINT: Fields =
    &[("encoded_endpoint_payload", 1, Optional, Bytes), ("signature", 2, Optional, Bytes)];
const CHAIN_STATE: Fields = &[("block_number", 1, Plain, Number), ("encoded_state", 2, Plain, Bytes)];
const STOP: Fields = &[("remove_checkpoints", 1, Plain, Bool)];
const ECHO: Fields = &[("echo_msg", 1, Plain, Bytes)];

/// The request and response fields of a method.
const fn shapes(method: Method) -> (Fields, Fields) {
    match method {
        Method::GetInfo => (&[], INFO),
        Method::InitRuntime => (INIT_REQUEST, INIT_RESPONSE),
        Method::GetRuntimeInfo => (RUNTIME_INFO, INIT_RESPONSE),
        Method::SyncHeader => (RELAY_HEADERS, SYNCED),
        Method::SyncParaHeader => (PARA_HEADERS, SYNCED),
        Method::SyncCombinedHeaders => (COMBINED, BOTH_SYNCED),
        Method::DispatchBlocks => (BLOCKS, SYNCED),
        Method::GetEgressMessages => (&[], EGRESS),
        Method::AddEndpoint => (ADD_ENDPOINT, ENDPOINT),
        Method::SignEndpointInfo => (SIGN_ENDPOINTS, ENDPOINT),
        Method::GetEndpointInfo | Method::RefreshEndpointSigningTime => (&[], ENDPOINT),
        Method::LoadChainState => (CHAIN_STATE, &[]),
        Method::TakeCheckpoint => (&[], SYNCED),
        Method::Stop => (STOP, &[]),
        Method::Echo => (ECHO, ECHO),
        _ => (&[], &[]),
    }
}

/// Converts a JSON request to protobuf; an empty body is an empty request.
///
/// # Errors
/// [`Refusal::Decode`].
pub(crate) fn request(method: Method, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| Refusal::Decode(error.to_string()))?;
    let mut out = Vec::new();
    encode(shapes(method).0, &value, &mut out).map_err(|name| Refusal::Decode(format!("bad {name}")))?;
    Ok(out)
}

/// Converts a method's protobuf answer to JSON.
pub(crate) fn response(method: Method, body: &[u8]) -> Vec<u8> {
    let value = decode(shapes(method).1, body).unwrap_or_default();
    value.to_string().into_bytes()
}

fn encode(fields: Fields, value: &Value, out: &mut Vec<u8>) -> Result<(), &'static str> {
    for (name, tag, rule, kind) in fields {
        match value.get(name) {
            // An absent field is not written: protobuf decodes it as the default.
            None | Some(Value::Null) => {}
            // Bytes are arrays as well, but of one field.
            Some(Value::Array(items)) if *rule == Repeated => {
                for item in items {
                    encode_one(*tag, *kind, item, out).ok_or(*name)?;
                }
            }
            Some(item) => encode_one(*tag, *kind, item, out).ok_or(*name)?,
        }
    }
    Ok(())
}

fn encode_one(tag: u32, kind: Kind, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    let number = |value: u64, out: &mut Vec<u8>| {
        put_varint(u64::from(tag) << 3, out);
        put_varint(value, out);
    };
    let bytes = |value: &[u8], out: &mut Vec<u8>| {
        put_varint(u64::from(tag) << 3 | 2, out);
        put_varint(value.len() as u64, out);
        out.extend_from_slice(value);
    };
    match kind {
        Bool => number(value.as_bool()?.into(), out),
        Number => number(value.as_u64()?, out),
        Text => bytes(value.as_str()?.as_bytes(), out),
        Bytes => {
            let byte = |item: &Value| item.as_u64().and_then(|byte| u8::try_from(byte).ok());
            let value: Vec<u8> = value.as_array()?.iter().map(byte).collect::<Option<_>>()?;
            bytes(&value, out);
        }
        Message(fields) => {
            let mut inner = Vec::new();
            encode(fields, value, &mut inner).ok()?;
            bytes(&inner, out);
        }
    }
    Some(())
}

fn decode(fields: Fields, mut bytes: &[u8]) -> Option<Value> {
    // All fields, because JSON answers show the default ones that the wire leaves out.
    let mut object: Map<String, Value> =
        fields.iter().map(|(name, _, rule, kind)| ((*name).into(), absent(*rule, *kind))).collect();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let (number, data) = match key & 7 {
            0 => (take_varint(&mut bytes)?, &bytes[..0]),
            2 => {
                let len = usize::try_from(take_varint(&mut bytes)?).ok()?;
                let (data, rest) = bytes.split_at_checked(len)?;
                bytes = rest;
                (0, data)
            }
            // Fixed-width wire types: the API has no such fields.
            _ => return None,
        };
        // Unknown fields are skipped, as protobuf requires.
        let Some((name, _, rule, kind)) = fields.iter().find(|field| u64::from(field.1) == key >> 3) else {
            continue;
        };
        let value = match kind {
            Bool => Value::Bool(number != 0),
            Number => number.into(),
            // Only the answers of this program are converted, and their text is valid.
            Text => String::from_utf8_lossy(data).into(),
            Bytes => data.to_vec().into(),
            Message(fields) => decode(fields, data)?,
        };
        match object.get_mut(*name) {
            Some(Value::Array(items)) if *rule == Repeated => items.push(value),
            _ => drop(object.insert((*name).into(), value)),
        }
    }
    Some(object.into())
}

fn absent(rule: Rule, kind: Kind) -> Value {
    match (rule, kind) {
        (Optional, _) => Value::Null,
        (Repeated, _) | (_, Bytes) => Value::Array(Vec::new()),
        (_, Bool) => false.into(),
        (_, Number) => 0.into(),
        (_, Text) => "".into(),
        (_, Message(_)) => Value::Null,
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_core::prpc;
    use prost::Message as _;

    use super::*;

    #[test]
    fn json_requests_convert_to_protobuf() {
        let json = r#"{"encoded_headers":[1,2,300],"proof":[]}"#;
        assert!(matches!(request(Method::SyncParaHeader, json.as_bytes()), Err(Refusal::Decode(_))));
        let json = r#"{"encoded_headers":[1,200],"proof":[[3],[4,5]],"more":1}"#;
        let body = request(Method::SyncParaHeader, json.as_bytes()).unwrap();
        let message = prpc::ParaHeadersToSync::decode(body.as_slice()).unwrap();
        assert_eq!(message.encoded_headers.as_ref(), [1, 200]);
        assert_eq!(message.proof, [vec![3], vec![4, 5]]);
        assert!(request(Method::Echo, b"{").is_err());
        assert!(request(Method::Echo, b"").unwrap().is_empty());
    }

    #[test]
    fn info_is_equal_in_json_and_protobuf() {
        let info = prpc::PhactoryInfo {
            headernum: 300,
            system: Some(prpc::SystemInfo { genesis_block: 7, ..Default::default() }),
            supported_attestation_methods: vec!["dcap".into(), "none".into()],
            score: u64::MAX,
            ..Default::default()
        };
        let json: Value = serde_json::from_slice(&response(Method::GetInfo, &info.encode_to_vec())).unwrap();
        assert_eq!(json, serde_json::to_value(&info).unwrap());
    }
}
