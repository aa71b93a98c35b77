//! All-or-nothing edits of pools and workers, by the same rules.
//!
//! The manager reports only the first faulty entry. To report all of them, the edit is tried on a copy of the
//! inventory without that entry, until no fault is left; where many are faulty, in parts.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use axum::{
    Json,
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use prb_core::{
    inventory::{Goal, Snapshot, shown_name},
    manage::{Change, Error, Item as ManagerItem, MAX_ENTRIES, Manager, OperatorKeys, Selector},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Api,
    fields::read,
    problem::{Fault, Problem, fault},
    query::EditQuery,
    request::{IfMatch, QueryString, etag},
};
use crate::entry_version;

/// Maximum number of faulty entries in one answer. With that many, some may be left out.
const MAX_FAULTS: usize = 100;
/// Faults after which the rest is tried in halves: each fault costs another try, and a hundred of ten thousand entries
/// would be a million entries tried.
const TRIES_OF_THE_WHOLE: usize = 8;
/// The least entries of which halves are tried. A try also costs something for each entry of the inventory.
const MIN_PART: usize = 256;
/// How many times an unconditional edit is merged again after a concurrent edit.
const MERGES: usize = 4;

/// The kind of entries of an edit: pools or workers.
#[async_trait]
pub(super) trait EntryKind: Sized + Send + Sync + 'static {
    /// Its name in messages.
    const NAME: &'static str;
    type Fields: DeserializeOwned + Send;
    type Value: Clone + Send + Sync;
    type Entry: Send + Sync;
    /// The body of an edit's answer.
    type Response: Serialize;

    fn complete(fields: Self::Fields, old: Option<&Self::Entry>) -> Result<Self::Value, Vec<Fault>>;
    fn name(value: &Self::Value) -> &str;
    fn name_of(entry: &Self::Entry) -> &str;
    fn find<'a>(snapshot: &'a Snapshot, named: &str) -> Option<&'a Arc<Self::Entry>>;
    fn by_id(snapshot: &Snapshot, id: Uuid) -> Option<&Arc<Self::Entry>>;
    fn id(entry: &Self::Entry) -> Uuid;
    fn version(entry: &Self::Entry) -> String;
    /// Returns a fault that the manager's dry run cannot find: an invalid secret.
    fn secret_fault(value: &Self::Value, keys: &dyn OperatorKeys) -> Option<Fault>;
    /// Builds the answer of an edit.
    fn shown(api: &Api, dry_run: bool, edited: &Edited<Self::Entry>) -> Self::Response;
    /// Returns why an entry must not be replaced by `new`, or deleted if that is `None`, without `force`.
    fn in_use_fault(
        manager: &Manager,
        snapshot: &Snapshot,
        entry: &Self::Entry,
        new: Option<&Self::Value>,
    ) -> Option<Fault>;
    async fn edit(
        manager: &Manager,
        items: Vec<ManagerItem<Self::Value>>,
    ) -> Result<Vec<Arc<Self::Entry>>, Error>;
}

/// The conditions of an edit: its query and `If-Match`.
pub(super) struct EditConditions {
    if_match: IfMatch,
    dry_run: bool,
    /// Whether entries may be deleted, and pools get another number, although others need them or they compute.
    force: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for EditConditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let QueryString(EditQuery { dry_run, force }) = QueryString::from_request_parts(parts, state).await?;
        Ok(Self { if_match: IfMatch::read(&parts.headers)?, dry_run, force })
    }
}

/// Adds entries, all or none.
pub(super) async fn post<K: EntryKind>(
    api: &Api,
    list: Vec<Value>,
    conditions: &EditConditions,
) -> Result<Response, Problem> {
    let edited = create::<K>(api, list, conditions).await?;
    let status = if conditions.dry_run { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, answer::<K>(api, &edited, conditions)).into_response())
}

/// Adds, changes and deletes entries, all or none.
pub(super) async fn patch<K: EntryKind>(
    api: &Api,
    list: Vec<Value>,
    conditions: &EditConditions,
) -> Result<Response, Problem> {
    let edited = update::<K>(api, list, conditions).await?;
    Ok(answer::<K>(api, &edited, conditions).into_response())
}

/// Changes or deletes one entry. `If-Match` and the answer's entity tag are of that entry.
pub(super) async fn one<K: EntryKind>(
    api: &Api,
    mut item: Value,
    conditions: EditConditions,
) -> Result<Response, Problem> {
    // At the address of one entry, the tag is the entry's: it becomes a version of this item, not a condition
    // on the whole inventory.
    if let IfMatch::Version(version) = conditions.if_match {
        item["version"] = Value::from(version);
    }
    let conditions = EditConditions { if_match: IfMatch::Any, ..conditions };
    let edited = update::<K>(api, vec![item], &conditions).await?;
    let body = Json(K::shown(api, conditions.dry_run, &edited));
    Ok(match edited.entries.first() {
        Some(entry) => (etag(&K::version(entry)), body).into_response(),
        None => body.into_response(),
    })
}

