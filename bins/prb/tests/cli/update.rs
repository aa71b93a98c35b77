//! Import that updates: shown first, whole or not at all, and nobody's edit is overwritten.

use serde_json::{Value, json};

use crate::{
    shell::{MNEMONIC, Shell, editor},
    support::{Process, daemons::free_port},
};

fn workers(shell: &Shell) -> Vec<Value> {
    shell.json(&["worker", "list"]).as_array().unwrap().clone()
}

/// A daemon that only edits its inventory, a shell for it, and a folder for files.
struct Rig {
    dir: tempfile::TempDir,
    shell: Shell,
    _daemon: Process,
}

impl Rig {
    fn start() -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let port = free_port();
        let shell = Shell::new(port, "PHALA_LOCAL_DB_PATH", &dir.path().join("db"));
        let daemon = editor(dir.path(), port);
        shell.until("it answers", |shell| shell.run(&["status"]).code == Some(0));
        Self { dir, shell, _daemon: daemon }
    }

    /// Writes a file and returns its path.
    fn write(&self, name: &str, text: &str) -> String {
        let file = self.dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn operator(&self, pid: &str) -> Value {
        self.shell.json(&["pool", "show", pid])["operator"].clone()
    }

    /// Imports three pools, with secrets of two kinds.
    fn import_pools(&self) {
        self.write("twelve.secret", &format!("{MNEMONIC}\n"));
        let rows = format!("12,twelve,,twelve.secret,\n13,thirteen,{MNEMONIC}//x,,\n14,fourteen,,,yes\n");
        let file = self.write("pools.csv", &format!("pid,name,secret,secret_file,sync_only\n{rows}"));
        assert!(self.shell.run(&["pool", "import", &file]).good().contains("3 pools were added"));
    }

    /// Imports workers `a`, `b` and `c`.
    fn import_workers(&self) {
        let rows = "a,12,http://a,1PHA,\nb,12,http://b,1PHA,\nc,12,http://c,1PHA,\n";
        self.shell.run(&["worker", "import", &self.workers_file(rows)]).good();
    }

    fn workers_file(&self, rows: &str) -> String {
        self.write("workers.csv", &format!("name,pid,endpoint,stake,enabled\n{rows}"))
    }
}

#[test]
fn a_file_adds_what_is_new_and_changes_what_differs() {
    let rig = Rig::start();
    rig.import_pools();
    pools_are_updated_from_a_file(&rig);
    rig.import_workers();
    workers_are_updated_from_a_file(&rig);
    a_file_with_faulty_rows_changes_nothing(&rig);
}

fn pools_are_updated_from_a_file(rig: &Rig) {
    let before = rig.operator("12");
    assert!(before.is_string() && before != rig.operator("13"));
    let exported = rig.shell.run(&["pool", "export", "--format", "yaml"]).good();
    assert!(!exported.contains("bottom") && exported.contains("twelve"), "{exported}");
    let exported = rig.write("exported.yml", &exported);
    let same = rig.shell.run(&["pool", "import", "--update", &exported]).good();
    assert!(same.contains("0 added, 0 changed, 3 as they were"), "{same}");

    let changes = json!([{ "pid": 12, "name": "dozen" }, { "pid": 14, "enabled": false }]);
    let pools = rig.write("pools.json", &changes.to_string());
    let done = rig.shell.run(&["pool", "import", "--update", &pools]).good();
    assert!(done.contains("~ pool 12 (pool 1): name twelve → dozen"), "{done}");
    assert!(done.contains("0 added, 2 changed, 0 as they were"), "{done}");
    let enabled = rig.shell.json(&["pool", "show", "14"])["enabled"].clone();
    assert_eq!((rig.operator("12"), enabled), (before, json!(false)));

    // A new pool without a secret: its row is named, and nothing of the file is done.
    let faulty = json!([{ "pid": 12, "name": "other" }, { "pid": 15 }]);
    let pools = rig.write("pools.json", &faulty.to_string());
    rig.shell.run(&["pool", "import", "--update", &pools]).bad(&["nothing was imported", "pool 2", "secret"]);
    assert_eq!(rig.shell.json(&["pool", "show", "12"])["name"], "dozen");
}

