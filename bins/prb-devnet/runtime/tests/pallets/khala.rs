//! Compares the pallets with the metadata of a Khala runtime, if it is available: names, indexes, hashers and
//! types of everything that both have.

use std::{collections::BTreeMap, path::Path};

use frame_metadata::{
    RuntimeMetadata, RuntimeMetadataPrefixed,
    v14::{PalletMetadata, RuntimeMetadataV14, StorageEntryType},
};
use scale_info::{PortableRegistry, TypeDef, form::PortableForm};

use crate::world::*;

/// Looked up beside the checkout, or further up.
const KHALA: &str = "shared/data/khala-metadata-v14.scale";
/// No type nests deeper; a deeper one would be recursive.
const DEPTH: u32 = 16;
/// Events that only the devnet has use indexes from here on.
const OWN_EVENTS: u8 = 100;

/// Required storage items, by pallet.
const STORAGE: &[(&str, &[&str])] = &[
    ("ParachainInfo", &["ParachainId"]),
    ("ParachainSystem", &["ValidationData"]),
    ("PhalaMq", &["OffchainIngress", "OutboundMessages"]),
    (
        "PhalaRegistry",
        &[
            "Workers",
            "WorkerAddedAt",
            "BenchmarkDuration",
            "Endpoints",
            "Gatekeeper",
            "GatekeeperMasterPubkey",
            "ContractKeys",
            "ClusterKeys",
            "PRuntimeAllowList",
            "RelaychainGenesisBlockHashAllowList",
            "MinimumPRuntimeVersion",
            "PRuntimeConsensusVersion",
        ],
    ),
    (
        "PhalaComputation",
        &[
            "TokenomicParameters",
            "OnlineWorkers",
            "Sessions",
            "SessionBindings",
            "WorkerBindings",
            "CoolDownPeriod",
            "NextSessionId",
            "Stakes",
        ],
    ),
    ("PhalaStakePoolv2", &["WorkerAssignments", "SubAccountPreimages"]),
    ("PhalaBasePool", &["Pools", "PoolCount", "NextNftId"]),
    ("Assets", &["Account"]),
];

const CONSTANTS: &[(&str, &[&str])] = &[
    ("PhalaStakePoolv2", &["MinContribution", "GracePeriod", "MaxPoolWorkers"]),
    ("PhalaWrappedBalances", &["WPhaAssetId"]),
];

fn khala() -> Option<RuntimeMetadataV14> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let Some(bytes) = above.map(|folder| folder.join(KHALA)).find_map(|path| std::fs::read(path).ok()) else {
        println!("skipped: there is no {KHALA} beside the checkout");
        return None;
    };
    Some(v14(&bytes))
}

/// The devnet's metadata, with the default constants of a chain.
fn ours() -> RuntimeMetadataV14 {
    let mut externalities = sp_io::TestExternalities::default();
    externalities.execute_with(|| v14(&Runtime::metadata_at_version(14).unwrap()))
}

fn v14(bytes: &[u8]) -> RuntimeMetadataV14 {
    match RuntimeMetadataPrefixed::decode(&mut &bytes[..]).unwrap().1 {
        RuntimeMetadata::V14(metadata) => metadata,
        other => panic!("metadata of version {}", other.version()),
    }
}

fn pallet<'m>(metadata: &'m RuntimeMetadataV14, name: &str) -> &'m PalletMetadata<PortableForm> {
    metadata.pallets.iter().find(|pallet| pallet.name == name).unwrap_or_else(|| panic!("no pallet {name}"))
}

/// A type's encoding: names of fields and variants, not of types; a lone field stands for its parent.
/// Variants of enums are listed separately, because newer runtimes have more of them.
fn shape(types: &PortableRegistry, id: u32, depth: u32, variants: &mut BTreeMap<String, String>) -> String {
    assert!(depth < DEPTH);
    let ty = types.resolve(id).unwrap();
    let mut of = |id| shape(types, id, depth + 1, variants);
    match &ty.type_def {
        TypeDef::Primitive(primitive) => format!("{primitive:?}"),
        TypeDef::Compact(inner) => format!("Compact<{}>", of(inner.type_param.id)),
        TypeDef::Sequence(inner) => format!("[{}]", of(inner.type_param.id)),
        TypeDef::Array(inner) => format!("[{}; {}]", of(inner.type_param.id), inner.len),
        TypeDef::Tuple(tuple) => {
            let fields: Vec<_> = tuple.fields.iter().map(|field| of(field.id)).collect();
            format!("({})", fields.join(", "))
        }
        TypeDef::BitSequence(_) => "bits".into(),
        TypeDef::Composite(composite) => match &composite.fields[..] {
            [only] => of(only.ty.id),
            fields => {
                let field = |field: &scale_info::Field<PortableForm>| {
                    format!("{:?}: {}", field.name, of(field.ty.id))
                };
                format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
            }
        },
        TypeDef::Variant(variant) => {
            let name = ty.path.segments.last().cloned().unwrap_or_default();
            let mut found = Vec::new();
            for case in &variant.variants {
                let fields: Vec<_> = case
                    .fields
                    .iter()
                    .map(|field| format!("{:?}: {}", field.name, of(field.ty.id)))
                    .collect();
                // An Option's type has one name and many structures.
                found.push((format!("{name}::{}", case.name), format!("{} {fields:?}", case.index)));
            }
            if name == "Option" {
                return format!("Option {found:?}");
            }
            variants.extend(found);
            name
        }
    }
}

