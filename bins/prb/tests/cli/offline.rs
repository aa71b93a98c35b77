//! The inventory of a daemon that is stopped: edited without it, and never beside it.

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

    // There is none yet, and no look at it makes one; the refusal of a missing daemon says what may be done.
    shell.run(&["worker", "list"]).bad(&["no daemon answers", "--offline"]);
    shell.run(&["worker", "list", "--offline"]).bad(&["there is no inventory at", "PHALA_LOCAL_DB_PATH"]);
    assert!(!dir.path().join("db").exists());

    // From nothing: a pool with its secret sealed, workers by file.
    shell.run_with(&["pool", "add", "12", "--offline", "--secret-stdin", "--dry-run"], MNEMONIC).good();
    assert!(!dir.path().join("id").exists(), "a dry run makes no identity");
    shell.run(&["pool", "add", "11", "--offline", "--sync-only"]).good();
    assert!(!dir.path().join("id").exists(), "nothing was sealed");
    shell.run_with(&["pool", "add", "12", "--offline", "--secret-stdin"], MNEMONIC).good();
    let csv = dir.path().join("workers.csv");
    let rows = |stake: u32| -> String {
        (0..50).map(|n| format!("w{n},12,http://10.0.0.1:{},{stake}PHA\n", n + 1)).collect()
    };
    std::fs::write(&csv, format!("name,pid,endpoint,stake\n{}", rows(1))).unwrap();
    let csv = csv.to_str().unwrap();
    shell.run(&["worker", "import", csv, "--offline"]).good();
    shell.run(&["worker", "import", csv, "--offline"]).bad(&["nothing was imported", "line 2", "taken"]);
    std::fs::write(csv, format!("name,pid,endpoint,stake\n{}", rows(2))).unwrap();
    let done = shell.run(&["worker", "import", csv, "--offline", "--update"]).good();
    assert!(done.contains("0 added, 50 changed, 0 as they were"), "{done}");
    shell.run(&["worker", "set", "w1?", "--offline", "--stake", "3PHA"]).good();
    shell.run(&["worker", "remove", "w2?", "--offline"]).good();
    shell.run(&["worker", "set", "w1", "--offline", "--pid", "99"]).bad(&["there is no pool"]);
    shell.run(&["pool", "remove", "12", "--offline"]).bad(&["workers belong to"]);
    shell.run(&["worker", "stop", "w1", "--offline"]).bad(&["stop is for a running daemon"]);
    let offline = shell.json(&["worker", "list", "--offline"]);
    assert_eq!(offline.as_array().unwrap().len(), 40);
    assert_eq!(shell.json(&["worker", "show", "w11", "--offline"])["stake"], "3000000000000");
    let exported = shell.run(&["worker", "export", "--offline"]).good();
    assert_eq!(exported.lines().count(), 41);
    let operator = shell.json(&["pool", "show", "12", "--offline"])["operator"].clone();
    assert!(operator.is_string());

    // The daemon finds it, and opens the sealed keys with the identity that was made.
    let mut daemon = editor(dir.path(), port);
    shell.until("it answers", |shell| shell.run(&["status"]).code == Some(0));
    let online = shell.json(&["worker", "list"]);
    let entries = |list: &Value| -> Vec<Value> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|w| json!([w["id"], w["version"], w["name"], w["stake"]]))
            .collect()
    };
    assert_eq!(entries(&online), entries(&offline));
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

    // Without the identity that sealed the other keys nothing is sealed, and no second identity is made.
    std::fs::rename(&id, dir.path().join("away")).unwrap();
    shell
        .run_with(&["pool", "add", "13", "--offline", "--secret-stdin"], MNEMONIC)
        .bad(&["identity", "prb keys restore"]);
    assert!(!dir.path().join("id").exists());
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
