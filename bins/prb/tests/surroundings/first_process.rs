//! Daemons as the first process of a container.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
};

use super::support::{EXIT_LIMIT, Process};

/// The system ignores signals for which a container's first process has no handler.
#[tokio::test(flavor = "multi_thread")]
async fn first_process_ends_while_it_waits_for_its_settings() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("settings");
    assert!(Command::new("mkfifo").arg(&settings).status().unwrap().success());
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut child = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_prb"), "data-provider", "--config"])
            .arg(&settings)
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let mut told = [0; 16];
        stderr.read_exact(&mut told).unwrap();
        assert_eq!(&told, b"prb: waiting for", "{}", String::from_utf8_lossy(&told));
        let first = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        assert!(Command::new("kill").arg(format!("-{signal}")).arg(first.trim()).status().unwrap().success());
        assert_eq!(Process::of(child).wait(EXIT_LIMIT).await, Some(code));
    }
}
