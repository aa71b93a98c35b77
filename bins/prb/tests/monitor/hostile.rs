//! Managers that do not answer, answer too much, or lie.

use std::{future::pending, time::Duration};

use prb_walkie::{
    identity::Identity,
    node::{self, Node},
    proto::{Role, WorkerState, WorkerStateUpdate, db, lifecycle as lm},
    rpc::{Handlers, calls},
};
use tokio::{task::JoinSet, time::Instant};

use super::{Answer, Http};

/// Workers of the manager that answers too much: more than any has, in an answer that the protocol allows.
const MANY: usize = 60_000;
const SCRIPT: &str = "<script>alert(1)</script>\u{1b}[31m\u{0}\"'";

/// The kinds of managers.
pub(crate) struct Managers {
    silent: Node,
    huge: Node,
    liar: Node,
}

async fn manager(hostname: &str, monitor: &str, handlers: Handlers) -> Node {
    let identity = tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap();
    let mut config = node::Config::new(identity, Role::LifecycleManager);
    config.mdns = false;
    config.boot_nodes = vec![monitor.parse().unwrap()];
    config.hostname = hostname.to_owned();
    config.ignore_bridge_identity = true;
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.auth.open = true;
    config.handlers = handlers;
    Node::start(config).await.unwrap()
}

fn state(number: usize, name: String) -> WorkerState {
    let uuid = uuid::Uuid::from_u128(number as u128).to_string();
    let worker = db::Worker { uuid, name, stake: "-1e99".into(), ..db::Worker::default() };
    WorkerState {
        worker: Some(worker),
        para_block_dispatched_to: i32::MIN,
        last_message: SCRIPT.into(),
        session_info_json: "[".repeat(1000),
        ..WorkerState::default()
    }
}

impl Managers {
    /// Starts them as peers of a monitor.
    pub(crate) async fn start(monitor: &str) -> Self {
        let silent = Handlers::new()
            .on(calls::ListPool, |_, _| pending())
            .on(calls::GetWorkerStatus, |_, _| pending());
        let huge = Handlers::new().on(calls::ListPool, |_, _| async { Ok(lm::PoolList::default()) }).on(
            calls::GetWorkerStatus,
            |_, _| async {
                let worker_states = (0..MANY)
                    .map(|n| WorkerState { session_info_json: String::new(), ..state(n, n.to_string()) });
                Ok(WorkerStateUpdate { worker_states: worker_states.collect() })
            },
        );
        let liar = Handlers::new()
            .on(calls::ListPool, |_, _| async {
                let pool = db::Pool { pid: u64::MAX, name: SCRIPT.into(), ..db::Pool::default() };
                Ok(lm::PoolList { pools: vec![pool; 3] })
            })
            .on(calls::GetWorkerStatus, |_, _| async {
                Ok(WorkerStateUpdate { worker_states: (0..3).map(|n| state(n / 2, SCRIPT.into())).collect() })
            });
        let (silent, huge) = tokio::join!(manager("silent", monitor, silent), manager("huge", monitor, huge));
        Self { silent, huge, liar: manager(SCRIPT, monitor, liar).await }
    }

    /// Asks for all of them at the same time, while the page of an honest one is served.
    pub(crate) async fn are_endured(self, http: &Http, honest: &str) {
        let page = |node: &Node| format!("/managers/{}", node.peer_id());
        for node in [&self.silent, &self.huge, &self.liar] {
            let known = |answer: &Answer| answer.body.contains(&node.peer_id().to_string());
            http.until("a manager is found", "/ptp/discover", known).await;
        }
        let mut asked = JoinSet::new();
        for path in [page(&self.silent), page(&self.huge)].into_iter().flat_map(|path| vec![path; 3]) {
            let http = Http { port: http.port };
            asked.spawn_blocking(move || (http.get(&path), path));
        }
        for path in ["/", &format!("/managers/{honest}"), "/ptp/discover"] {
            let start = Instant::now();
            assert_eq!(http.get(path).status, 200, "{path}");
            // Less than the ten seconds that the silent one is waited for.
            assert!(start.elapsed() < Duration::from_secs(8), "{path}: {:?}", start.elapsed());
        }
        while let Some(asked) = asked.join_next().await {
            let (answer, path) = asked.unwrap();
            let (status, words) = match path == page(&self.silent) {
                true => (504, "has not answered within"),
                false => (502, "names 60000 workers"),
            };
            assert_eq!(answer.status, status, "{path}: {}", answer.body);
            answer.has(&[words]);
        }
        for part in ["", "/workers", "/pools"] {
            let answer = http.get(&format!("{}{part}", page(&self.liar)));
            assert!(answer.status < 500, "{part}: {}", answer.body);
            assert!(!answer.body.contains("<script>alert"), "{part}: {}", answer.body);
        }
        let list = http.call(&self.liar.peer_id().to_string(), "ListPool", &serde_json::json!({}));
        assert_eq!(list.json()["data"]["pools"].as_array().unwrap().len(), 3);
        // One that comes and goes.
        let gone = page(&self.silent);
        self.silent.stop(Duration::ZERO).await;
        let start = Instant::now();
        assert!(matches!(http.get(&gone).status, 404 | 502 | 504));
        assert!(start.elapsed() < Duration::from_secs(10));
        for node in [self.huge, self.liar] {
            node.stop(Duration::ZERO).await;
        }
        assert_eq!(http.get("/").status, 200);
    }
}
