//! Converts protobuf messages to and from protobuf.js's JSON, by a [`schema`](super::schema).
//!
//! Fields are ordered by number and named in lowerCamelCase; 64-bit numbers are decimal texts, enums names,
//! bytes base64. Missing fields are omitted unless the schema requires them, as are empty lists.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};
use serde_json::Value;

use super::schema::{Field, Kind, Message};

/// The values of one field, in the order of arrival.
#[derive(Clone, Debug)]
enum WireValue {
    Number(u64),
    Bytes(Bytes),
}

/// Converts a message to JSON.
///
/// # Errors
/// The bytes are not a valid message.
pub(super) fn to_json(message: &Message, data: Bytes) -> Result<String, String> {
    let mut text = String::with_capacity(data.len() * 2 + 16);
    write_message(message, data, &mut text)?;
    Ok(text)
}

fn write_message(message: &Message, data: Bytes, text: &mut String) -> Result<(), String> {
    let fields = read_fields(message, data)?;
    text.push('{');
    let mut first = true;
    for (field, values) in message.0.iter().zip(fields) {
        if values.is_empty() && !field.always {
            continue;
        }
        if !std::mem::take(&mut first) {
            text.push(',');
        }
        text.push('"');
        text.push_str(field.name);
        text.push_str("\":");
        write_field(field, values, text)?;
    }
    text.push('}');
    Ok(())
}

fn write_field(field: &Field, mut values: Vec<WireValue>, text: &mut String) -> Result<(), String> {
    if field.repeated {
        text.push('[');
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            write_value(field.kind, value, text)?;
        }
        text.push(']');
        return Ok(());
    }
    let value = match field.kind {
        // Repeated occurrences of one message are merged by concatenation.
        Kind::Message(_) => {
            let parts = values.iter().filter_map(|value| match value {
                WireValue::Bytes(part) => Some(part.as_ref()),
                WireValue::Number(_) => None,
            });
            WireValue::Bytes(parts.collect::<Vec<_>>().concat().into())
        }
        _ => values.pop().unwrap_or(WireValue::Number(0)),
    };
    write_value(field.kind, value, text)
}

fn write_value(kind: Kind, value: WireValue, text: &mut String) -> Result<(), String> {
    use std::fmt::Write as _;
    // Cannot fail: writing to a String is infallible.
    let _ = match (kind, value) {
        (Kind::Message(message), WireValue::Bytes(data)) => return write_message(message, data, text),
        (Kind::Bool, WireValue::Number(n)) => write!(text, "{}", n != 0),
        // The low 32 bits, by protobuf's rules.
        (Kind::Int32, WireValue::Number(n)) => write!(text, "{}", n as u32 as i32),
        (Kind::Uint32, WireValue::Number(n)) => write!(text, "{}", n as u32),
        (Kind::Uint64, WireValue::Number(n)) => write!(text, "\"{n}\""),
        (Kind::Enum(names), WireValue::Number(n)) => match usize::try_from(n).ok().and_then(|n| names.get(n))
        {
            Some(name) => write!(text, "\"{name}\""),
            None => write!(text, "{}", n as u32 as i32),
        },
        (Kind::Text, WireValue::Bytes(bytes)) => {
            write!(text, "{}", Value::from(String::from_utf8_lossy(&bytes).into_owned()))
        }
        (Kind::Bytes, WireValue::Bytes(bytes)) => write!(text, "\"{}\"", STANDARD.encode(bytes)),
        _ => return Err("a field has another type".to_owned()),
    };
    Ok(())
}

/// Reads the values of each of the message's fields. Fields that are not in the schema are skipped.
fn read_fields(message: &Message, mut data: Bytes) -> Result<Vec<Vec<WireValue>>, String> {
    let mut fields = vec![Vec::new(); message.0.len()];
    while data.has_remaining() {
        let (number, wire) = decode_key(&mut data).map_err(|error| error.to_string())?;
        let index = message.0.iter().position(|field| field.number == number);
        let value = match (index, wire) {
            (Some(_), WireType::Varint) => {
                WireValue::Number(decode_varint(&mut data).map_err(|error| error.to_string())?)
            }
            (Some(_), WireType::LengthDelimited) => {
                let length = decode_varint(&mut data).map_err(|error| error.to_string())?;
                let length = usize::try_from(length).ok().filter(|length| *length <= data.remaining());
                WireValue::Bytes(data.split_to(length.ok_or("a field is longer than its message")?))
            }
            _ => {
                let skipped = skip_field(wire, number, &mut data, DecodeContext::default());
                skipped.map_err(|error| error.to_string())?;
                continue;
            }
        };
        if let Some(index) = index {
            fields[index].push(value);
        }
    }
    Ok(fields)
}