fn workers_are_updated_from_a_file(rig: &Rig) {
    let before = workers(&rig.shell);
    let rows = "a,12,http://a,1PHA,\nb,13,http://b,1.5PHA,no\nd,12,http://d,1PHA,\n";
    let file = rig.workers_file(rows);

    // A dry run shows the difference and does nothing.
    let shown = rig.shell.run(&["worker", "import", "--update", "--dry-run", &file]).good();
    for text in [
        "+ worker d (line 4)",
        "~ worker b (line 3):",
        "pid 12 → 13",
        "stake 1 PHA → 1.5 PHA",
        "enabled yes → no",
    ] {
        assert!(shown.contains(text), "{text:?} is missing in\n{shown}");
    }
    assert!(shown.contains("dry run, nothing was changed: 1 added, 1 changed, 1 as they were"), "{shown}");
    assert_eq!(workers(&rig.shell), before);

    // Without --update the same file is refused as before.
    rig.shell.run(&["worker", "import", &file]).bad(&["nothing was imported", "line 2", "line 3"]);

    let done = rig.shell.json(&["worker", "import", "--update", &file]);
    assert_eq!(
        (&done["added"], &done["unchanged"], &done["dry_run"]),
        (&json!(["d"]), &json!(1), &json!(false))
    );
    assert_eq!(done["changed"][0]["fields"]["pid"], json!({ "from": 12, "to": 13 }));
    let after = workers(&rig.shell);
    let names: Vec<_> = after.iter().map(|worker| worker["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c", "d"], "workers that the file does not name stay");
    assert_eq!(after[1]["id"], before[1]["id"]);
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
}

/// Every faulty row is named, whether the command finds the fault or the daemon, and nothing is done.
fn a_file_with_faulty_rows_changes_nothing(rig: &Rig) {
    let before = workers(&rig.shell);
    let rows = "a,99,http://a,1PHA,\nb,12,http://a,1PHA,\nnew,12,http://d,1PHA,\nc,12,http://c,1PHA,maybe\ne,12,http://e,2PHA,\n";
    let file = rig.workers_file(rows);
    for more in [&["--dry-run"][..], &[]] {
        let import = [&["worker", "import", "--update", &file], more].concat();
        rig.shell.run(&import).bad(&[
            "nothing was imported",
            "line 2",
            "line 4",
            "line 5",
            "enabled must be",
        ]);
        assert_eq!(workers(&rig.shell), before);
    }
    let file = rig.workers_file("a,12,http://a,2PHA,\na,12,http://a,2PHA,\n");
    rig.shell.run(&["worker", "import", "--update", &file]).bad(&["line 2 and line 3 name the same worker"]);
    assert_eq!(workers(&rig.shell), before);
}

/// Of two simultaneous updates from a file, the second to apply its changes is refused.
#[test]
fn an_update_of_what_has_changed_meanwhile_is_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    let port = free_port();
    let shell = Shell::new(port, "PHALA_LOCAL_DB_PATH", &dir.path().join("db"));
    let _daemon = editor(dir.path(), port);
    shell.until("it answers", |shell| shell.run(&["status"]).code == Some(0));
    shell.run_with(&["pool", "add", "12", "--secret-stdin"], MNEMONIC).good();
    let rows = |stake: u32| -> String {
        let rows = (0..200).map(|n| format!("w{n},12,http://10.0.0.1:{},{stake}\n", n + 1));
        "name,pid,endpoint,stake\n".to_owned() + &rows.collect::<String>()
    };
    let file = |stake: u32| {
        let file = dir.path().join(format!("{stake}.csv"));
        std::fs::write(&file, rows(stake)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    shell.run(&["worker", "import", &file(1)]).good();
    let (mut refused, mut round) = (0, 0);
    let start = std::time::Instant::now();
    // Until they have met.
    while refused == 0 {
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "nobody came too late");
        round += 1;
        let files = [file(2 * round), file(2 * round + 1)];
        let import = |file: &String| shell.run(&["worker", "import", "--update", file]);
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(|| import(&files[0]));
            [import(&files[1]), other.join().unwrap()]
        });
        for done in &both {
            assert!(matches!(done.code, Some(0 | 1)), "{}", done.err);
            if done.code == Some(1) {
                assert!(done.err.contains("has changed since it was read"), "{}", done.err);
                refused += 1;
            }
        }
        assert!(both.iter().any(|done| done.code == Some(0)), "{}", both[0].err);
        // All workers are of one file.
        let stakes: std::collections::BTreeSet<_> =
            workers(&shell).iter().map(|worker| worker["stake"].as_str().unwrap().to_owned()).collect();
        assert_eq!(stakes.len(), 1, "{stakes:?}");
    }
}
