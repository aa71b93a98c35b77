//! `prb import`: databases written by the original's libraries (keys by Node.js), and the output of v3.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use prb_chain::inventory::{Config, HeedInventory};
use prb_core::{
    inventory::{Edit, FleetRecord, Goal, Inventory, Snapshot},
    primitives::{AccountId, PoolId},
    vault::Vault,
};
use prb_walkie::{
    identity::{Identity, Role},
    vault::RsaVault,
};
use rusqlite::{Connection, params};
use tempfile::TempDir;

const MNEMONIC: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
/// `//Alice` of that mnemonic, as polkadot.js expands it.
const SECRET: &str = "98319d4ff8a9508c4bb0cf0b5a78d760a0b2082c02775e6e82370816fedfff48\
                      925a225d97aa00682d6a59b95b18780c10d7032336e88f3442b42361f4a66011";
const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
const BOB: &str = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";
const POOL: &str = "7a2fa8a2-54b0-4d18-8a53-8f1b3a5d9a01";
const WORKER: &str = "0b4b4a52-0a33-4c6e-9b5c-0fbb3f0c7d11";

/// The original's encryption of an operator's account before it is stored.
const ENCRYPT: &str = r"
const { createCipheriv, createPrivateKey, createPublicKey, publicEncrypt, randomBytes } = require('crypto')
const [der, json] = require('fs').readFileSync(0, 'utf8').split('\n')
const key = createPrivateKey({ key: Buffer.from(der, 'hex'), format: 'der', type: 'pkcs1' })
const iv = randomBytes(16), raw = randomBytes(32)
const wrapped = publicEncrypt({ key: createPublicKey(key) }, raw)
const cipher = createCipheriv('aes-256-cbc', raw, iv)
const payload = Buffer.concat([cipher.update(Buffer.from(json)), cipher.final()])
const varint = (n) => n < 128 ? [n] : [(n & 127) | 128, ...varint(n >> 7)]
const field = (tag, bytes) => Buffer.concat([Buffer.from([(tag << 3) | 2, ...varint(bytes.length)]), bytes])
process.stdout.write(Buffer.concat([field(1, iv), field(2, wrapped), field(3, payload)]).toString('hex'))
";

/// An original's data folder, and the folder for the new inventory.
struct Original {
    folder: TempDir,
    database: Connection,
    operator: Vec<u8>,
}

impl Original {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::generate().unwrap();
        identity.store(&folder.path().join("keys"), Role::Lifecycle).unwrap();
        let database = Connection::open(folder.path().join("local.db")).unwrap();
        // The schema of Sequelize, without the constraints that older versions lacked.
        database
            .execute_batch(
                "CREATE TABLE `pools` (`id` UUID PRIMARY KEY, `pid` INTEGER NOT NULL, `name` VARCHAR(255) NOT NULL,
                   `proxiedAccountSs58` VARCHAR(255), `encryptedOperator` BLOB NOT NULL, `enabled` TINYINT(1) DEFAULT 1,
                   `createdAt` DATETIME, `updatedAt` DATETIME, `syncOnly` TINYINT(1) DEFAULT 0);
                 CREATE TABLE `workers` (`id` UUID PRIMARY KEY, `name` VARCHAR(255) NOT NULL,
                   `endpoint` VARCHAR(255) NOT NULL, `stake` VARCHAR(255) NOT NULL, `enabled` TINYINT(1) DEFAULT 1,
                   `syncOnly` TINYINT(1) DEFAULT 0, `poolId` UUID REFERENCES `pools` (`id`));",
            )
            .unwrap();
        let operator = encrypted(&identity, &keystore());
        Self { folder, database, operator }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pool(&self, id: &str, pid: i64, name: &str, proxied: Option<&str>, operator: &[u8]) {
        let sql =
            "INSERT INTO pools (id, pid, name, proxiedAccountSs58, encryptedOperator) VALUES (?, ?, ?, ?, ?)";
        self.database.execute(sql, params![id, pid, name, proxied, operator]).unwrap();
    }

    fn worker(&self, id: &str, name: &str, endpoint: &str, stake: &str, enabled: bool, pool: Option<&str>) {
        let sql =
            "INSERT INTO workers (id, name, endpoint, stake, enabled, poolId) VALUES (?, ?, ?, ?, ?, ?)";
        self.database.execute(sql, params![id, name, endpoint, stake, enabled, pool]).unwrap();
    }

    fn import(&self, args: &[&str]) -> Output {
        let to = format!("--to={}", self.path("inventory").display());
        let keys = format!("--peer-id-prefix={}", self.path("keys").display());
        let output = prb(&[args, &[&to, &keys]].concat());
        let said = said(&output);
        assert!(
            !said.contains(&SECRET[..16]) && !said.contains("pkcs8") && !said.contains("hunter2"),
            "{said}"
        );
        output
    }

    fn v2(&self, args: &[&str]) -> Output {
        self.import(&[&["import", "v2", self.path("local.db").to_str().unwrap()], args].concat())
    }

    fn imported(&self) -> (Snapshot, RsaVault) {
        let inventory = HeedInventory::open(&self.path("inventory"), Config::default()).unwrap();
        let identity = Identity::load(&self.path("keys"), Role::Lifecycle).unwrap().unwrap();
        ((**inventory.snapshots().borrow()).clone(), RsaVault::new(&identity))
    }
}

