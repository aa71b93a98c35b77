//! Phala's headers cache over HTTP as a [`HistorySource`].
//!
//! The format is that of `standalone/headers-cache` (`web_api.rs`, `db.rs`) and `standalone/pherry`
//! (`headers_cache.rs`) in Phala-Network/phala-blockchain. Bodies are SCALE; missing data is a 404:
//!
//! | request | answer |
//! |---|---|
//! | `GET /state` | JSON: `genesis` (relay block numbers), `recent_imported` and `higest` (sic), each with `header`, `para_header`, `storage_changes` |
//! | `GET /genesis/N` | `GenesisBlockInfo` of relay block N |
//! | `GET /headers/N` | `Vec<BlockInfo>` of the relay blocks from N up to the next justified one, at most 10,000 |
//! | `GET /parachain-headers/N/COUNT` | `Vec<Header>`, all of them or a 404 |
//! | `GET /storage-changes/N/COUNT` | `Vec<(Header, StorageChanges)>`, all of them or a 404 |
//!
//! `BlockInfo` is the header, `Option<Vec<u8>>` with its justification, `Option<(u32, Vec<Vec<u8>>)>` with the
//! parachain head's number and read proof, and `Option<AuthoritySetChange>` with the next set and its read proof.
//! A cache need not have everything. From one without storage changes only headers are used, and the rest
//! comes from another source or nodes. The start of the chains is used if the cache has the storage changes
//! of parachain blocks 0 (the genesis state) and 1. A justified block without a proof of the parachain's head
//! is useless to workers; that piece comes from another source.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use codec::{Compact, Decode, Encode};
use prb_core::{
    blob::{Genesis, Span},
    primitives::{Hash, ParaNumber, RelayNumber},
    wire::{AuthoritySetChange, GenesisBlockInfo, Header},
};
use reqwest::StatusCode;
use serde::Deserialize;

use super::{
    Error, Extent, HistorySource, Next, Piece,
    http::{Server, bad, unavailable},
};
use crate::{
    ingest::validation_data,
    verify::{scale, state},
};

/// Most headers in one answer: the cache's own limit.
const MAX_HEADERS: u32 = 10_000;

/// How a headers cache is queried.
#[derive(Clone, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Timeout of a request. Default: 60 s.
    pub timeout: Duration,
    /// Most bytes of an answer. Default: 256 MiB.
    pub max_answer_bytes: usize,
    /// Parachain headers, or blocks with storage changes, in one request. Default: 100.
    pub blocks_per_request: u32,
    /// Additional trusted root certificates, as PEM. Default: none.
    pub root_certificates_pem: Vec<u8>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            max_answer_bytes: 256 << 20,
            blocks_per_request: 100,
            root_certificates_pem: Vec::new(),
        }
    }
}

/// A headers cache.
pub struct HeadersCache {
    name: String,
    server: Server,
    config: Config,
    extent: Mutex<Extent>,
}

impl fmt::Debug for HeadersCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadersCache").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    genesis: Vec<u32>,
    recent_imported: Counters,
    // Kept as it is: this is the wire format.
    /// The cache's own spelling.
    higest: Counters,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Counters {
    header: Option<u32>,
    para_header: Option<u32>,
    storage_changes: Option<u32>,
}

#[derive(Decode)]
struct BlockInfo {
    header: Header,
    justification: Option<Vec<u8>>,
    para_header: Option<(u32, Vec<Vec<u8>>)>,
    authority_set_change: Option<AuthoritySetChange>,
}

impl HeadersCache {
    /// Creates a source for the cache at a URL (`http://127.0.0.1:21111`).
    ///
    /// # Errors
    /// The URL is invalid, or a certificate cannot be read.
    pub fn new(url: &str, config: Config) -> Result<Self, Error> {
        let server = Server::new(url, config.timeout, &config.root_certificates_pem)?;
        let name = format!("headers cache {}", server.shown);
        Ok(Self { name, server, config, extent: Mutex::default() })
    }

