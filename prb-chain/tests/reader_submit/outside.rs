//! Transactions of other programs that use an operator's account.

use subxt::{
    OnlineClient, SubstrateConfig,
    dynamic::{self, Value},
};
use subxt_signer::{bip39::Mnemonic, sr25519::Keypair};

use crate::net::Net;

/// A remark by pool 0's operator.
pub(crate) async fn remark(net: &Net, nonce: u64, tip: u128) -> Vec<u8> {
    let client = OnlineClient::<SubstrateConfig>::from_insecure_url(net.devnet.para().url()).await.unwrap();
    let mnemonic = Mnemonic::parse(&net.devnet.pools()[0].mnemonic).unwrap();
    let signer = Keypair::from_phrase(&mnemonic, None).unwrap();
    let at = client.at_current_block().await.unwrap();
    let payload = dynamic::transaction("System", "remark_with_event", (Value::from_bytes("outside"),));
    let params = subxt::config::DefaultExtrinsicParamsBuilder::<SubstrateConfig>::new()
        .nonce(nonce)
        .tip(tip)
        .mortal(64)
        .build();
    at.transactions().create_signed(&payload, &signer, params).await.unwrap().encoded().to_vec()
}