fn answer<K: EntryKind>(
    api: &Api,
    edited: &Edited<K::Entry>,
    conditions: &EditConditions,
) -> impl IntoResponse + use<K> {
    (etag(&edited.inventory), Json(K::shown(api, conditions.dry_run, edited)))
}

/// One change, in the form that requests have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(alias = "pool", alias = "worker")]
    id: Option<Value>,
    version: Option<String>,
    set: Option<Value>,
    #[serde(default)]
    delete: bool,
    add: Option<Value>,
}

/// The result of an edit: the stored entries and the inventory after it; none of them for a dry run.
pub(super) struct Edited<E> {
    pub(super) entries: Vec<Arc<E>>,
    /// The inventory's version.
    inventory: String,
    before: Arc<Snapshot>,
    pub(super) after: Arc<Snapshot>,
}

impl<E> Edited<E> {
    fn new(api: &Api, before: Arc<Snapshot>, entries: Vec<Arc<E>>) -> Self {
        Self { entries, inventory: api.inventory_version(), before, after: api.snapshot() }
    }

    /// Returns the goals of removed workers that added ones go on with, by the added worker's id.
    pub(super) fn resumed_goals(&self) -> HashMap<Uuid, Goal> {
        self.after.resumed(&self.before).into_iter().map(|(worker, goal)| (worker.id, goal)).collect()
    }
}

async fn create<K: EntryKind>(
    api: &Api,
    list: Vec<Value>,
    conditions: &EditConditions,
) -> Result<Edited<K::Entry>, Problem> {
    begin(api, list.len())?;
    let before = api.snapshot();
    let mut values = Vec::with_capacity(list.len());
    let mut faults = Vec::new();
    for (index, value) in list.into_iter().enumerate() {
        let name = value.get("name").and_then(Value::as_str).map(str::to_owned);
        match read::<K::Fields>(value).and_then(|fields| K::complete(fields, None)) {
            Ok(value) => values.push((index, value)),
            Err(of_one) => faults.extend(of_one.into_iter().map(|fault| fault.at(index, name.as_deref()))),
        }
    }
    let items = values.iter().map(|(index, value)| (*index, Operation::Create(value.clone()))).collect();
    if !faults.is_empty() || conditions.dry_run {
        // Even if fields are faulty, so that one answer names every fault.
        faults.extend(all_faults::<K>(api, items).await);
        return dry(api, conditions, faults);
    }
    let manager = match &conditions.if_match {
        IfMatch::Version(version) => {
            let version = version.clone();
            api.manager().with_condition(move |now| entry_version::of_all(now) == version)
        }
        IfMatch::Any => api.manager().clone(),
    };
    let values = values.into_iter().map(|(_, value)| ManagerItem::Create(value)).collect();
    match K::edit(&manager, values).await {
        Ok(entries) => Ok(Edited::new(api, before, entries)),
        Err(error) => Err(explained::<K>(api, items, error).await),
    }
}

async fn update<K: EntryKind>(
    api: &Api,
    list: Vec<Value>,
    conditions: &EditConditions,
) -> Result<Edited<K::Entry>, Problem> {
    begin(api, list.len())?;
    // An edit with a condition must be refused after a concurrent edit, not merged with it.
    let expects = matches!(conditions.if_match, IfMatch::Version(_))
        || list.iter().any(|item| item.get("version").is_some_and(|version| !version.is_null()));
    let mut merges = 0;
    loop {
        merges += 1;
        match update_once::<K>(api, list.clone(), conditions).await {
            Err(problem) if problem.is_change() && !expects && merges < MERGES => {}
            done => return done,
        }
    }
}