/// Converts a message from JSON. Unknown fields are ignored, and `null` counts as absent.
///
/// # Errors
/// Names the invalid value and what is allowed. The value is not quoted, because it may be a secret.
pub(super) fn from_json(message: &Message, value: &Value) -> Result<Vec<u8>, String> {
    read_message(message, value, "the request")
}

fn read_message(message: &Message, value: &Value, path: &str) -> Result<Vec<u8>, String> {
    let Value::Object(object) = value else { return Err(format!("{path} must be an object")) };
    let mut data = Vec::new();
    for field in message.0 {
        let path =
            if path == "the request" { field.name.to_owned() } else { format!("{path}.{}", field.name) };
        match (object.get(field.name), field.repeated) {
            (None | Some(Value::Null), _) => {}
            (Some(Value::Array(values)), true) => {
                for (index, value) in values.iter().enumerate() {
                    read_value(field, value, &format!("{path}[{index}]"), &mut data)?;
                }
            }
            (Some(_), true) => return Err(format!("{path} must be a list")),
            (Some(value), false) => read_value(field, value, &path, &mut data)?,
        }
    }
    Ok(data)
}

fn read_value(field: &Field, value: &Value, path: &str, data: &mut Vec<u8>) -> Result<(), String> {
    let number = |limits: std::ops::RangeInclusive<i128>, what: &str| {
        let number = integer(value).filter(|number| limits.contains(number));
        number.ok_or_else(|| format!("{path} must be {what}"))
    };
    let varint = match field.kind {
        Kind::Bool => match value {
            Value::Bool(is) => u64::from(*is),
            _ => return Err(format!("{path} must be true or false")),
        },
        // Negative numbers are encoded with 64 bits.
        Kind::Int32 => number(i128::from(i32::MIN)..=i128::from(i32::MAX), "a 32-bit integer")? as u64,
        Kind::Uint32 => number(0..=i128::from(u32::MAX), "an integer from 0 to 2^32 - 1")? as u64,
        Kind::Uint64 => number(0..=i128::from(u64::MAX), "an integer from 0 to 2^64 - 1")? as u64,
        Kind::Enum(names) => match names.iter().position(|name| value.as_str() == Some(name)) {
            Some(number) => number as u64,
            None => number(0..=i128::from(i32::MAX), &format!("one of {}", names.join(", ")))? as u64,
        },
        Kind::Text => return text(field, value, path, data),
        Kind::Bytes => {
            let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok());
            put_bytes(field, &bytes.ok_or_else(|| format!("{path} must be base64"))?, data);
            return Ok(());
        }
        Kind::Message(message) => {
            put_bytes(field, &read_message(message, value, path)?, data);
            return Ok(());
        }
    };
    encode_key(field.number, WireType::Varint, data);
    encode_varint(varint, data);
    Ok(())
}

/// Reads a text; an integer counts as its digits, as in the original.
fn text(field: &Field, value: &Value, path: &str, data: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::String(text) => put_bytes(field, text.as_bytes(), data),
        Value::Number(number) if number.is_u64() => put_bytes(field, number.to_string().as_bytes(), data),
        _ => return Err(format!("{path} must be a string")),
    }
    Ok(())
}

fn put_bytes(field: &Field, bytes: &[u8], data: &mut Vec<u8>) {
    encode_key(field.number, WireType::LengthDelimited, data);
    encode_varint(bytes.len() as u64, data);
    data.put_slice(bytes);
}