    /// Fetches the body at a path, if there is one.
    async fn get(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let text = format!("no answer to {path}");
        let failed = |e: reqwest::Error| unavailable(&text, e.without_url());
        let request = self.server.http.get(self.server.url(path));
        let mut answer = self.server.send(request, &text).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            status if !status.is_success() => {
                let what = std::io::Error::other(format!("status {status}"));
                return Err(unavailable(&text, what));
            }
            _ => {}
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            // Not by `Content-Length`, which may be missing or false.
            if body.len() + chunk.len() > self.config.max_answer_bytes {
                let most = self.config.max_answer_bytes;
                return Err(bad(format!("its answer to {path} has more than {most} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }

    /// Fetches the body at `PATH/FIRST/COUNT` with as many of the span's blocks as the cache has, and their
    /// number.
    async fn get_span(&self, path: &str, span: Span<ParaNumber>) -> Result<Option<(Vec<u8>, u32)>, Error> {
        let wanted = (span.last.0 - span.first.0).saturating_add(1);
        let mut count = wanted.min(self.config.blocks_per_request.max(1));
        loop {
            if let Some(body) = self.get(&format!("{path}/{}/{count}", span.first)).await? {
                return Ok(Some((body, count)));
            }
            if count == 1 {
                return Ok(None);
            }
            // The cache returns all requested blocks or none.
            count = count.div_ceil(4);
        }
    }

    async fn state(&self) -> Result<State, Error> {
        let body = self.get("/state").await?.ok_or_else(|| bad("it has no /state"))?;
        let state: State = serde_json::from_slice(&body).map_err(|_| bad("its /state cannot be read"))?;
        let most = |of: fn(&Counters) -> Option<u32>| of(&state.higest).max(of(&state.recent_imported));
        // A cache with relay headers only may still be asked; its counters say what it lacks.
        let para = most(|counters| counters.para_header).min(most(|counters| counters.storage_changes));
        let relay = most(|counters| counters.header);
        let extent = Extent { relay: relay.map(RelayNumber), para: para.map(ParaNumber) };
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner) = extent;
        Ok(state)
    }

    async fn one_change(&self, number: u32) -> Result<Option<Vec<u8>>, Error> {
        let span = Span { first: ParaNumber(number), last: ParaNumber(number) };
        let Some((body, count)) = self.get_span("/storage-changes", span).await? else { return Ok(None) };
        Ok(blocks(&body, span.first, count)?.pop())
    }
}

/// Splits a SCALE `Vec<(Header, StorageChanges)>` into the changes.
fn blocks(body: &[u8], first: ParaNumber, count: u32) -> Result<Vec<Vec<u8>>, Error> {
    let broken = || bad(format!("its storage changes from block {first} on cannot be read"));
    let input = &mut &*body;
    // The count is not used to allocate: it is the server's claim.
    if Compact::<u32>::decode(input).map_err(|_| broken())?.0 != count {
        return Err(broken());
    }
    let mut changes = Vec::new();
    for number in (first.0..).take(count as usize) {
        let header = Header::decode(input).map_err(|_| broken())?;
        let (slice, _) = scale::storage_changes(input, &mut |_, _| {}).ok_or_else(broken)?;
        if header.number != number {
            return Err(bad(format!(
                "asked for storage changes of block {number}, it returned {}",
                header.number
            )));
        }
        changes.push(slice.to_vec());
    }
    if input.is_empty() { Ok(changes) } else { Err(broken()) }
}

/// Converts a SCALE `Vec<BlockInfo>` to a piece.
fn piece(body: &[u8], first: RelayNumber) -> Result<Option<Piece>, Error> {
    let broken = || bad(format!("its headers from {first} on cannot be read"));
    let input = &mut &*body;
    let count = Compact::<u32>::decode(input).map_err(|_| broken())?.0;
    if count > MAX_HEADERS {
        return Err(bad(format!("it returned more than {MAX_HEADERS} headers at once")));
    }
    let (mut headers, mut last) = (Vec::new(), None);
    for number in (first.0..).take(count as usize) {
        let info = BlockInfo::decode(input).map_err(|_| broken())?;
        if info.header.number != number {
            return Err(bad(format!("asked for relay header {number}, it returned {}", info.header.number)));
        }
        headers.push(info.header.encode());
        last = Some(info);
        // A piece ends at its first justification; the rest is requested again with the next one.
        if last.as_ref().is_some_and(|info| info.justification.is_some()) {
            break;
        }
    }
    let Some(BlockInfo { justification, para_header, authority_set_change, .. }) = last else {
        return Ok(None);
    };
    let Some(justification) = justification else {
        return Err(bad(format!("its headers from {first} on do not end with a justified one")));
    };
    let mut proof = para_header.map(|(_, proof)| proof).unwrap_or_default();
    for node in authority_set_change.map(|change| change.authority_proof).unwrap_or_default() {
        // Both proofs start at the same root, so they share nodes.
        if !proof.contains(&node) {
            proof.push(node);
        }
    }
    Ok(Some(Piece { headers, justification, proof }))
}

#[async_trait]
impl HistorySource for HeadersCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn extent(&self) -> Extent {
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn genesis(&self) -> Result<Option<Genesis>, Error> {
        let known = self.state().await?.genesis;
        let Some(zero) = self.one_change(0).await? else { return Ok(None) };
        let Some(one) = self.one_change(1).await? else { return Ok(None) };
        let first = Span { first: ParaNumber(1), last: ParaNumber(1) };
        let Some(header) = self.para_headers(first).await?.pop() else { return Ok(None) };
        let mut pairs: Vec<(&[u8], &[u8])> = Vec::new();
        let mut take = |key, value| pairs.extend(Option::map(value, |value| (key, value)));
        scale::storage_changes(&mut &*zero, &mut take);
        let id_key = state::value_key("ParachainInfo", "ParachainId");
        let id =
            pairs.iter().find(|(key, _)| *key == id_key).and_then(|(_, id)| u32::decode(&mut &**id).ok());
        let para_id = id.ok_or_else(|| bad("its block 0 has no ParachainInfo::ParachainId"))?;
        let data_key = state::value_key("ParachainSystem", "ValidationData");
        let mut data = None;
        scale::storage_changes(&mut &*one, &mut |key, value| {
            if key == data_key {
                data = value.and_then(validation_data);
            }
        });
        let (parent, _) = data.ok_or_else(|| bad("its block 1 has no ParachainSystem::ValidationData"))?;
        // Workers start before the relay parent of block 1, whose own header they then receive.
        let number = parent.saturating_sub(1);
        if !known.is_empty() && !known.contains(&number) {
            return Err(bad(format!(
                "it has no /genesis/{number}, the block that its parachain starts after"
            )));
        }
        let Some(info) = self.get(&format!("/genesis/{number}")).await? else { return Ok(None) };
        let decoded =
            GenesisBlockInfo::decode(&mut &info[..]).map_err(|_| bad("its genesis cannot be read"))?;
        Ok(Some(Genesis {
            para_id,
            relay_number: RelayNumber(number),
            // Nothing of this is trusted: it is compared with the nodes, or with the blocks that follow.
            relay_hash: decoded.block_header.hash(),
            chain_identity: Hash::of(&header),
            info: info.into(),
            state: pairs.encode().into(),
        }))
    }

    async fn relay(&self, next: Next) -> Result<Vec<Piece>, Error> {
        let Some(body) = self.get(&format!("/headers/{}", next.relay)).await? else {
            self.state().await?;
            return Ok(Vec::new());
        };
        Ok(piece(&body, next.relay)?.into_iter().collect())
    }

    async fn para_headers(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        let Some((body, count)) = self.get_span("/parachain-headers", span).await? else {
            return Ok(Vec::new());
        };
        let broken = || bad(format!("its parachain headers from {} on cannot be read", span.first));
        let input = &mut &*body;
        if Compact::<u32>::decode(input).map_err(|_| broken())?.0 != count {
            return Err(broken());
        }
        let headers: Result<Vec<_>, _> = (0..count)
            .map(|_| Header::decode(input).map(|header| header.encode()).map_err(|_| broken()))
            .collect();
        headers.and_then(|headers| if input.is_empty() { Ok(headers) } else { Err(broken()) })
    }

    async fn changes(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        let Some((body, count)) = self.get_span("/storage-changes", span).await? else {
            return Ok(Vec::new());
        };
        blocks(&body, span.first, count)
    }
}
