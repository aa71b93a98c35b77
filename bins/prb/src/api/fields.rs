//! The fields of pools and workers in requests. Absent fields keep their value, or get their default.

use std::fmt;

use prb_core::{
    inventory::{AfterExternalStop, Pool, Worker},
    manage::{PoolValue, WorkerValue},
    primitives::PoolId,
};
use secrecy::SecretString;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, Visitor},
};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::problem::Fault;
use crate::redact;

/// A worker's fields. A new worker needs `name`, `pid`, `endpoint` and `stake`; in a change, absent
/// fields keep their value.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerFields {
    /// Its name; unique.
    name: Option<String>,
    /// Its pool's number on chain; the pool must exist.
    pid: Option<u64>,
    /// Its pRuntime's URL; unique.
    #[schema(example = "http://10.0.0.11:8000")]
    endpoint: Option<String>,
    /// The stake for computing, in 10^-12 PHA: a decimal string, or an integer if it is exact; or a string with an
    /// amount and its unit, such as `1500.5 PHA`.
    #[schema(value_type = Option<String>, example = "30000000000000000")]
    stake: Option<Amount>,
    /// Whether it runs (default: true).
    enabled: Option<bool>,
    /// Sync it, send nothing on chain (default: false).
    sync_only: Option<bool>,
    /// A gatekeeper: registered and synced, but not started (default: false).
    gatekeeper: Option<bool>,
    /// URLs to announce on chain; an empty list announces none.
    endpoints: Option<Vec<String>>,
    /// What to do after a stop by somebody else: `stay-stopped`, `reclaim` or `start-again`; null inherits
    /// the pool's setting.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    after_stop: Option<Option<AfterExternalStop>>,
}

/// A pool's fields. A new pool needs `pid`, and a `secret` unless it only syncs; in a change, absent
/// fields keep their value.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolFields {
    /// Its number on chain.
    pid: Option<u64>,
    /// Its name; unique (default: `pool-{pid}`).
    name: Option<String>,
    /// The operator's mnemonic or secret URI. Sealed immediately; no answer ever contains it.
    #[serde(default, deserialize_with = "secret")]
    #[schema(value_type = Option<String>, write_only)]
    secret: Option<SecretString>,
    /// Address of the account that owns the pool, if the operator is its proxy; null for none.
    #[serde(default, deserialize_with = "given_address")]
    #[schema(value_type = Option<String>)]
    proxied: Option<Option<String>>,
    /// Whether its workers run (default: true).
    enabled: Option<bool>,
    /// Sync its workers, send nothing on chain (default: false).
    sync_only: Option<bool>,
    /// What to do after a stop by somebody else: `stay-stopped`, `reclaim` or `start-again`; null inherits
    /// the fleet's setting.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    after_stop: Option<Option<AfterExternalStop>>,
}

impl WorkerFields {
    /// Returns the complete value; absent fields come from the present entry, if there is one.
    ///
    /// # Errors
    ///
    /// The missing fields.
    pub(super) fn merged_with(self, old: Option<&Worker>) -> Result<WorkerValue, Vec<Fault>> {
        let mut missing = Vec::new();
        let name = self.name.or_else(|| old.map(|w| w.name.clone()));
        let pid = self.pid.map(PoolId).or_else(|| old.map(|w| w.pid));
        let endpoint = self.endpoint.or_else(|| old.map(|w| w.endpoint.clone()));
        let stake = self.stake.map(|stake| stake.0).or_else(|| old.map(|w| w.stake.to_string()));
        let value = WorkerValue::default()
            .with_name(needed(name, "name", &mut missing))
            .with_pid(needed(pid, "pid", &mut missing))
            .with_endpoint(needed(endpoint, "endpoint", &mut missing))
            .with_stake(needed(stake, "stake", &mut missing))
            .with_enabled(self.enabled.unwrap_or_else(|| old.is_none_or(|w| w.enabled)))
            .with_sync_only(self.sync_only.unwrap_or_else(|| old.is_some_and(|w| w.sync_only)))
            .with_gatekeeper(self.gatekeeper)
            .with_endpoints(self.endpoints)
            .with_after_stop(self.after_stop);
        if missing.is_empty() { Ok(value) } else { Err(missing) }
    }
}

impl PoolFields {
    /// Like [`WorkerFields::merged_with`].
    pub(super) fn merged_with(self, old: Option<&Pool>) -> Result<PoolValue, Vec<Fault>> {
        let mut missing = Vec::new();
        let pid = self.pid.map(PoolId).or_else(|| old.map(|p| p.pid));
        let pid = needed(pid, "pid", &mut missing);
        let name = self.name.or_else(|| old.map(|p| p.name.clone())).unwrap_or_else(|| format!("pool-{pid}"));
        let proxied = match self.proxied {
            Some(address) => address.unwrap_or_default(),
            None => old.and_then(|p| p.proxied).map(|account| account.to_string()).unwrap_or_default(),
        };
        let value = PoolValue::default()
            .with_pid(pid)
            .with_name(name)
            .with_secret(self.secret)
            .with_proxied(proxied)
            .with_enabled(self.enabled.unwrap_or_else(|| old.is_none_or(|p| p.enabled)))
            .with_sync_only(self.sync_only.unwrap_or_else(|| old.is_some_and(|p| p.sync_only)))
            .with_after_stop(self.after_stop);
        if missing.is_empty() { Ok(value) } else { Err(missing) }
    }
}

