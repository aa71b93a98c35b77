//! The flags of `prb-devnet run` for what nodes and chains do wrong, and the calls that do the same while it runs.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use codec::Decode;
use prb_devnet_runtime::Header;
use serde_json::Value;
use sp_consensus_grandpa::GrandpaJustification;
use subxt_rpcs::{RpcClient, rpc_params};
use tokio::time::timeout;

/// A devnet in a process of its own.
struct Process(Child);

impl Process {
    fn start(flags: &[&str]) -> (Self, Value) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_prb-devnet"))
            .args(["run", "--block-ms", "1000000", "--history", "40", "--set-length", "10"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Self(child), serde_json::from_str(&line).unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn client(described: &Value, chain: &str) -> RpcClient {
    RpcClient::from_insecure_url(described[chain].as_str().unwrap()).await.unwrap()
}

async fn number(rpc: &RpcClient) -> u32 {
    let head: String = rpc.request("chain_getFinalizedHead", rpc_params![]).await.unwrap();
    let header: Value = rpc.request("chain_getHeader", rpc_params![head]).await.unwrap();
    u32::from_str_radix(header["number"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_inject_faults_into_the_chains() {
    let flags = ["--set-size", "7", "--finality-lag", "5", "--equivocate", "--repeat-ancestry"];
    let more = ["--heads-per-relay-block", "2", "--burst-every", "7", "--burst-bytes", "300000"];
    let (_process, described) = Process::start(&[&flags[..], &more[..]].concat());
    let (relay, para) = (client(&described, "relay").await, client(&described, "para").await);
    assert_eq!(number(&relay).await, 34);
    assert!(number(&para).await > 30, "two parachain blocks for every second relay block");
    let hash: String = relay.request("chain_getBlockHash", rpc_params![20]).await.unwrap();
    let block: Value = relay.request("chain_getBlock", rpc_params![hash]).await.unwrap();
    let bytes: Vec<u8> = serde_json::from_value(block["justifications"][0][1].clone()).unwrap();
    let justification = GrandpaJustification::<Header>::decode(&mut &*bytes).unwrap();
    assert_eq!(justification.commit.precommits.len(), 8, "seven votes, and one a second time");
    assert_eq!(justification.votes_ancestries.len(), 2);
    let hash: String = para.request("chain_getBlockHash", rpc_params![7]).await.unwrap();
    let changes: String = para.request("pha_getStorageChangesAt", rpc_params![hash]).await.unwrap();
    assert!(changes.len() > 600_000, "{}", changes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_set_by_flags_and_at_run_time() {
    let flags =
        ["--para-fault", "refuse=pha_*", "--para-fault", "batch-calls=0", "--relay-fault", "proofs=null"];
    let (_process, described) = Process::start(&flags);
    let (relay, para) = (client(&described, "relay").await, client(&described, "para").await);
    let proof: Option<String> = relay.request("grandpa_proveFinality", rpc_params![5]).await.unwrap();
    assert_eq!(proof, None);
    let hash: String = para.request("chain_getBlockHash", rpc_params![7]).await.unwrap();
    let changes = || para.request::<String>("pha_getStorageChangesAt", rpc_params![&hash]);
    assert!(changes().await.is_err());
    let _: () = para.request("devnet_heal", rpc_params![]).await.unwrap();
    changes().await.unwrap();
    let _: () = para.request("devnet_inject", rpc_params!["hang", "slow=1"]).await.unwrap();
    assert!(timeout(Duration::from_millis(300), changes()).await.is_err(), "it answers");
    let _: () = para.request("devnet_heal", rpc_params![]).await.unwrap();
    changes().await.unwrap();
    for (fault, says) in [("slow=x", "slow=MS"), ("nothing", "is not a fault")] {
        let refused = para.request::<()>("devnet_inject", rpc_params![fault]).await.unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

/// A new connection, once there is a server again.
async fn reconnected(described: &Value, chain: &str) -> RpcClient {
    let connect = async {
        loop {
            match RpcClient::from_insecure_url(described[chain].as_str().unwrap()).await {
                Ok(client) => return client,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(Duration::from_secs(20), connect).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_restarts_and_endless_answers_are_set_at_run_time() {
    let (_process, described) = Process::start(&[]);
    let para = client(&described, "para").await;
    let hash: String = para.request("chain_getBlockHash", rpc_params![7]).await.unwrap();
    let inject = async |fault: &str| {
        let para = reconnected(&described, "para").await;
        para.request::<()>("devnet_inject", rpc_params![fault]).await.unwrap();
        // The connection ends with the server.
        while para.request::<String>("system_chain", rpc_params![]).await.is_ok() {}
    };
    let changes = async || {
        let para = reconnected(&described, "para").await;
        para.request::<String>("pha_getStorageChangesAt", rpc_params![&hash]).await
    };
    inject("answer-bytes=200").await;
    let refused = changes().await.unwrap_err();
    assert!(refused.to_string().contains("-32008"), "{refused}");
    inject("restart=10").await;
    assert!(changes().await.is_err(), "the limit stays");
    inject("answer-bytes=100000000").await;
    changes().await.unwrap();

    let para = reconnected(&described, "para").await;
    let _: () = para.request("devnet_inject", rpc_params!["endless=pha_*"]).await.unwrap();
    number(&para).await;
    let asked = timeout(Duration::from_secs(20), changes()).await.unwrap();
    assert!(asked.is_err());
    number(&reconnected(&described, "para").await).await;
    let _: () = para.request("devnet_heal", rpc_params![]).await.unwrap();
    changes().await.unwrap();
}

#[test]
fn unknown_fault_is_refused_with_the_known_ones() {
    let run = |fault: &str| {
        let args = ["run", "--relay-fault", fault];
        Command::new(env!("CARGO_BIN_EXE_prb-devnet")).args(args).output().unwrap()
    };
    let output = run("help");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("keep-states=N") && text.contains("proofs=uncovered|null"), "{text}");
}
