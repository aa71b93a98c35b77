//! Identity files: the original's layout, and care with what is on disk.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::HashSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::LazyLock,
};

use prb_walkie::identity::{Error, Identity, Malformed, Role};
use proptest::prelude::*;
use tempfile::tempdir;

/// Made by `PeerId.create({ keyType: 'RSA', bits: 2048 })` and `marshal()` of the npm package peer-id 0.16.0,
/// the one that js-libp2p 0.35 uses. It guards nothing.
const JS_FILE: &[u8] = include_bytes!("data/js-peer-id.bin");
/// What `toB58String()` gave for it.
const JS_PEER_ID: &str = include_str!("data/js-peer-id.txt");

static OWN: LazyLock<Identity> = LazyLock::new(|| Identity::generate().unwrap());

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_original_file_is_read_and_written_byte_for_byte() {
    let identity = Identity::from_bytes(JS_FILE).unwrap();
    assert_eq!(identity.peer_id().to_string(), JS_PEER_ID.trim());
    assert_eq!(identity.to_bytes().unwrap().as_slice(), JS_FILE);
    // Field 3 is the end of the file, after its tag and a length of two bytes.
    let private = identity.private_protobuf().unwrap();
    assert!(JS_FILE.ends_with(&private));
    assert_eq!(private[..2], [0x08, 0x00]);
}

#[test]
fn a_new_file_has_the_original_layout() {
    let bytes = OWN.to_bytes().unwrap();
    assert_eq!(bytes[..4], [0x0a, 0x22, 0x12, 0x20]);
    assert_eq!(bytes[36..44], [0x12, 0xab, 0x02, 0x08, 0x00, 0x12, 0xa6, 0x02]);
    let third = 39 + 299;
    assert_eq!(bytes[third], 0x1a);
    assert_eq!(bytes[third + 3..third + 6], [0x08, 0x00, 0x12]);
    assert_eq!(OWN.peer_id().as_bytes(), &bytes[2..36]);
    let shown = OWN.peer_id().to_string();
    assert!(shown.starts_with("Qm") && shown.len() == 46, "{shown}");
    assert_eq!(Identity::from_bytes(&bytes).unwrap().peer_id(), OWN.peer_id());
}

#[test]
fn debug_output_has_no_key() {
    let shown = format!("{:?}", *OWN);
    assert_eq!(shown, format!("Identity {{ peer_id: {}, .. }}", OWN.peer_id()));
}

#[tokio::test]
async fn each_role_has_its_file_made_once() {
    let folder = tempdir().unwrap();
    let prefix = folder.path().join("keys/id");
    let mut seen = Vec::new();
    for (role, name) in [
        (Role::DataProvider, "DATA_PROVIDER"),
        (Role::Lifecycle, "LIFECYCLE"),
        (Role::Trade, "TRADE"),
        (Role::Monitor, "MONITOR"),
    ] {
        let made = Identity::load_or_generate(&prefix, role).await.unwrap();
        let file = prefix.join(name);
        let bytes = fs::read(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        let again = Identity::load_or_generate(&prefix, role).await.unwrap();
        assert_eq!(again.peer_id(), made.peer_id());
        assert_eq!(fs::read(&file).unwrap(), bytes, "a file that is there is not written again");
        seen.push(made.peer_id().clone());
    }
    assert_eq!(mode(&prefix), 0o700);
    assert_eq!(fs::read_dir(&prefix).unwrap().count(), Role::ALL.len(), "nothing is left behind");
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), Role::ALL.len(), "each has its own");
}