async fn update_once<K: EntryKind>(
    api: &Api,
    list: Vec<Value>,
    conditions: &EditConditions,
) -> Result<Edited<K::Entry>, Problem> {
    let snapshot = api.snapshot();
    let force = conditions.force;
    let (mut operations, mut seen, mut faults) = (Vec::with_capacity(list.len()), Vec::new(), Vec::new());
    for (index, item) in list.into_iter().enumerate() {
        match read_item::<K>(api.manager(), &snapshot, item, force) {
            Ok((base, operation)) => {
                seen.extend(base.map(|(id, version)| (id, version, operation.value().cloned())));
                operations.push((index, operation));
            }
            Err((name, of_one)) => {
                faults.extend(of_one.into_iter().map(|fault| fault.at(index, name.as_deref())));
            }
        }
    }
    if !faults.is_empty() || conditions.dry_run {
        faults.extend(all_faults::<K>(api, operations).await);
        return dry(api, conditions, faults);
    }
    // Values were merged with this version, so it must be unchanged, even for an unconditional edit.
    let whole = match &conditions.if_match {
        IfMatch::Version(version) => Some(version.clone()),
        IfMatch::Any => None,
    };
    let fleet = api.manager().clone();
    let manager = api.manager().with_condition(move |now| {
        let same = |(id, version, new): &(Uuid, String, Option<K::Value>)| {
            // Called under the inventory's lock, with what is stored at that moment.
            K::by_id(now, *id).is_some_and(|entry| {
                // Entries that need this one may have been added since the snapshot.
                let is_free = || force || K::in_use_fault(&fleet, now, entry, new.as_ref()).is_none();
                K::version(entry) == *version && is_free()
            })
        };
        whole.as_ref().is_none_or(|whole| entry_version::of_all(now) == *whole) && seen.iter().all(same)
    });
    let items = operations.iter().map(|(_, operation)| operation.item()).collect();
    match K::edit(&manager, items).await {
        Ok(entries) => Ok(Edited::new(api, snapshot, entries)),
        Err(error) => Err(explained::<K>(api, operations, error).await),
    }
}

/// The entry and the version that an operation is based on, and the operation; or the entry's name and what is wrong.
type Read<V> = Result<(Option<(Uuid, String)>, Operation<V>), (Option<String>, Vec<Fault>)>;

fn read_item<K: EntryKind>(
    manager: &Manager,
    snapshot: &Snapshot,
    item: Value,
    force: bool,
) -> Read<K::Value> {
    let invalid = |text: String| (None, vec![Fault::new("invalid", text)]);
    let shape = || {
        invalid(
            "it must have an id and either set (an object of fields) or delete: true, and may have a version; or it \
             must have add (an object of fields) alone"
                .into(),
        )
    };
    let Item { id, version, set, delete, add } = serde_json::from_value(item).map_err(|_| shape())?;
    if let Some(fields) = add {
        if id.is_some() || version.is_some() || set.is_some() || delete {
            return Err(shape());
        }
        let name = fields.get("name").and_then(Value::as_str).map(str::to_owned);
        let value = read::<K::Fields>(fields).and_then(|fields| K::complete(fields, None));
        return value.map(|value| (None, Operation::Create(value))).map_err(|faults| (name, faults));
    }
    let named = match id {
        Some(Value::String(text)) => text,
        Some(Value::Number(pid)) => pid.to_string(),
        None => return Err(shape()),
        _ => return Err(invalid("the id must be an id, a name or a pool's number".into())),
    };
    let Some(entry) = K::find(snapshot, &named) else {
        let text = format!("there is no {} {:?}", K::NAME, shown_name(&named));
        return Err((Some(named), vec![Fault::new("not-found", text).with_field("id")]));
    };
    // The request may have named it by its id.
    let name = K::name_of(entry).to_owned();
    let current = K::version(entry);
    if version.is_some_and(|version| version != current) {
        let text =
            format!("{} {:?} has changed since it was read: read it again", K::NAME, shown_name(&name));
        return Err((Some(name), vec![Fault::new("changed", text).with_field("version")]));
    }
    let id = K::id(entry);
    let operation = match (set, delete) {
        (None, true) => Ok(Operation::Delete(id)),
        (Some(set), false) => read::<K::Fields>(set)
            .and_then(|fields| K::complete(fields, Some(entry)))
            .map(|value| Operation::Put(id, value)),
        _ => Err(vec![Fault::new("invalid", "give either set or delete: true")]),
    };
    let operation = operation.and_then(|operation| {
        match K::in_use_fault(manager, snapshot, entry, operation.value()).filter(|_| !force) {
            Some(fault) => Err(vec![fault]),
            None => Ok(operation),
        }
    });
    operation.map(|operation| (Some((id, current)), operation)).map_err(|faults| (Some(name), faults))
}

/// The operation on one entry of an edit.
#[derive(Clone)]
enum Operation<V> {
    Create(V),
    Put(Uuid, V),
    Delete(Uuid),
}

impl<V: Clone> Operation<V> {
    fn item(&self) -> ManagerItem<V> {
        match self {
            Self::Create(value) => ManagerItem::Create(value.clone()),
            Self::Put(id, value) => ManagerItem::Update(Selector::Id(*id), Change::Put(value.clone())),
            Self::Delete(id) => ManagerItem::Update(Selector::Id(*id), Change::Delete),
        }
    }

    const fn value(&self) -> Option<&V> {
        match self {
            Self::Create(value) | Self::Put(_, value) => Some(value),
            Self::Delete(_) => None,
        }
    }
}