fn prb(args: &[&str]) -> Output {
    // After two minutes it has hung.
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_prb")]).args(args);
    command.env_clear().stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) -> String {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn keystore() -> String {
    let mut pkcs8 = vec![48, 83, 2, 1, 1, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
    pkcs8.extend((0..64).map(|at| u8::from_str_radix(&SECRET[at * 2..at * 2 + 2], 16).unwrap()));
    pkcs8.extend([161, 35, 3, 33, 0]);
    pkcs8.extend(AccountId::from_address(ALICE).unwrap().0);
    let encoded = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(pkcs8)
    };
    format!(
        r#"{{"encoded":"{encoded}","encoding":{{"content":["pkcs8","sr25519"],"type":["none"],"version":"3"}},"address":"{ALICE}","meta":{{}}}}"#
    )
}

fn encrypted(identity: &Identity, json: &str) -> Vec<u8> {
    // libp2p's message: 08 00 12, the length in two or three bytes, the DER.
    let message = identity.private_protobuf().unwrap();
    let der = &message[3 + message[3..].iter().take_while(|byte| **byte > 127).count() + 1..];
    let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut node = Command::new("node")
        .args(["-e", ENCRYPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("node is missing ({error}): scripts/install-node-peer"));
    node.stdin.take().unwrap().write_all(format!("{hex}\n{json}\n").as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    let hex = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !hex.is_empty());
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn v2_database_is_previewed_then_imported_and_its_keys_sign() {
    let original = Original::new();
    original.pool(POOL, 0, "pool zero", Some(BOB), &original.operator);
    original.worker(WORKER, "w-1", "http://10.0.0.1:8000", "30000000000000000", true, Some(POOL));
    let other = "0b4b4a52-0a33-4c6e-9b5c-0fbb3f0c7d12";
    original.worker(other, "w-2", "http://10.0.0.2:8000", "1", false, Some(POOL));

    let text = assert_code(&original.v2(&["--dry-run"]), 0);
    for shown in ["pool zero", "w-1", "http://10.0.0.1:8000", "30000", "nothing was changed"] {
        assert!(text.contains(shown), "{shown} in\n{text}");
    }
    assert!(!original.path("inventory").exists());

    let before = fs::read(original.path("local.db")).unwrap();
    let text = assert_code(&original.v2(&[]), 0);
    assert!(text.contains("1 pools and 2 workers were imported"), "{text}");
    assert_eq!(fs::read(original.path("local.db")).unwrap(), before);
    let (snapshot, vault) = original.imported();
    let pool = snapshot.pool(PoolId(0)).unwrap();
    assert_eq!((pool.id.to_string(), pool.proxied), (POOL.into(), AccountId::from_address(BOB).ok()));
    let operator = pool.operator.clone().unwrap();
    assert_eq!(operator.account, AccountId::from_address(ALICE).unwrap());
    let opened = vault.open(&operator.key).await.unwrap();
    assert_eq!(prb_chain::keys::OperatorKey::from_secret(&opened).unwrap().account(), operator.account);
    let worker = &snapshot.workers[0];
    assert_eq!((worker.id.to_string(), worker.stake), (WORKER.into(), 30_000_000_000_000_000));
    assert!(worker.enabled && !snapshot.workers[1].enabled);

    // The second time, every row exists already.
    let text = assert_code(&original.v2(&[]), 2);
    for row in ["pool 0", "w-1", "w-2"] {
        assert!(text.contains(&format!("is also that of {row}")) || text.contains(row), "{text}");
    }
    assert!(text.contains("in the inventory"), "{text}");
    // Imported again after a worker was stopped and everything removed.
    {
        let inventory = HeedInventory::open(&original.path("inventory"), Config::default()).unwrap();
        let (pool, worker) = (snapshot.pools[0].id, snapshot.workers[0].id);
        let mut stopped = FleetRecord::default();
        stopped.goal = Goal::StayStopped;
        inventory.apply(vec![Edit::PutFleetRecord(worker, stopped)]).await.unwrap();
        let all = snapshot.workers.iter().map(|worker| Edit::RemoveWorker(worker.id));
        inventory.apply(all.chain([Edit::RemovePool(pool)]).collect()).await.unwrap();
    }
    let text = assert_code(&original.v2(&[]), 0);
    assert!(
        text.contains("worker w-1 was removed or renamed before and keeps its goal, stay-stopped"),
        "{text}"
    );
    assert!(!text.contains("worker w-2 was"), "{text}");
}

#[test]
fn every_bad_row_is_reported_and_nothing_is_imported() {
    let original = Original::new();
    let foreign = encrypted(&Identity::generate().unwrap(), &keystore());
    original.pool(POOL, 1, "same", None, &original.operator);
    original.pool("7a2fa8a2-54b0-4d18-8a53-8f1b3a5d9a02", 1, "same", Some("nobody's"), &original.operator);
    original.pool("7a2fa8a2-54b0-4d18-8a53-8f1b3a5d9a03", 3, "foreign", None, &foreign);
    original.worker(WORKER, "w-1", "http://u:hunter2@10.0.0.1:8000", "1", true, Some(POOL));
    let id = |last: u8| format!("0b4b4a52-0a33-4c6e-9b5c-0fbb3f0c7d{last:02}");
    original.worker(&id(20), "w-2", "http://10.0.0.2:8000", "some hunter2 words", true, Some(POOL));
    original.worker(&id(21), "w-3", "http://10.0.0.3:8000", "1", true, None);
    original.worker(&id(22), "w-4", "http://10.0.0.4:8000/", "1", true, Some(POOL));
    original.worker(&id(23), " w-5 ", "http://10.0.0.4:8000", "1", true, Some(POOL));
    original.worker(&id(24), MNEMONIC, "http://10.0.0.6:8000/?key=hunter2", "1", true, Some(POOL));
    original.worker(&id(25), "w-5", "http://10.0.0.7:8000", "1", true, Some(POOL));
    let text = assert_code(&original.v2(&[]), 2);
    for fault in [
        "its number is also that of pool 1",
        "its pool name is also that of pool 1",
        "is not an SS58 address",
        "pool 3",
        "cannot be opened with this identity",
        "user name or password",
        "its stake (not shown, it may be a secret) is not an integer number",
        "belongs to no pool",
        "its endpoint is also that of worker \"w-4\"",
        "its worker name is also that of worker \"w-5\"",
        "looks like a mnemonic",
    ] {
        assert!(text.contains(fault), "{fault} in\n{text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("lonely"), "{text}");
    let snapshot = original.imported().0;
    assert!(snapshot.pools.is_empty() && snapshot.workers.is_empty());

    let (secret, twice) = (id(24), id(25));
    let left = ["7a2fa8a2-54b0-4d18-8a53-8f1b3a5d9a02", "3", "w-1", "w-2", "w-3", "w-4", &secret, &twice];
    let args: Vec<&str> = left.iter().flat_map(|name| ["--leave-out", name]).collect();
    assert_code(&original.v2(&args), 0);
    assert_eq!(original.imported().0.workers[0].name, "w-5");
    let text = assert_code(&original.v2(&["--dry-run", "--leave-out", "typo"]), 2);
    assert!(text.contains("--leave-out typo"), "{text}");
}

#[test]
fn files_that_are_no_v2_database_are_refused() {
    let original = Original::new();
    let at = |name: &str| original.path(name).display().to_string();
    fs::write(original.path("sealed.db"), [7; 4096]).unwrap();
    let text = assert_code(&original.import(&["import", "v2", &at("sealed.db")]), 2);
    assert!(text.contains("not an SQLite database"), "{text}");
    let other = Connection::open(original.path("other.db")).unwrap();
    other.execute_batch("CREATE TABLE x (y)").unwrap();
    let text = assert_code(&original.import(&["import", "v2", &at("other.db")]), 2);
    assert!(text.contains("no such table: pools"), "{text}");
    fs::remove_file(original.path("keys/LIFECYCLE")).unwrap();
    let text = assert_code(&original.v2(&[]), 2);
    assert!(text.contains("LIFECYCLE") && text.contains("opens the operators' keys"), "{text}");
}

/// The original is killed while it writes: its database has a part of a transaction, which the journal undoes.
#[test]
fn database_of_a_killed_original_is_not_read_without_its_journal() {
    let original = Original::new();
    original.pool(POOL, 1, "p", None, &original.operator);
    for n in 0..200 {
        let endpoint = format!("http://10.0.0.{n}:8000");
        let id = format!("00000000-0000-4000-8000-{n:012}");
        original.worker(&id, &format!("w-{n}"), &endpoint, "5000000000000", true, Some(POOL));
    }
    original
        .database
        .execute_batch("PRAGMA cache_size = 1; BEGIN; UPDATE workers SET stake = '1', enabled = 0")
        .unwrap();
    let copy = |from: &str, to: &str| fs::copy(original.path(from), original.path(to)).unwrap();
    copy("local.db", "killed.db");
    copy("local.db-journal", "killed.db-journal");
    original.database.execute_batch("ROLLBACK").unwrap();
    let at = |name: &str| original.path(name).display().to_string();
    let renamed = |from: &str, to: &str| fs::rename(original.path(from), original.path(to)).unwrap();
    let import = |name: &str| original.import(&["import", "v2", &at(name), "--dry-run"]);
    for name in ["killed.db", "killed.db.v2"] {
        if name != "killed.db" {
            renamed("killed.db", name);
        }
        let text = assert_code(&import(name), 2);
        assert!(text.contains("killed.db-journal") && text.contains("sqlite3"), "{text}");
    }
    // As it says.
    renamed("killed.db.v2", "killed.db");
    let database = Connection::open(original.path("killed.db")).unwrap();
    database.query_row("SELECT count(*) FROM pools", [], |row| row.get::<_, i64>(0)).unwrap();
    drop(database);
    renamed("killed.db", "killed.db.v2");
    assert_code(&original.import(&["import", "v2", &at("killed.db.v2")]), 0);
    let (snapshot, _) = original.imported();
    assert!(snapshot.workers.len() == 200 && snapshot.workers.iter().all(|worker| worker.enabled));
}

#[test]
fn v3_output_is_imported_and_keys_must_match_their_accounts() {
    let original = Original::new();
    let write = |name: &str, text: &str| {
        fs::write(original.path(name), text).unwrap();
        original.path(name).display().to_string()
    };
    let pools = write(
        "pools.json",
        &format!(
            r#"[{{"id":"{POOL}","name":"p","pid":7,"enabled":true,"sync_only":true,"workers":[{{"id":"{WORKER}",
               "name":"gk","endpoint":"http://10.0.0.9:8000/","stake":"4000000000000000","pid":7,"enabled":true,
               "sync_only":false,"gatekeeper":true}}]}},
               {{"id":"7a2fa8a2-54b0-4d18-8a53-8f1b3a5d9a02","name":"q","pid":8,"enabled":true,"sync_only":false,
               "workers":[]}}]"#
        ),
    );
    let operators = write(
        "operators.json",
        &format!(r#"[{{"pid":7,"operator_account_id":"{ALICE}","proxied_account_id":null}}]"#),
    );
    let operators = format!("--operators={operators}");
    let keys = |text: &str| format!("--keys={}", write("keys.toml", text));

    let wrong = keys(&format!("7 = \"{MNEMONIC}//Bob\"\n"));
    let text = assert_code(&original.import(&["import", "v3", &pools, &operators, &wrong]), 2);
    assert!(text.contains("pool 7") && text.contains("key belongs to"), "{text}");
    let path = keys("7 = \"/run/secrets/pool-7\"\n");
    let text = assert_code(&original.import(&["import", "v3", &pools, &operators, &path]), 2);
    assert!(text.contains("begins with '/'") && !text.contains("/run/secrets"), "{text}");
    let broken = keys("7 = hunter2 hunter2\n");
    let text = assert_code(&original.import(&["import", "v3", &pools, &broken]), 2);
    assert!(text.contains("line 1"), "{text}");

    for twice in ["7 = \"x\"\n07 = \"y\"\n", "8 = \"x\"\n\"+7\" = \"y\"\n"] {
        let text = assert_code(&original.import(&["import", "v3", &pools, &keys(twice)]), 2);
        assert!(text.contains("line 2") && text.contains("zeros in front"), "{text}");
    }
    let two = r#"{"pid":7,"operator_account_id":"x","proxied_account_id":null}"#;
    let two = format!("--operators={}", write("two.json", &format!("[{two},{two}]")));
    let text = assert_code(&original.import(&["import", "v3", &pools, &two]), 2);
    assert!(text.contains("pool 7 has two operators"), "{text}");

    let right = keys(&format!("7 = \"{SECRET}\"\n"));
    let text = assert_code(&original.import(&["import", "v3", &pools, &operators, &right]), 0);
    assert!(text.contains("2 pools and 1 workers were imported"), "{text}");
    let snapshot = original.imported().0;
    let pool = snapshot.pool(PoolId(7)).unwrap();
    assert!(pool.sync_only && pool.operator.as_ref().unwrap().account.to_string() == account(ALICE));
    assert!(snapshot.pool(PoolId(8)).unwrap().operator.is_none());
    assert!(snapshot.workers[0].gatekeeper);

    let short = write(
        "short.json",
        r#"[{"id":"x","name":"p","pid":7,"enabled":true,"sync_only":true,"workers":null}]"#,
    );
    let text = assert_code(&original.import(&["import", "v3", &short]), 2);
    assert!(text.contains("get-all-pools-with-workers"), "{text}");
}

