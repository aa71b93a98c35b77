//! Encodes a session as JSON; [`super::state`] defines the layout.

use prb_core::{
    chain::{Session, SessionState},
    primitives::{Balance, PHA_DECIMALS},
    prpc::PhactoryInfo,
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// polkadot.js renders integers of up to this many bits as JSON numbers, longer ones as text.
const MAX_NUMBER_BITS: u32 = 52;
/// Decimals of displayed amounts.
const SHOWN_DECIMALS: u32 = 4;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    session: Option<ForPeople>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Fields<'a>>,
    #[serde(rename = "runtimeInfo")]
    runtime_info: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForPeople {
    state: SessionState,
    ve: String,
    v: String,
    v_updated_at: String,
    benchmark: Benchmark<String, String>,
    cool_down_start: String,
    stats: Stats<String>,
}

/// The chain's `SessionInfo`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    state: &'a SessionState,
    ve: U128,
    v: U128,
    v_updated_at: U64,
    benchmark: Benchmark<u32, U64>,
    cool_down_start: U64,
    stats: Stats<U128>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Benchmark<N, T> {
    p_init: N,
    p_instant: N,
    iterations: T,
    working_start_time: T,
    challenge_time_last: T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats<T> {
    total_reward: T,
}

struct U64(u64);
struct U128(u128);

impl Serialize for U64 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0 >> MAX_NUMBER_BITS == 0 {
            return s.serialize_u64(self.0);
        }
        // polkadot.js pads hexadecimal text to the type's width.
        s.collect_str(&format_args!("{:#018x}", self.0))
    }
}

impl Serialize for U128 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match u64::try_from(self.0) {
            Ok(small) if small >> MAX_NUMBER_BITS == 0 => s.serialize_u64(small),
            _ => s.collect_str(&format_args!("{:#034x}", self.0)),
        }
    }
}

/// Returns the text of `session_info_json`.
pub(super) fn json(session: Option<&Session>, info: Option<&PhactoryInfo>) -> String {
    let document = Document {
        session: session.map(for_people),
        raw: session.map(fields),
        runtime_info: info.map_or_else(|| Value::Object(Map::new()), runtime_info),
    };
    // Cannot fail: the document has only texts and numbers.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

fn for_people(session: &Session) -> ForPeople {
    ForPeople {
        state: session.state,
        ve: fixed(session.ve),
        v: fixed(session.v),
        v_updated_at: grouped(session.v_updated_at),
        benchmark: Benchmark {
            p_init: grouped(session.p_init),
            p_instant: grouped(session.p_instant),
            iterations: grouped(session.iterations),
            working_start_time: grouped(session.working_start_time),
            challenge_time_last: grouped(session.challenge_time_last),
        },
        cool_down_start: grouped(session.cool_down_start),
        stats: Stats { total_reward: amount(session.total_reward) },
    }
}

fn fields(session: &Session) -> Fields<'_> {
    Fields {
        state: &session.state,
        ve: U128(session.ve),
        v: U128(session.v),
        v_updated_at: U64(session.v_updated_at),
        benchmark: Benchmark {
            p_init: session.p_init,
            p_instant: session.p_instant,
            iterations: U64(session.iterations),
            working_start_time: U64(session.working_start_time),
            challenge_time_last: U64(session.challenge_time_last),
        },
        cool_down_start: U64(session.cool_down_start),
        stats: Stats { total_reward: U128(session.total_reward) },
    }
}

/// Formats U64F64 bits with 8 decimals, rounded half up.
fn fixed(bits: u128) -> String {
    const DECIMALS: u128 = 100_000_000;
    let fraction = bits & u128::from(u64::MAX);
    // Cannot overflow: the fraction has 64 bits, and 10^8 has 27.
    let scaled = (fraction * DECIMALS + (1 << 63)) >> 64;
    let whole = (bits >> 64) + scaled / DECIMALS;
    format!("{whole}.{:08}", scaled % DECIMALS)
}

/// Formats a number as `1,234,567`.
fn grouped(number: impl Into<u128>) -> String {
    let digits = number.into().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats an amount as `1,234.5678 PHA`, truncated.
fn amount(amount: Balance) -> String {
    let unit = 10u128.pow(PHA_DECIMALS);
    let fraction = amount % unit / 10u128.pow(PHA_DECIMALS - SHOWN_DECIMALS);
    format!("{}.{fraction:04} PHA", grouped(amount / unit))
}

/// Formats pRuntime's info as protobuf.js does: lowerCamelCase, enums by name.
fn runtime_info(info: &PhactoryInfo) -> Value {
    let mut value = camel(serde_json::to_value(info).unwrap_or_default());
    name_role(value.get_mut("gatekeeper"));
    name_role(value.get_mut("system").and_then(|system| system.get_mut("gatekeeper")));
    value
}

fn name_role(gatekeeper: Option<&mut Value>) {
    /// `GatekeeperRole`, by number.
    const ROLES: [&str; 3] = ["None", "Dummy", "Active"];
    let Some(role) = gatekeeper.and_then(|g| g.get_mut("role")) else { return };
    let name = role.as_u64().and_then(|n| usize::try_from(n).ok()).and_then(|n| ROLES.get(n));
    if let Some(name) = name {
        *role = Value::from(*name);
    }
}

/// Converts the keys of a value to lowerCamelCase.
fn camel(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (camel_key(&key), camel(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(camel).collect()),
        other => other,
    }
}

fn camel_key(key: &str) -> String {
    let mut words = key.split('_');
    let mut text = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    text
}
