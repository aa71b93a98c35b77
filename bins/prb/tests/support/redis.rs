//! A redis-server that can be killed and restarted, with its data or without.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Process, daemons::free_port};

const LIMIT: Duration = Duration::from_secs(60);

/// A redis-server on its own port that syncs every write before it answers; killed when dropped.
pub struct Redis {
    folder: PathBuf,
    port: u16,
    process: Option<Process>,
    /// After the others, which they take the place of.
    arguments: Vec<String>,
}

impl Redis {
    pub fn start(folder: &Path) -> Self {
        Self::with_arguments(folder, &[])
    }

    /// With further arguments of redis-server.
    pub fn with_arguments(folder: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        let folder = folder.join("redis");
        let mut redis = Self { folder, port: free_port(), process: None, arguments };
        redis.restart(false);
        redis
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its data are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills it, and starts it again with its data and other arguments; does not wait until it answers.
    pub fn replace(&mut self, arguments: &[&str]) {
        self.kill();
        let mut command = self.command();
        self.process = Some(Process::of(command.args(arguments).spawn().unwrap()));
    }

    fn command(&self) -> Command {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(&self.folder)
            .args(&self.arguments)
            .stdout(Stdio::null());
        command
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Restarts it at the same port, and waits until it answers.
    pub fn restart(&mut self, with_its_data: bool) {
        assert!(self.process.is_none(), "redis-server runs already");
        if !with_its_data && self.folder.exists() {
            std::fs::remove_dir_all(&self.folder).unwrap();
        }
        std::fs::create_dir_all(&self.folder).unwrap();
        let start = Instant::now();
        loop {
            // Started again if it ends at once, for example because its port is still taken.
            let child = self.command().spawn().unwrap_or_else(|e| {
                panic!("redis-server is missing ({e}); install it: apt-get install -y redis-server")
            });
            let mut process = Process::of(child);
            while process.is_running() {
                if self.ask("PING").is_some_and(|answer| answer.starts_with("+PONG")) {
                    self.process = Some(process);
                    return;
                }
                assert!(start.elapsed() < LIMIT, "redis-server does not answer on port {}", self.port);
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(start.elapsed() < LIMIT, "redis-server does not start on port {}", self.port);
        }
    }

    /// Returns its raw answer to a command; `None` if it does not answer.
    pub fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        // It closes the connection after both answers.
        write!(stream, "{command}\r\nQUIT\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }
}
