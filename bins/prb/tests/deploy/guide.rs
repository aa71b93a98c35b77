//! Runs the compose files' services as processes on a devnet, by the steps of the original's guide: a data
//! provider and a monitor, Redis, a lifecycle manager with its trader, pools and workers over the monitor's
//! calls.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    compose::{File, Service, text},
    support::{EXIT_LIMIT, Net, Process, STAKE, chain, daemons::free_port},
};

const LIMIT: Duration = Duration::from_secs(90);
const TOKEN: &str = "a-token-of-this-test";
/// The entry point of the original's containers.
const ENTRY_POINT: [&str; 6] = [
    "node",
    "--trace-warnings",
    "--experimental-json-modules",
    "--es-module-specifier-resolution=node",
    "--harmony-top-level-await",
    "dist/index",
];

/// Creates a folder with the image's programs.
fn bin() -> TempDir {
    let bin = TempDir::new().unwrap();
    for name in ["prb", "node"] {
        symlink(env!("CARGO_BIN_EXE_prb"), bin.path().join(name)).unwrap();
    }
    bin
}

fn original() -> Vec<String> {
    ENTRY_POINT.map(str::to_owned).into()
}

/// Adjusts variables so that the processes of several containers can share a machine with a test.
fn variables(service: &Service, changes: &[(&str, String)], folder: &Path) -> Vec<(String, String)> {
    let mut variables = service.variables(changes);
    let mut set = |name: &str, value: String| {
        variables.retain(|(other, _)| other != name);
        variables.push((name.to_owned(), value));
    };
    let port = || format!("127.0.0.1:{}", free_port());
    set("PHALA_LOCAL_DB_PATH", folder.join("db").display().to_string());
    set("PHALA_PEER_ID_PREFIX", folder.join("id").display().to_string());
    set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", "true".into());
    set("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", free_port().to_string());
    for name in ["PRB_OPS_LISTEN", "PRB_API_LISTEN", "PRB_QUEUE_PAGE_LISTEN"] {
        set(name, port());
    }
    if !variables.iter().any(|(_, value)| value == "monitor") {
        variables.push(("PRB_CONSOLE_LISTEN".into(), "none".into()));
    }
    variables
}

struct Monitor {
    http: reqwest::Client,
    base: String,
}