#[tokio::test]
async fn starts_at_once_agree_on_one_identity() {
    let folder = tempdir().unwrap();
    let starts = (0..4).map(|_| {
        let prefix = folder.path().to_owned();
        tokio::spawn(async move { Identity::load_or_generate(&prefix, Role::Lifecycle).await })
    });
    let mut ids = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        ids.push(start.await.unwrap().unwrap().peer_id().clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[tokio::test]
async fn an_open_file_is_narrowed() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("LIFECYCLE");
    fs::write(&file, JS_FILE).unwrap();
    for open in [0o644, 0o660, 0o604, 0o700] {
        fs::set_permissions(&file, Permissions::from_mode(open)).unwrap();
        let identity = Identity::load_or_generate(folder.path(), Role::Lifecycle).await.unwrap();
        assert_eq!(identity.peer_id().to_string(), JS_PEER_ID.trim());
        assert_eq!(mode(&file), 0o600);
    }
    fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
    Identity::load_or_generate(folder.path(), Role::Lifecycle).await.unwrap();
    assert_eq!(mode(&file), 0o400, "a narrower one stays");
}

#[tokio::test]
async fn what_is_no_identity_is_refused_and_kept() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("TRADE");
    for content in [vec![], b"hello".to_vec(), vec![0x0a; 100_000], JS_FILE[..600].to_vec()] {
        fs::write(&file, &content).unwrap();
        let error = Identity::load_or_generate(folder.path(), Role::Trade).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
        assert!(error.to_string().contains("TRADE is not an identity file"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), content, "it may be the only copy of something");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = Identity::load_or_generate(folder.path(), Role::Trade).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}

/// Fields 1, 2 and 3 of the file, without their tags.
fn fields(bytes: &[u8]) -> [&[u8]; 3] {
    [&bytes[2..36], &bytes[39..338], &bytes[341..]]
}

fn file_of(fields: [&[u8]; 3]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, field) in [0x0a, 0x12, 0x1a].into_iter().zip(fields) {
        out.push(tag);
        out.extend([(field.len() & 0x7f) as u8 | 0x80, (field.len() >> 7) as u8]);
        out.extend(field);
    }
    out
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let own = OWN.to_bytes().unwrap();
    let ([id, public, private], [own_id, own_public, own_private]) = (fields(JS_FILE), fields(&own));
    Identity::from_bytes(&file_of([id, public, private])).unwrap();
    let refused = |fields| Identity::from_bytes(&file_of(fields)).unwrap_err();
    assert!(matches!(refused([own_id, public, private]), Malformed::OtherId));
    assert!(matches!(refused([id, own_public, private]), Malformed::OtherPublicKey));
    assert!(matches!(refused([id, public, own_private]), Malformed::OtherPublicKey));
    assert!(matches!(refused([id, public, &[]]), Malformed::Missing("private key")));
    assert!(matches!(refused([&[], public, private]), Malformed::Missing("id")));
    let ed25519 = [&[0x08, 0x01], &private[2..]].concat();
    assert!(matches!(refused([id, public, &ed25519]), Malformed::NotRsa { of: "private", kind: 1 }));
    assert!(matches!(refused([id, public, &private[..400]]), Malformed::Protobuf(_)));
    let empty = [0x08, 0x00, 0x12, 0x00];
    assert!(matches!(refused([id, public, &empty]), Malformed::BadKey(_)));
}

#[test]
fn weak_keys_are_refused() {
    use rsa::pkcs1::EncodeRsaPrivateKey;
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024).unwrap();
    let der = key.to_pkcs1_der().unwrap();
    let der = der.as_bytes();
    let mut private = vec![0x08, 0x00, 0x12, (der.len() & 0x7f) as u8 | 0x80, (der.len() >> 7) as u8];
    private.extend(der);
    let [id, public, _] = fields(JS_FILE);
    let error = Identity::from_bytes(&file_of([id, public, &private])).unwrap_err();
    assert!(matches!(error, Malformed::KeySize { bits: 1024 }), "{error:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(Identity::from_bytes(&bytes).is_err());
    }

    #[test]
    fn a_changed_file_gives_no_other_identity(
        changes in proptest::collection::vec((0..JS_FILE.len(), any::<u8>()), 1..4),
        cut in proptest::option::of(0..JS_FILE.len()),
    ) {
        let mut bytes = JS_FILE.to_vec();
        for (place, value) in changes {
            bytes[place] = value;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        if let Ok(identity) = Identity::from_bytes(&bytes) {
            prop_assert_eq!(identity.peer_id().to_string(), JS_PEER_ID.trim());
            let written = identity.to_bytes().unwrap();
            prop_assert_eq!(written.as_slice(), JS_FILE);
        }
    }
}