fn account(address: &str) -> String {
    AccountId::from_address(address).unwrap().to_string()
}

#[test]
fn daemon_leaves_the_originals_files_and_explains_them() {
    let original = Original::new();
    original.pool(POOL, 1, "p", None, &original.operator);
    let database = original.path("local.db");
    let before = fs::read(&database).unwrap();
    let keys = format!("--peer-id-prefix={}", original.path("keys").display());
    let local = format!("--local-db-path={}", database.display());
    let node = ["--chain-endpoint=ws://127.0.0.1:9", "--ops-listen=none", "--walkie-disable-mdns-discovery"];
    let start = [&["lifecycle", "--use-built-in-trader", &keys, &local], &node[..]].concat();
    for args in [start.clone(), [&start[..], &["--check"]].concat()] {
        let text = assert_code(&prb(&args), 2);
        assert!(text.contains("prb import v2") && text.contains("PHALA_LOCAL_DB_PATH"), "{text}");
    }
    assert_eq!(fs::read(&database).unwrap(), before);

    let blocks = original.path("blocks");
    fs::create_dir(&blocks).unwrap();
    fs::write(blocks.join("CURRENT"), "MANIFEST-000001\n").unwrap();
    fs::write(blocks.join("000002.sst"), "x").unwrap();
    let text = provider_says(&blocks, &node);
    assert!(text.contains("RocksDB") && text.contains("delete CURRENT"), "{text}");
    assert!(blocks.join("000002.sst").exists());
}

/// Returns a data provider's log before it fails to store its identity.
fn provider_says(blocks: &Path, node: &[&str]) -> String {
    let blocks = format!("--local-db-path={}", blocks.display());
    let nowhere = ["--peer-id-prefix=/dev/null/id", "--parent-chain-endpoint=ws://127.0.0.1:10"];
    assert_code(&prb(&[&["data-provider", &blocks], &nowhere[..], node].concat()), 2)
}
