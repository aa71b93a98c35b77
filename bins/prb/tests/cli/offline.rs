//! Tests of `--offline`: the inventory of a stopped daemon is edited, and never that of a running one.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    shell::{MNEMONIC, Shell, editor},
    support::daemons::free_port,
};

#[test]
fn the_inventory_of_a_stopped_daemon_is_edited_and_found_by_the_next() {
    let dir = tempfile::TempDir::new().unwrap();
    let port = free_port();
    let mut shell = Shell::new(port, "PHALA_LOCAL_DB_PATH", &dir.path().join("db"));
    let id = dir.path().join("id").to_str().unwrap().to_owned();
    shell.variables.push(("PHALA_PEER_ID_PREFIX".into(), id.clone()));
    inventory_is_not_created_by_a_read(&shell, dir.path());
    pools_are_added_offline(&shell, dir.path());
    workers_are_imported_and_edited_offline(&shell, dir.path());
    let offline = shell.json(&["worker", "list", "--offline"]);
    assert_eq!(offline.as_array().unwrap().len(), 40);
    let operator = shell.json(&["pool", "show", "12", "--offline"])["operator"].clone();
    assert!(operator.is_string());

    // The daemon finds it, and opens the sealed keys with the identity that was created.
    let mut daemon = editor(dir.path(), port);
    shell.until("it answers", |shell| shell.run(&["status"]).code == Some(0));
    assert_eq!(entries(&shell.json(&["worker", "list"])), entries(&offline));
    assert_eq!(shell.json(&["pool", "show", "12"])["operator"], operator);

    // Never both: reads are refused too, and nothing waits.
    for arguments in
        [&["worker", "list"][..], &["worker", "set", "w1", "--stake", "9"], &["pool", "remove", "11"]]
    {
        shell.run(&[arguments, &["--offline"]].concat()).bad(&["is in use by a daemon", "omit --offline"]);
    }
    assert_eq!(entries(&shell.json(&["worker", "list"])), entries(&offline));
    daemon.kill();
    shell.run(&["worker", "set", "w1", "--stake", "9", "--offline"]).good();

    // Without the identity that sealed the other keys nothing is sealed, and no second identity is created.
    std::fs::rename(&id, dir.path().join("away")).unwrap();
    shell
        .run_with(&["pool", "add", "13", "--offline", "--secret-stdin"], MNEMONIC)
        .bad(&["identity", "prb keys restore"]);
    assert!(!dir.path().join("id").exists());
}

/// The refusal of a missing daemon says what may be done.
fn inventory_is_not_created_by_a_read(shell: &Shell, dir: &Path) {
    shell.run(&["worker", "list"]).bad(&["no daemon answers", "--offline"]);
    shell.run(&["worker", "list", "--offline"]).bad(&["there is no inventory at", "PHALA_LOCAL_DB_PATH"]);
    assert!(!dir.join("db").exists());
}

/// The first secret creates the identity that seals it.
fn pools_are_added_offline(shell: &Shell, dir: &Path) {
    shell.run_with(&["pool", "add", "12", "--offline", "--secret-stdin", "--dry-run"], MNEMONIC).good();
    assert!(!dir.join("id").exists(), "a dry run creates no identity");
    shell.run(&["pool", "add", "11", "--offline", "--sync-only"]).good();
    assert!(!dir.join("id").exists(), "nothing was sealed");
    shell.run_with(&["pool", "add", "12", "--offline", "--secret-stdin"], MNEMONIC).good();
}

fn workers_are_imported_and_edited_offline(shell: &Shell, dir: &Path) {
    let csv = dir.join("workers.csv");
    let write = |stake: u32| {
        let rows: String =
            (0..50).map(|n| format!("w{n},12,http://10.0.0.1:{},{stake}PHA\n", n + 1)).collect();
        std::fs::write(&csv, format!("name,pid,endpoint,stake\n{rows}")).unwrap();
    };
    let file = csv.to_str().unwrap();
    write(1);
    shell.run(&["worker", "import", file, "--offline"]).good();
    shell.run(&["worker", "import", file, "--offline"]).bad(&["nothing was imported", "line 2", "taken"]);
    write(2);
    let done = shell.run(&["worker", "import", file, "--offline", "--update"]).good();
    assert!(done.contains("0 added, 50 changed, 0 as they were"), "{done}");
    shell.run(&["worker", "set", "w1?", "--offline", "--stake", "3PHA"]).good();
    shell.run(&["worker", "remove", "w2?", "--offline"]).good();
    shell.run(&["worker", "set", "w1", "--offline", "--pid", "99"]).bad(&["there is no pool"]);
    shell.run(&["pool", "remove", "12", "--offline"]).bad(&["workers belong to"]);
    shell.run(&["worker", "stop", "w1", "--offline"]).bad(&["stop is for a running daemon"]);
    assert_eq!(shell.json(&["worker", "show", "w11", "--offline"])["stake"], "3000000000000");
    let exported = shell.run(&["worker", "export", "--offline"]).good();
    assert_eq!(exported.lines().count(), 41);
}

fn entries(list: &Value) -> Vec<Value> {
    let workers = list.as_array().unwrap().iter();
    workers.map(|w| json!([w["id"], w["version"], w["name"], w["stake"]])).collect()
}

#[test]
fn pools_and_workers_of_a_fleet_file_are_not_edited_beside_it() {
    let dir = tempfile::TempDir::new().unwrap();
    let shell = Shell {
        variables: vec![
            ("PRB_DATA".into(), dir.path().to_str().unwrap().into()),
            ("PRB_FLEET".into(), "/etc/prb/fleet.toml".into()),
        ],
    };
    shell.run(&["pool", "add", "11", "--offline", "--sync-only"]).bad(&["/etc/prb/fleet.toml"]);
    let free = Shell { variables: shell.variables[..1].to_vec() };
    free.run(&["pool", "add", "11", "--offline", "--sync-only"]).good();
    assert!(dir.path().join("inventory").is_dir());
    assert_eq!(shell.json(&["pool", "list", "--offline"]).as_array().unwrap().len(), 1);
}
