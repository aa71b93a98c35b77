//! `GetInfo`.

use super::*;

impl Verifier {
    pub(crate) fn info(&self) -> prpc::PhactoryInfo {
        let mut info = prpc::PhactoryInfo {
            gatekeeper: Some(prpc::GatekeeperStatus::default()),
            version: {
                let (major, minor, patch) = self.options.version;
                format!("{major}.{minor}.{patch}")
            },
            git_revision: env!("CARGO_PKG_VERSION").into(),
            // There is no enclave to measure: this is what all workers of the process share.
            memory_usage: Some(prpc::MemoryUsage {
                rust_used: self.options.shared.tries().size_bytes() as u64,
                ..Default::default()
            }),
            can_load_chain_state: self.can_load_chain_state,
            max_supported_pink_runtime_version: "1.2".into(),
            supported_attestation_methods: self.options.attestation_methods.clone(),
            query_timeout: 10,
            ..Default::default()
        };
        if let Some(runtime) = &self.runtime {
            runtime.fill(&mut info);
            info.score = self.options.score;
        }
        info
    }
}

impl Runtime {
    fn fill(&self, info: &mut prpc::PhactoryInfo) {
        let identity = &self.registration.identity;
        let (public_key, ecdh_public_key) = (hex::encode(identity.public()), hex::encode(identity.ecdh));
        info.initialized = true;
        info.registered = self.system.registered();
        info.genesis_block_hash = Some(hex::encode(self.genesis_hash));
        info.public_key = Some(public_key.clone());
        info.ecdh_public_key = Some(ecdh_public_key.clone());
        info.headernum = self.sync.next_relay();
        info.para_headernum = self.sync.next_para();
        info.blocknum = self.sync.next_block();
        info.waiting_for_paraheaders = self.sync.waiting_for_para_headers();
        info.state_root = hex::encode(self.state.root());
        info.dev_mode = self.registration.dev_mode;
        info.pending_messages = self.egress.len() as u64;
        info.current_block_time = self.system.now_ms();
        info.system = Some(prpc::SystemInfo {
            registered: self.system.registered(),
            public_key,
            ecdh_public_key,
            gatekeeper: Some(prpc::GatekeeperStatus::default()),
            number_of_clusters: 0,
            number_of_contracts: 0,
            max_supported_consensus_version: MAX_CONSENSUS_VERSION,
            genesis_block: self.genesis_block,
        });
    }
}