impl Monitor {
    async fn get(&self, path: &str) -> String {
        let answer = self.http.get(format!("{}{path}", self.base)).header("accept", "text/html").send().await;
        match answer {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Sends a call like the guide's curl command.
    async fn call(&self, peer: &str, method: &str, request: &Value) -> Value {
        let url = format!("{}/ptp/proxy/{peer}/{method}", self.base);
        let request = self.http.post(url).bearer_auth(TOKEN).body(request.to_string());
        let answer: Value =
            serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
        assert_eq!(answer["hasError"], false, "{answer}");
        answer["data"].clone()
    }

    async fn until(&self, path: &str, texts: &[&str]) -> String {
        let start = Instant::now();
        loop {
            let page = self.get(path).await;
            let missing: Vec<_> = texts.iter().filter(|text| !page.contains(**text)).collect();
            if missing.is_empty() {
                return page;
            }
            assert!(start.elapsed() < LIMIT, "{missing:?} is missing in {path}:\n{page}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for the peer of a role.
    async fn find(&self, role: &str) -> String {
        let start = Instant::now();
        loop {
            let found: Value = serde_json::from_str(&self.get("/ptp/discover").await).unwrap_or_default();
            if let Some(peer) = found[role][0]["peerId"].as_str() {
                return peer.to_owned();
            }
            assert!(start.elapsed() < LIMIT, "no {role}: {found}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn health(bin: &Path, variables: &[(String, String)]) -> (Option<i32>, String) {
    let mut command = Command::new(bin.join("prb"));
    let output = command
        .arg("healthcheck")
        .env_clear()
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn originals_queue_page_service_explains_itself_and_exits() {
    let bin = bin();
    let service = Service { entrypoint: original(), ..Service::default() };
    let log = bin.path().join("log");
    let mut process = service.run(bin.path(), &log, &[("PHALA_MODULE".into(), "utils/arena".into())]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(process.wait(LIMIT)), Some(0));
    let logged = std::fs::read_to_string(log).unwrap();
    assert!(logged.contains("4567") && logged.contains("Remove this service"), "{logged}");
    // With arguments it is an error, like any other unknown module.
    let refused = Command::new(bin.path().join("prb"))
        .args(["--log-level", "info"])
        .env("PHALA_MODULE", "utils/arena")
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

/// The containers of the guide as processes of this machine.
struct Deployment {
    net: Net,
    bin: TempDir,
    /// Texts of the compose files, and what replaces them here.
    changes: [(&'static str, String); 6],
    data_provider_port: u16,
    manager_port: u16,
    redis_port: u16,
}

impl Deployment {
    async fn new() -> Self {
        let (net, bin) = (Net::start(chain(), 1).await, bin());
        let [data_provider_port, manager_port, redis_port] = [(); 3].map(|()| free_port());
        let changes = [
            ("ws://127.0.0.1:9945", net.devnet.relay().url()),
            ("ws://127.0.0.1:9944", net.devnet.para().url()),
            ("28888", data_provider_port.to_string()),
            ("29888", manager_port.to_string()),
            ("63792", redis_port.to_string()),
            ("production", format!("test-{}", std::process::id())),
        ];
        Self { net, bin, changes, data_provider_port, manager_port, redis_port }
    }

    /// Starts a service of a compose file with further variables. Returns its process and its variables.
    fn start(&self, file: &File, name: &str, further: &[(&str, String)]) -> (Process, Vec<(String, String)>) {
        let folder = self.net.dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut service = file.service(name).clone();
        // The entry point in the original's compose files.
        service.entrypoint = original();
        let mut variables = variables(&service, &self.changes, &folder);
        variables.extend(further.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        (service.run(self.bin.path(), &folder.join("log"), &variables), variables)
    }

    fn start_monitor(&self, file: &File) -> (Process, Monitor) {
        let port = free_port();
        let (data_provider, manager) = (self.data_provider_port, self.manager_port);
        let further = [
            ("PORT", port.to_string()),
            ("PRB_API_TOKEN", TOKEN.to_owned()),
            // As in the guide, but with the manager's address: there is no mDNS here.
            (
                "PTP_BOOT_NODES",
                format!(
                    "/ip4/127.0.0.1/tcp/{data_provider}/peer_id_of_data_provider,/ip4/127.0.0.1/tcp/{manager}"
                ),
            ),
        ];
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        let (process, _) = self.start(file, "monitor", &further);
        (process, Monitor { http, base: format!("http://127.0.0.1:{port}") })
    }

    fn start_redis(&self, file: &File) -> Process {
        let words = &file.service("redis-q").command;
        let command: Vec<_> =
            words.iter().map(|word| word.replace("63792", &self.redis_port.to_string())).collect();
        let child = Command::new(&command[0])
            .args(&command[1..])
            .current_dir(self.net.dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is missing: run scripts/install-redis");
        Process::of(child)
    }

    /// Creates the guide's pool and worker with the monitor's calls; returns the worker's id.
    async fn assign_worker(&self, monitor: &Monitor, manager: &str) -> String {
        let pool = &self.net.devnet.pools()[0];
        let pools = json!({ "pools": [{
            "pid": pool.pid, "name": "test2", "owner": { "mnemonic": pool.mnemonic }, "enabled": true,
        }] });
        let made = monitor.call(manager, "CreatePool", &pools).await;
        assert_eq!(made["pools"][0]["pid"], pool.pid.to_string());
        let workers = json!({ "workers": [{
            "pid": pool.pid, "name": "test-node-1", "endpoint": self.net.workers[0].endpoint(), "enabled": true,
            "stake": STAKE.to_string(),
        }] });
        let made = monitor.call(manager, "CreateWorker", &workers).await;
        made["workers"][0]["uuid"].as_str().unwrap().to_owned()
    }
}

/// The monitor's console shows the same as the manager's own: reason, registration, history, balances, jobs.
async fn monitor_shows_all(monitor: &Monitor, manager: &str, worker: &str) {
    let base = format!("/managers/{manager}");
    let texts = ["computing", "Confidence level", "At stake", "What happened", "start: took effect"];
    let page = monitor.until(&format!("{base}/workers/{worker}"), &texts).await;
    assert!(page.contains("do-stop") && page.contains("do-checkpoint"), "{page}");
    monitor.until(&base, &["Free in pools", "Jobs done", "State read at block"]).await;
    let pools = monitor.until(&format!("{base}/pools"), &["test2"]).await;
    assert!(!pools.contains("<td data-label=\"Free\">–"), "{pools}");
    let preview = monitor.get(&format!("{base}/workers/confirm?command=stop&id={worker}")).await;
    assert!(preview.contains("stay locked for the cool-down"), "{preview}");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_the_guide_lead_to_a_computing_worker() {
    let deployment = Deployment::new().await;
    let provider_file = File::read(&text("compose/data-provider.yml"));
    let lifecycle_file = File::read(&text("compose/lifecycle.yml"));
    let (mut data_provider, _) = deployment.start(&provider_file, "data_provider", &[]);
    let (mut monitor_process, monitor) = deployment.start_monitor(&provider_file);
    let mut redis_server = deployment.start_redis(&lifecycle_file);
    let (mut lifecycle, variables) =
        deployment.start(&lifecycle_file, "lifecycle", &[("USE_LEGACY_SYNC", "true".into())]);
    monitor.find("dataProviders").await;
    let manager = monitor.find("lifecycleManagers").await;
    assert_eq!(health(deployment.bin.path(), &variables), (Some(0), String::new()));

    let worker = deployment.assign_worker(&monitor, &manager).await;
    deployment.net.until_active([0], LIMIT).await;
    monitor_shows_all(&monitor, &manager, &worker).await;

    for process in [&mut lifecycle, &mut monitor_process, &mut data_provider] {
        process.signal("TERM");
        assert_eq!(process.wait(EXIT_LIMIT).await, Some(0));
    }
    let log = std::fs::read_to_string(deployment.net.dir.path().join("lifecycle/log")).unwrap();
    assert!(log.contains("has no effect") && log.contains("USE_LEGACY_SYNC"), "{log}");
    let (code, message) = health(deployment.bin.path(), &variables);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("does not answer"), "{message}");
    redis_server.kill();
    deployment.net.shutdown().await;
}
