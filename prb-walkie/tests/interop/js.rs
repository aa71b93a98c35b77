//! Runs the JavaScript tools as child processes. Test programs of other crates include this file, too.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Timeout of an event, generous for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);

fn folder() -> PathBuf {
    const FOLDER: &str = "prb-walkie/tests/js";
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join(FOLDER));
    above.find(|folder| folder.is_dir()).unwrap_or_else(|| panic!("{FOLDER} is missing"))
}

/// A command that runs one of the tools in `tests/js`.
fn node(tool: &str) -> Command {
    let folder = folder();
    assert!(
        folder.join("node_modules/libp2p/package.json").exists(),
        "the packages of the JavaScript peer are missing: run scripts/install-node-peer",
    );
    let mut command = Command::new("node");
    command.arg(folder.join(tool)).kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// A running tool with its output; killed on drop.
#[derive(Debug)]
pub(crate) struct Tool {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
    commands: u64,
}

impl Tool {
    /// Starts a tool.
    pub(crate) fn start(tool: &str, args: &[&str]) -> Self {
        Self::spawn(tool, node(tool).args(args))
    }

    fn spawn(tool: &str, command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{:?} cannot be started ({error}): run scripts/install-node-peer",
                command.as_std().get_program()
            )
        });
        Self {
            name: tool.to_owned(),
            stdin: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
            seen: Vec::new(),
            commands: 0,
        }
    }

    /// Runs a tool to its end and returns its output.
    pub(crate) async fn run(tool: &str, args: &[&str]) -> Vec<Value> {
        let output = timeout(TIMEOUT, node(tool).args(args).stderr(Stdio::inherit()).output());
        let output = output.await.expect("it ends").expect("node starts: run scripts/install-node-peer");
        assert!(output.status.success(), "{tool} {args:?}: {}", output.status);
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Returns the next event that is `wanted`. Others are kept.
    pub(crate) async fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.seen.iter().position(&wanted) {
            return self.seen.remove(at);
        }
        let found = timeout(TIMEOUT, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                if wanted(&event) {
                    return event;
                }
                self.seen.push(event);
            }
            panic!("{} ended before {what}; seen: {:#?}", self.name, self.seen)
        });
        match found.await {
            Ok(event) => event,
            Err(_) => panic!("{}: no {what} within {TIMEOUT:?}; seen: {:#?}", self.name, self.seen),
        }
    }

    /// Returns the next event of a name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        self.find(name, |event| event["event"] == name).await
    }

    /// Sends a command and returns its id.
    pub(crate) async fn send(&mut self, mut command: Value) -> u64 {
        self.commands += 1;
        command["id"] = json!(self.commands);
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        self.commands
    }

    /// Waits for the answer to a command.
    pub(crate) async fn answer(&mut self, id: u64) -> Value {
        self.find("answer to a command", |event| event["id"] == id).await
    }

    /// Sends a command and waits for its answer, which must be a success.
    pub(crate) async fn ask(&mut self, command: Value) -> Value {
        let shown = command.to_string();
        let id = self.send(command).await;
        let answer = self.answer(id).await;
        assert_eq!(answer["event"], "done", "{shown}: {answer}");
        answer
    }

    /// Kills the tool and waits for its end.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// `peer.js serve`, listening.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The process.
    pub(crate) tool: Tool,
    /// Its peer id.
    pub(crate) peer_id: String,
    /// Its first address, with the peer id.
    pub(crate) address: String,
}

impl Peer {
    /// Starts a peer on a port of 127.0.0.1 and waits until it listens.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let args = [&["serve", "--listen", "/ip4/127.0.0.1/tcp/0"], args].concat();
        Self::ready(Tool::start("peer.js", &args)).await
    }

    /// Waits until a peer listens.
    pub(crate) async fn ready(mut tool: Tool) -> Self {
        let listening = tool.event("listening").await;
        let peer_id = listening["peerId"].as_str().unwrap().to_owned();
        let first = listening["addresses"][0].as_str().unwrap();
        let address = format!("{first}/p2p/{peer_id}");
        Self { tool, peer_id, address }
    }

    /// Calls a method over a separate connection and returns the complete answer.
    pub(crate) async fn call(&mut self, address: &str, method: &str, request: Value) -> Value {
        let command = json!({ "command": "call", "addr": address, "method": method, "request": request });
        self.tool.ask(command).await
    }
}
