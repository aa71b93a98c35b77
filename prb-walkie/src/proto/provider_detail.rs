//! Details that data providers of this implementation send beyond the original's `Info`: chain nodes and
//! disk.
//!
//! [`FullInfo`] is `Info` plus, in a field numbered from 1000 on, [`Detail`]. The original's decoder skips
//! unknown fields, and an original's answer has none. Within the messages of this module numbers count from 1.

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{DecodeContext, WireType},
};

use super::data_provider::Info;

/// The chain nodes and the disk of a data provider.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Detail {
    /// Its chain nodes.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<Node>,
    /// Size of its block store, in bytes.
    #[prost(uint64, optional, tag = "2")]
    pub store_bytes: Option<u64>,
    /// Free bytes on the file system of its data.
    #[prost(uint64, optional, tag = "3")]
    pub free_bytes: Option<u64>,
    /// Size of that file system, in bytes.
    #[prost(uint64, optional, tag = "4")]
    pub disk_bytes: Option<u64>,
    /// Problems that stop or slow down following a chain, as sentences.
    #[prost(string, repeated, tag = "5")]
    pub problems: Vec<String>,
}

/// A chain node.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Node {
    /// `relay` or `para`.
    #[prost(string, tag = "1")]
    pub chain: String,
    /// Host and port.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Whether a connection is open.
    #[prost(bool, tag = "3")]
    pub connected: bool,
    /// Whether it is demoted for a wrong answer: others are asked before it, and it only for data that is verified.
    #[prost(bool, tag = "4")]
    pub demoted: bool,
    /// Whether other nodes are preferred for a while.
    #[prost(bool, tag = "5")]
    pub deferred: bool,
    /// Whether its last connection failed or was lost recently.
    #[prost(bool, tag = "6")]
    pub backing_off: bool,
    /// Whether it serves another chain.
    #[prost(bool, tag = "7")]
    pub other_chain: bool,
    /// The methods or data that it was found to lack.
    #[prost(string, repeated, tag = "8")]
    pub lacks: Vec<String>,
    /// The last error, which is also the reason of a demotion.
    #[prost(string, optional, tag = "9")]
    pub last_error: Option<String>,
}

/// A data provider as a lifecycle manager knows it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Provider {
    /// Its peer id.
    #[prost(string, tag = "1")]
    pub peer_id: String,
    /// Its host's name, where it is known.
    #[prost(string, tag = "2")]
    pub host: String,
    /// Its blob server; its address among peers where it is not used.
    #[prost(string, tag = "3")]
    pub address: String,
    /// `ready`, `connecting`, `down`, `aside` (not asked for a while) or `unused`.
    #[prost(string, tag = "4")]
    pub state: String,
    /// Why it is not asked, if it is not.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// How long it remains suspended.
    #[prost(uint64, optional, tag = "6")]
    pub for_ms: Option<u64>,
    /// Whether it knows only the original's keys.
    #[prost(bool, tag = "7")]
    pub original: bool,
    /// Newest relay block that it can end a batch at.
    #[prost(uint32, optional, tag = "8")]
    pub relay: Option<u32>,
    /// Newest parachain block that it has.
    #[prost(uint32, optional, tag = "9")]
    pub para: Option<u32>,
    /// How long it takes to answer, approximately.
    #[prost(uint64, optional, tag = "10")]
    pub latency_ms: Option<u64>,
    /// Requests that it has answered, those for missing blobs included.
    #[prost(uint64, tag = "11")]
    pub answered: u64,
    /// How often it failed.
    #[prost(uint64, tag = "12")]
    pub failed: u64,
    /// Answers that a worker refused.
    #[prost(uint64, tag = "13")]
    pub refused: u64,
    /// How it was found, or what it has proved: a [`Provenance`](crate::node::Provenance)'s name.
    #[prost(string, tag = "14")]
    pub provenance: String,
}

/// The fields beyond the original's.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
struct Extension {
    #[prost(message, optional, tag = "1000")]
    detail: Option<Detail>,
}

/// The first field number for extensions.
const FIRST_EXTENSION: u32 = 1000;

/// `Info`, with details from peers of this implementation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FullInfo {
    /// The original's part.
    pub info: Info,
    extension: Extension,
}

impl FullInfo {
    /// Creates an answer.
    pub const fn new(info: Info, detail: Option<Detail>) -> Self {
        Self { info, extension: Extension { detail } }
    }

    /// The details, if the peer sent any.
    pub const fn detail(&self) -> Option<&Detail> {
        self.extension.detail.as_ref()
    }
}

/// The two messages share one encoding, which works because their field numbers differ.
impl Message for FullInfo {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.info.encode_raw(buf);
        self.extension.encode_raw(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            ..FIRST_EXTENSION => self.info.merge_field(tag, wire_type, buf, context),
            _ => self.extension.merge_field(tag, wire_type, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        self.info.encoded_len() + self.extension.encoded_len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn original_and_extended_messages_are_compatible() {
        let info = Info { para_id: 2004, blob_server_port: 8012, ..Info::default() };
        let node = Node { chain: "relay".into(), demoted: true, ..Node::default() };
        let detail = Detail { nodes: vec![node], free_bytes: Some(7), ..Detail::default() };
        let full = FullInfo::new(info, Some(detail.clone()));
        let bytes = full.encode_to_vec();
        assert_eq!(Info::decode(&*bytes).unwrap(), info);
        assert_eq!(FullInfo::decode(&*bytes).unwrap(), full);
        let theirs = FullInfo::decode(&*info.encode_to_vec()).unwrap();
        assert_eq!((theirs.info, theirs.detail()), (info, None));
        assert_eq!(full.detail(), Some(&detail));
        assert!(FullInfo::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