fn begin(api: &Api, count: usize) -> Result<(), Problem> {
    if let Some(file) = api.fleet_file() {
        let text = format!(
            "the pools and workers of this daemon come from the file {}, and an edit here would be lost when it is \
             read again: edit the file and send SIGHUP, or start the daemon without --fleet (PRB_FLEET)",
            file.display()
        );
        return Err(Problem::new(StatusCode::CONFLICT, "kept-in-file", text));
    }
    match count {
        0 => Err(Problem::bad_request("the list is empty: there is nothing to do")),
        count if count > MAX_ENTRIES => Err(Error::TooMany { count, limit: MAX_ENTRIES }.into()),
        _ => Ok(()),
    }
}

fn dry<E>(api: &Api, conditions: &EditConditions, faults: Vec<Fault>) -> Result<Edited<E>, Problem> {
    if matches!(&conditions.if_match, IfMatch::Version(version) if *version != api.inventory_version()) {
        return Err(Problem::changed());
    }
    if faults.is_empty() {
        return Ok(Edited::new(api, api.snapshot(), Vec::new()));
    }
    Err(Problem::of_entries(faults))
}

/// Converts the manager's error, with every faulty entry if the error is about entries.
async fn explained<K: EntryKind>(
    api: &Api,
    items: Vec<(usize, Operation<K::Value>)>,
    error: Error,
) -> Problem {
    let of_entries =
        matches!(error, Error::Duplicate { .. } | Error::NotFound { .. } | Error::Invalid { .. });
    if of_entries {
        // May find none if the inventory has changed since; then the manager's error is all that is known.
        let faults = all_faults::<K>(api, items).await;
        if !faults.is_empty() {
            return Problem::of_entries(faults);
        }
    }
    error.into()
}

/// Finds every faulty entry that fails on its own, not because of the others.
async fn all_faults<K: EntryKind>(api: &Api, mut items: Vec<(usize, Operation<K::Value>)>) -> Vec<Fault> {
    let mut faults = secret_faults::<K>(api, &mut items).await;
    let copy = api.manager().dry_run();
    let mut parts = vec![items];
    while let Some(mut part) = parts.pop()
        && faults.len() < MAX_FAULTS
    {
        let Err(error) = tried::<K>(&copy, &part).await else { continue };
        // An error about no entry, such as a full inventory, would recur without end.
        let Some(place) = place_of(&error).filter(|place| *place < part.len()) else {
            faults.push(fault(&error));
            return faults;
        };
        faults.push(fault_of::<K>(&error, &part.remove(place)));
        // Where an entry needs one of the other half, such as a name that becomes free, it is named as faulty, too.
        if faults.len() >= TRIES_OF_THE_WHOLE && part.len() > MIN_PART {
            let second = part.split_off(part.len() / 2);
            parts.push(second);
        }
        // The first half is tried first: of two entries with one name, the second is at fault.
        parts.push(part);
    }
    faults
}

/// Tries an edit on a copy of the inventory, which has its effects if it succeeds.
async fn tried<K: EntryKind>(copy: &Manager, items: &[(usize, Operation<K::Value>)]) -> Result<(), Error> {
    K::edit(copy, items.iter().map(|(_, operation)| operation.item()).collect()).await.map(drop)
}

fn fault_of<K: EntryKind>(error: &Error, (index, operation): &(usize, Operation<K::Value>)) -> Fault {
    fault(error).at(*index, operation.value().map(K::name))
}

/// Removes the entries whose secret is not valid.
async fn secret_faults<K: EntryKind>(api: &Api, items: &mut Vec<(usize, Operation<K::Value>)>) -> Vec<Fault> {
    let (keys, taken) = (api.keys(), std::mem::take(items));
    // A mnemonic takes thousands of hashes: too long for an executor's thread.
    let checked = tokio::task::spawn_blocking(move || {
        let (mut good, mut faults) = (Vec::with_capacity(taken.len()), Vec::new());
        for (index, operation) in taken {
            match operation.value().and_then(|value| K::secret_fault(value, &*keys)) {
                Some(fault) => faults.push(fault.at(index, operation.value().map(K::name))),
                None => good.push((index, operation)),
            }
        }
        (good, faults)
    });
    match checked.await {
        Ok((good, faults)) => {
            *items = good;
            faults
        }
        Err(error) => vec![Fault::new("invalid", format!("the secrets cannot be checked: {error}"))],
    }
}

/// Returns the entry's index in the call from the manager's message: `workers[2] "rack-1-a"`.
fn place_of(error: &Error) -> Option<usize> {
    let (Error::Duplicate { entry, .. } | Error::NotFound { entry, .. } | Error::Invalid { entry, .. }) =
        error
    else {
        return None;
    };
    let (list, rest) = entry.split_once('[')?;
    // An error about the whole call, such as one with too many entries.
    if list == "call" { None } else { rest.split_once(']')?.0.parse().ok() }
}