/// Reads an integer, or the decimal text of one.
fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => number.as_i128().or_else(|| {
            // `5.0` is an integer in JavaScript.
            let float = number.as_f64()?;
            (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i128)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_walkie::{
        proto::{Empty, WorkerState, WorkerStateUpdate, data_provider as dp, db, lifecycle as lm},
        rpc::Method,
    };
    use prost::Message as _;
    use serde_json::json;

    use super::{super::schema::messages, *};

    fn shown(method: Method, answer: &impl prost::Message) -> String {
        to_json(messages(method).unwrap().1, answer.encode_to_vec().into()).unwrap()
    }

    fn read(method: Method, request: Value) -> Result<Vec<u8>, String> {
        from_json(messages(method).unwrap().0, &request)
    }

    #[test]
    fn every_method_has_messages() {
        for method in Method::ALL {
            assert!(messages(*method).is_some(), "{method:?}");
        }
    }

    #[test]
    fn fields_always_set_by_the_original_are_shown() {
        let pool =
            db::Pool { uuid: "u".into(), name: "a \"b\"\u{7}".into(), pid: u64::MAX, ..db::Pool::default() };
        let text = shown(Method::ListPool, &lm::PoolList { pools: vec![pool] });
        assert_eq!(
            text,
            r#"{"pools":[{"uuid":"u","pid":"18446744073709551615","name":"a \"b\"\u0007","enabled":false,"deleted":false,"syncOnly":false}]}"#
        );
        assert_eq!(shown(Method::ListPool, &lm::PoolList::default()), "{}");
        let info = dp::Info { status: 1, para_id: -1, blob_server_port: 8012, ..dp::Info::default() };
        let text = shown(Method::GetDataProviderInfo, &info);
        assert!(text.starts_with(r#"{"status":"S_SYHCHING","paraId":-1,"parentStartHeader":0,"#), "{text}");
        assert!(text.ends_with(r#","paraCommittedHeight":0,"blobServerPort":8012}"#), "{text}");
        let state = WorkerState { status: 99, para_block_dispatched_to: -1, ..WorkerState::default() };
        let text = shown(Method::KickWorker, &WorkerStateUpdate { worker_states: vec![state] });
        assert!(text.starts_with(r#"{"workerStates":[{"status":99,"parentHeaderSynchedTo":0,"#), "{text}");
        assert!(text.contains(r#""paraBlockDispatchedTo":-1,"initialized":false}"#), "{text}");
        let blob = dp::RawBlob { key: "k".into(), empty: false, data: vec![0, 255, 254].into() };
        assert_eq!(shown(Method::GetBlobByKey, &blob), r#"{"key":"k","empty":false,"data":"AP/+"}"#);
    }

    #[test]
    fn requests_accept_common_spellings() {
        let request = json!({ "pools": [
            { "pid": "2", "name": "a", "owner": { "mnemonic": "m" }, "enabled": true, "unknown": [1], "syncOnly": null },
            { "pid": 7, "name": "b", "realPhalaSs58": "", "enabled": false },
        ] });
        let pools = lm::CreatePool::decode(&*read(Method::CreatePool, request).unwrap()).unwrap().pools;
        assert_eq!((pools[0].pid, &*pools[0].name, pools[0].enabled), (2, "a", true));
        assert_eq!(pools[0].owner.as_ref().unwrap().mnemonic, "m");
        assert_eq!((pools[1].pid, pools[1].enabled), (7, false));
        let request = json!({ "workers": [{ "stake": 123, "pid": 5.0 }] });
        let workers =
            lm::CreateWorker::decode(&*read(Method::CreateWorker, request).unwrap()).unwrap().workers;
        assert_eq!((&*workers[0].stake, workers[0].pid), ("123", 5));
        let want = dp::WantBlob::decode(
            &*read(Method::WantBlob, json!({ "number": 3, "type": "BT_PARA_BLOCK" })).unwrap(),
        );
        assert_eq!((want.as_ref().unwrap().number, want.unwrap().r#type), (3, 2));
        // An explicit zero is encoded: it selects the kind of id.
        let item = json!({ "items": [{ "id": { "pid": 0 }, "pool": { "deleted": true } }] });
        let items = lm::UpdatePool::decode(&*read(Method::UpdatePool, item).unwrap()).unwrap().items;
        assert!(items[0].id.as_ref().unwrap().identity.is_some());
        assert_eq!(Empty::decode(&*read(Method::ListPool, json!({})).unwrap()).unwrap(), Empty {});
    }

    #[test]
    fn invalid_values_are_named_by_path_and_not_quoted() {
        for (request, path) in [
            (json!([]), "the request must be an object"),
            (json!({ "pools": {} }), "pools must be a list"),
            (json!({ "pools": [{ "pid": -1 }] }), "pools[0].pid must be an integer"),
            (json!({ "pools": [{ "pid": "18446744073709551616" }] }), "pools[0].pid"),
            (json!({ "pools": [{ "enabled": "no" }] }), "pools[0].enabled must be true or false"),
            (
                json!({ "pools": [{ "owner": { "mnemonic": ["secret"] } }] }),
                "pools[0].owner.mnemonic must be a string",
            ),
        ] {
            let error = read(Method::CreatePool, request).unwrap_err();
            assert!(error.starts_with(path) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        let states = messages(Method::GetWorkerStatus).unwrap().1;
        for garbage in [&[0xff][..], &[0x0a, 0x05, 0x01], &[0x08, 0x01]] {
            assert!(to_json(states, Bytes::copy_from_slice(garbage)).is_err(), "{garbage:x?}");
        }
        // A field of a later version is not an error.
        assert_eq!(to_json(states, Bytes::from_static(&[0x7a, 0x01, 0x41])), Ok("{}".into()));
    }
}
