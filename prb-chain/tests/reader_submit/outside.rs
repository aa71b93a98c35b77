//! Transactions of other programs that use an operator's account.

use subxt::{
    OnlineClient, SubstrateConfig,
    dynamic::{self, Value},
};
use subxt_signer::{bip39::Mnemonic, sr25519::Keypair};

use crate::net::Net;

/// Another program that sends from the account of pool 0's operator.
pub(crate) struct Outside {
    client: OnlineClient<SubstrateConfig>,
    signer: Keypair,
}

impl Outside {
    pub(crate) async fn new(net: &Net) -> Self {
        let client =
            OnlineClient::<SubstrateConfig>::from_insecure_url(net.devnet.para().url()).await.unwrap();
        let mnemonic = Mnemonic::parse(&net.devnet.pools()[0].mnemonic).unwrap();
        Self { client, signer: Keypair::from_phrase(&mnemonic, None).unwrap() }
    }

    /// A signed remark.
    pub(crate) async fn remark(&self, nonce: u64, tip: u128) -> Vec<u8> {
        let at = self.client.at_current_block().await.unwrap();
        let payload = dynamic::transaction("System", "remark_with_event", (Value::from_bytes("outside"),));
        let params = subxt::config::DefaultExtrinsicParamsBuilder::<SubstrateConfig>::new()
            .nonce(nonce)
            .tip(tip)
            .mortal(64)
            .build();
        at.transactions().create_signed(&payload, &self.signer, params).await.unwrap().encoded().to_vec()
    }

    /// Sends a remark, unless another transaction gets its nonce first. Returns whether it was accepted.
    pub(crate) async fn send(&self, net: &Net) -> bool {
        let (para, operator) = (net.devnet.para(), net.operator(0));
        let nonce = para.next_nonce(&operator.0).unwrap();
        let remark = self.remark(nonce.into(), 0).await;
        para.next_nonce(&operator.0).unwrap() == nonce && para.submit(remark).is_ok()
    }

    /// Authors blocks with a remark in each one, so that one is always pending. Never returns.
    pub(crate) async fn send_with_each_block(&self, net: &Net) -> ! {
        loop {
            self.send(net).await;
            net.tick();
        }
    }
}

/// A remark by pool 0's operator.
pub(crate) async fn remark(net: &Net, nonce: u64, tip: u128) -> Vec<u8> {
    Outside::new(net).await.remark(nonce, tip).await
}