fn needed<T: Default>(value: Option<T>, field: &str, missing: &mut Vec<Fault>) -> T {
    value.unwrap_or_else(|| {
        missing.push(Fault::new("missing", format!("{field} is missing")).with_field(field));
        T::default()
    })
}

/// An amount as text, which the manager parses.
struct Amount(String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal string of 10^-12 PHA, or an amount such as 1500 PHA")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount(text.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }
        }
        d.deserialize_any(Text)
    }
}

/// A script whose variable is not set must not believe that it has replaced a secret.
fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SecretString>, D::Error> {
    let secret = String::deserialize(d)?;
    if secret.trim().is_empty() {
        return Err(de::Error::custom("it is empty: expected a mnemonic or secret URI, or no such field"));
    }
    Ok(Some(SecretString::from(secret)))
}

/// Like [`given`], for an address.
fn given_address<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<String>>, D::Error> {
    let address = Option::<String>::deserialize(d)?;
    if address.as_ref().is_some_and(|address| address.trim().is_empty()) {
        return Err(de::Error::custom("it is empty: expected an SS58 address, or null for none"));
    }
    Ok(Some(address))
}

/// Distinguishes null from an absent field.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// Reads the fields of an object.
///
/// # Errors
///
/// Every faulty field. Messages never quote a value: it may be a secret in the wrong field.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Fault>> {
    let Value::Object(fields) = value else {
        return Err(vec![Fault::new("invalid", "it must be an object of fields")]);
    };
    // One field at a time, because serde stops at the first fault.
    let single = |(name, value): (&String, &Value)| {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        let error = serde_json::from_value::<T>(Value::Object(alone)).err()?;
        let fault = Fault::new("invalid", unquoted(&error.to_string(), name));
        // A name that no field has may be a secret, too.
        Some(if redact::is_harmless(name) { fault.with_field(name) } else { fault })
    };
    let faults: Vec<Fault> = fields.iter().filter_map(single).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    serde_json::from_value(Value::Object(fields))
        .map_err(|_| vec![Fault::new("invalid", "it cannot be read")])
}

/// Returns serde's message about a field, without the value.
fn unquoted(message: &str, field: &str) -> String {
    if message.starts_with("unknown field") {
        return redact::scrubbed(message);
    }
    match message.rsplit_once("expected ") {
        Some((_, expected)) => format!("{field} must be {expected}"),
        None => format!("{field} cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn every_faulty_field_is_named_and_no_value_is_quoted() {
        let secret = "bottom drive obey lake";
        let Err(faults) = read::<PoolFields>(json!({
            "pid": secret, "name": 7, "secret": "ok", "after_stop": secret, "mnemonic": secret
        })) else {
            panic!("taken")
        };
        let mut fields: Vec<_> = faults.iter().map(|fault| fault.field.clone().unwrap()).collect();
        fields.sort();
        assert_eq!(fields, ["after_stop", "mnemonic", "name", "pid"]);
        assert!(faults.iter().all(|fault| !fault.message.contains(secret)), "{faults:?}");
        let Err(faults) = read::<PoolFields>(json!({ secret: 1, "nam": "x" })) else { panic!("taken") };
        let [first, second] = &faults[..] else { panic!("{faults:?}") };
        assert!(first.field.is_none() && !first.message.contains(secret), "{first:?}");
        assert!(second.message.contains("`nam`") && second.message.contains("`name`"), "{second:?}");
    }

    #[test]
    fn empty_secrets_and_addresses_are_refused() {
        for (fields, message) in [
            (json!({ "secret": "" }), "secret must be a mnemonic or secret URI, or no such field"),
            (json!({ "secret": " \n" }), "secret must be a mnemonic or secret URI, or no such field"),
            (json!({ "secret": null }), "secret must be a string"),
            (json!({ "proxied": "" }), "proxied must be an SS58 address, or null for none"),
        ] {
            let Err(faults) = read::<PoolFields>(fields.clone()) else { panic!("{fields} is taken") };
            assert_eq!(faults.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>(), [message]);
        }
        assert!(read::<PoolFields>(json!({ "proxied": null })).is_ok());
    }

    #[test]
    fn absent_fields_are_kept_and_null_clears() {
        let mut old = Worker::new(uuid::Uuid::nil(), PoolId(1), "w", "http://w", 5);
        old.enabled = false;
        let value = read::<WorkerFields>(json!({ "stake": 18446744073709551615u64, "after_stop": null }));
        let value = value.ok().unwrap().merged_with(Some(&old)).ok().unwrap();
        assert_eq!((value.name.as_str(), value.enabled), ("w", false));
        assert_eq!((value.stake.as_str(), value.after_stop), ("18446744073709551615", Some(None)));
        let Err(missing) = read::<WorkerFields>(json!({ "name": "x" })).ok().unwrap().merged_with(None)
        else {
            panic!("taken")
        };
        assert_eq!(missing.len(), 3);
    }
}
