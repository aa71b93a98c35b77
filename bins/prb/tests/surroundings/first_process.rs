//! Daemons as the first process of a container.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::support::Process;

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
        let stopped = Instant::now();
        assert!(Command::new("kill").arg(format!("-{signal}")).arg(first.trim()).status().unwrap().success());
        let ended = Process::of(child).wait(Duration::from_secs(10)).await;
        assert_eq!(ended, Some(code));
        assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
    }
}