#[test]
fn storage_matches_khala() {
    let Some(khala) = khala() else { return };
    let ours = ours();
    let (mut their_variants, mut our_variants) = (BTreeMap::new(), BTreeMap::new());
    for (name, items) in STORAGE {
        for item in *items {
            let theirs = entry(&khala, name, item, &mut their_variants);
            let mine = entry(&ours, name, item, &mut our_variants);
            // Additions of newer runtimes inside an Option are compared by variant.
            assert_eq!(mine, theirs, "{name}::{item}");
        }
    }
    for (variant, theirs) in their_variants {
        assert_eq!(our_variants.get(&variant), Some(&theirs), "{variant}");
    }
    let id = |metadata: &RuntimeMetadataV14| {
        let storage = pallet(metadata, "ParachainInfo").storage.clone().unwrap();
        let StorageEntryType::Plain(ty) = &storage.entries[0].ty else { panic!() };
        matches!(metadata.types.resolve(ty.id).unwrap().type_def, TypeDef::Composite(_))
    };
    assert!(id(&khala) && id(&ours), "the parachain's id has a type of its own");
}

fn entry(
    metadata: &RuntimeMetadataV14,
    name: &str,
    item: &str,
    variants: &mut BTreeMap<String, String>,
) -> String {
    let storage = pallet(metadata, name).storage.as_ref().unwrap();
    assert_eq!(storage.prefix, name);
    let entry = storage.entries.iter().find(|entry| entry.name == item);
    let entry = entry.unwrap_or_else(|| panic!("no {name}::{item}"));
    let mut of = |id| shape(&metadata.types, id, 0, variants);
    let ty = match &entry.ty {
        StorageEntryType::Plain(value) => of(value.id),
        StorageEntryType::Map { hashers, key, value } => {
            format!("{hashers:?} {} -> {}", of(key.id), of(value.id))
        }
    };
    format!("{:?} {ty}", entry.modifier)
}

#[test]
fn constants_match_khala() {
    let Some(khala) = khala() else { return };
    let ours = ours();
    for (name, items) in CONSTANTS {
        for item in *items {
            let of = |metadata| {
                let constants = &pallet(metadata, name).constants;
                constants
                    .iter()
                    .find(|constant| constant.name == *item)
                    .map(|constant| constant.value.clone())
            };
            assert_eq!(of(&ours), of(&khala), "{name}::{item}");
        }
    }
}

type Cases = Vec<(u8, String, Vec<Option<String>>)>;

fn cases(metadata: &RuntimeMetadataV14, ty: Option<u32>) -> Cases {
    let Some(ty) = ty else { return Vec::new() };
    let TypeDef::Variant(variant) = &metadata.types.resolve(ty).unwrap().type_def else { panic!() };
    let fields = |case: &scale_info::Variant<PortableForm>| {
        case.fields.iter().map(|field| field.name.clone()).collect()
    };
    variant.variants.iter().map(|case| (case.index, case.name.clone(), fields(case))).collect()
}

#[test]
fn errors_calls_and_events_match_khala() {
    let Some(khala) = khala() else { return };
    let ours = ours();
    let names = [
        "PhalaRegistry",
        "PhalaComputation",
        "PhalaStakePoolv2",
        "PhalaBasePool",
        "PhalaMq",
        "PhalaWrappedBalances",
    ];
    for name in names {
        let (mine, theirs) = (pallet(&ours, name), pallet(&khala, name));
        assert_eq!(mine.index, theirs.index, "{name}");
        let error = |metadata, pallet: &PalletMetadata<PortableForm>| {
            cases(metadata, pallet.error.as_ref().map(|error| error.ty.id))
        };
        let theirs_by_index: BTreeMap<u8, String> =
            error(&khala, theirs).into_iter().map(|(index, name, _)| (index, name)).collect();
        let newest = theirs_by_index.keys().next_back().copied().unwrap_or_default();
        for (index, error, _) in error(&ours, mine) {
            // Later runtimes append errors.
            assert!(
                index > newest || theirs_by_index.get(&index) == Some(&error),
                "{name}::{error} has index {index}"
            );
        }
        let call = |metadata, pallet: &PalletMetadata<PortableForm>| {
            cases(metadata, pallet.calls.as_ref().map(|calls| calls.ty.id))
        };
        let their_calls = call(&khala, theirs);
        call(&ours, mine).iter().for_each(|call| assert!(their_calls.contains(call), "{name}::{call:?}"));
        let event = |metadata, pallet: &PalletMetadata<PortableForm>| {
            cases(metadata, pallet.event.as_ref().map(|event| event.ty.id))
        };
        let their_events = event(&khala, theirs);
        for event in event(&ours, mine).iter().filter(|event| event.0 < OWN_EVENTS) {
            assert!(their_events.contains(event), "{name}::{event:?}");
        }
    }
}
