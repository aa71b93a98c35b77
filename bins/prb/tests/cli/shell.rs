//! An operator's shell, and a daemon that only takes edits.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{Process, daemons::free_port};

const LIMIT: Duration = Duration::from_secs(60);
/// Seconds after which a command is ended, with the exit code 124.
const COMMAND_LIMIT: &str = "180";
pub const MNEMONIC: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

/// What a command did.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    pub fn bad(self, texts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        for text in texts {
            assert!(self.err.contains(text), "{text:?} is missing in\n{}", self.err);
        }
    }
}

/// An operator's shell: where the daemon is, and where its token.
pub struct Shell {
    pub variables: Vec<(String, String)>,
}

impl Shell {
    pub fn new(port: u16, folder: &str, token_folder: &Path) -> Self {
        let url = format!("http://127.0.0.1:{port}");
        let variables = [("PRB_API_URL", url.as_str()), (folder, token_folder.to_str().unwrap())];
        Self { variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec() }
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, "")
    }

    pub fn run_with(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = Command::new("timeout")
            .args([COMMAND_LIMIT, env!("CARGO_BIN_EXE_prb")])
            .args(arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What a command prints with --json.
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--json"]].concat()).good()).unwrap()
    }

    pub fn until(&self, what: &str, mut met: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !met(self) {
            assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A `prb lifecycle` that only takes edits; its chain need not be there.
pub fn editor(folder: &Path, port: u16) -> Process {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_prb"))
        .env_clear()
        .env("PHALA_MODULE", "lifecycle")
        .env("PHALA_LIFECYCLE_CONFIG_MODE", "true")
        .env("PHALA_CHAIN_ENDPOINT", "ws://127.0.0.1:9")
        .env("PHALA_LOCAL_DB_PATH", folder.join("db"))
        .env("PHALA_PEER_ID_PREFIX", folder.join("id"))
        .env("PHALA_WALKIE_LISTEN_ADDRESSES", format!("/ip4/127.0.0.1/tcp/{}", free_port()))
        .env("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", "true")
        .env("PRB_OPS_LISTEN", "none")
        .env("PRB_API_LISTEN", format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Process::of(child)
}
