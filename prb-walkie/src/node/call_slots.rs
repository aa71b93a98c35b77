//! Slots for calls being answered, by class: flooding one class does not affect the others, and no peer,
//! machine or crowd of strangers can take all slots of a class.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use libp2p::PeerId;
use prost::Message;

use super::{Limits, behaviour::Protocol};
use crate::provenance::share_of;
use crate::{
    blob::keys::Key,
    proto::data_provider::GetBlobByKey,
    rpc::{Call, Method, calls},
};

/// A class of calls that share slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Management, from authorised peers.
    Management,
    /// `Hello`, `Auth`, `GetDataProviderInfo`, and calls that are refused at once.
    Discovery,
    /// Blobs of a few bytes.
    SmallBlobs,
    /// Blobs read from the store: headers, blocks, the genesis.
    Ranges,
}

impl Class {
    const ALL: [Self; 4] = [Self::Management, Self::Discovery, Self::SmallBlobs, Self::Ranges];

    /// Returns the class of a request, decoding only its method and key.
    pub(super) fn of(protocol: Protocol, request: &Bytes, granted: bool) -> Self {
        /// The part of a request that determines its class.
        #[derive(Clone, PartialEq, Message)]
        struct Peek {
            #[prost(bytes = "bytes", tag = "3")]
            data: Bytes,
            #[prost(string, tag = "4")]
            method: String,
        }
        if protocol == Protocol::Blob {
            return std::str::from_utf8(request).map_or(Self::SmallBlobs, Self::of_key);
        }
        // The request has no slot yet: the rest is decoded only once it has one.
        let Ok(peek) = Peek::decode(request.clone()) else { return Self::Discovery };
        match Method::from_name(&peek.method) {
            Some(method) if method.is_management() && granted => Self::Management,
            Some(calls::GetBlobByKey::METHOD) => {
                GetBlobByKey::decode(peek.data).map_or(Self::SmallBlobs, |request| Self::of_key(&request.key))
            }
            Some(Method::WantBlob | Method::GetBlobWithToken) => Self::Ranges,
            _ => Self::Discovery,
        }
    }

    fn of_key(key: &str) -> Self {
        match Key::parse(key.trim()) {
            None | Some(Key::Heights { .. } | Key::RangeParaBlockKey(_)) => Self::SmallBlobs,
            Some(_) => Self::Ranges,
        }
    }

    /// Whether a call keeps its slot until its answer is written. Answers of the other classes are so small that
    /// a slow reader blocks nobody.
    pub(super) const fn lasts_until_written(self) -> bool {
        matches!(self, Self::Management | Self::Ranges)
    }
}

/// A caller, as slots are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) peer: PeerId,
    pub(super) ip: Option<IpAddr>,
    /// Neither configured nor known to have the shared key.
    pub(super) is_stranger: bool,
}

/// The slots of all classes.
#[derive(Debug)]
pub(super) struct CallSlots {
    limits: Limits,
    in_use: Arc<Mutex<[InUse; 4]>>,
}

/// Slots of a class that are in use.
#[derive(Debug, Default)]
struct InUse {
    all: usize,
    strangers: usize,
    by_address: HashMap<IpAddr, usize>,
    by_peer: HashMap<PeerId, usize>,
}

impl CallSlots {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, in_use: Arc::default() }
    }

    /// Takes a slot, if one is free for this caller. A quarter of each class is reserved for known peers.
    pub(super) fn take(&self, class: Class, holder: Holder) -> Option<CallSlot> {
        let Limits { calls: all, calls_per_ip: of_address, calls_per_peer: of_peer, .. } = self.limits;
        let mut in_use = lock(&self.in_use);
        let in_use = in_use.get_mut(class as usize)?;
        // Strangers can have any number of peer ids, but not of addresses; daemons of one fleet may share an
        // address.
        let address = holder.ip.map(share_of).filter(|_| holder.is_stranger);
        let count = |map: &HashMap<IpAddr, usize>| address.and_then(|ip| map.get(&ip).copied()).unwrap_or(0);
        let is_full = in_use.all >= all
            || (holder.is_stranger && in_use.strangers >= all - all / 4)
            || (holder.is_stranger && count(&in_use.by_address) >= of_address)
            || in_use.by_peer.get(&holder.peer).is_some_and(|count| *count >= of_peer);
        if is_full {
            return None;
        }
        in_use.all += 1;
        in_use.strangers += usize::from(holder.is_stranger);
        *in_use.by_peer.entry(holder.peer).or_default() += 1;
        if let Some(ip) = address {
            *in_use.by_address.entry(ip).or_default() += 1;
        }
        Some(CallSlot { class, holder, address, in_use: Arc::clone(&self.in_use) })
    }
}

fn lock(in_use: &Mutex<[InUse; 4]>) -> MutexGuard<'_, [InUse; 4]> {
    in_use.lock().unwrap_or_else(PoisonError::into_inner)
}

fn release<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}

/// A slot, released on drop.
#[derive(Debug)]
pub(super) struct CallSlot {
    pub(super) class: Class,
    holder: Holder,
    address: Option<IpAddr>,
    in_use: Arc<Mutex<[InUse; 4]>>,
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        let mut in_use = lock(&self.in_use);
        let Some(in_use) = in_use.get_mut(self.class as usize) else { return };
        in_use.all -= 1;
        in_use.strangers -= usize::from(self.holder.is_stranger);
        release(&mut in_use.by_peer, &self.holder.peer);
        if let Some(ip) = &self.address {
            release(&mut in_use.by_address, ip);
        }
    }
}

// The classes are array indices.
const _: () = {
    let mut at = 0;
    while at < Class::ALL.len() {
        assert!(Class::ALL[at] as usize == at);
        at += 1;
    }
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{proto::Request, rpc::envelope};

    fn slots() -> CallSlots {
        CallSlots::new(Limits { calls: 16, calls_per_ip: 8, calls_per_peer: 4, ..Limits::default() })
    }

    fn stranger(n: u8) -> Holder {
        Holder { peer: PeerId::random(), ip: Some([192, 0, 2, n].into()), is_stranger: true }
    }

    #[test]
    fn quotas_and_reserve_are_enforced_and_released() {
        let slots = slots();
        let take = |holder: Holder| {
            std::iter::repeat_with(move || holder).map_while(|h| slots.take(Class::Discovery, h))
        };
        let (one, two) = (stranger(1), stranger(1));
        let in_use: Vec<_> = take(one).collect();
        assert_eq!(in_use.len(), 4, "a peer's share");
        let more: Vec<_> = (0..100).filter_map(|_| take(stranger(1)).next()).collect();
        assert_eq!(more.len(), 4, "an address's share, however many names it has");
        assert!(take(two).next().is_none());
        let others: Vec<_> = (2..50).filter_map(|n| take(stranger(n)).next()).collect();
        assert_eq!(others.len(), 4, "the strangers' share");
        let friend = Holder { is_stranger: false, ..stranger(60) };
        let kept: Vec<_> = take(friend).collect();
        assert_eq!(kept.len(), 4, "the reserve");
        let friends = (0..50).map(|_| Holder { peer: PeerId::random(), ..friend });
        assert!(friends.filter_map(|friend| take(friend).next()).next().is_none(), "more than there are");
        drop((in_use, more, others, kept));
        assert_eq!(take(one).collect::<Vec<_>>().len(), 4);
    }

    /// With the default limits, and calls that never end.
    #[test]
    fn a_thousand_sites_leave_the_reserve() {
        let slots = CallSlots::new(Limits::default());
        let at = |site: u16| std::net::Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, 1).into();
        for class in Class::ALL {
            let calls = (0..4000).filter_map(|n| {
                let stranger = Holder { peer: PeerId::random(), ip: Some(at(n % 1000)), is_stranger: true };
                slots.take(class, stranger)
            });
            let mut held: Vec<_> = calls.collect();
            assert_eq!(held.len(), 144, "{class:?}: three quarters of 192");
            // At an address of the crowd, too.
            let known = Holder { peer: PeerId::random(), ip: Some(at(7)), is_stranger: false };
            held.extend((0..48).map(|_| slots.take(class, known).unwrap()));
            assert!(slots.take(class, known).is_none());
        }
    }

    #[test]
    fn classes_have_separate_slots() {
        let slots = slots();
        let holder = stranger(1);
        let flood: Vec<_> = std::iter::from_fn(|| slots.take(Class::Ranges, holder)).collect();
        assert_eq!(flood.len(), 4);
        for class in [Class::Management, Class::Discovery, Class::SmallBlobs] {
            assert!(slots.take(class, holder).is_some(), "{class:?}");
        }
    }

    #[test]
    fn class_follows_method_and_key() {
        let call = |method: &str, data: Vec<u8>| -> Bytes {
            Request { method: method.into(), data: data.into(), ..Request::default() }.encode_to_vec().into()
        };
        let blob = |key: &str| GetBlobByKey { key: key.into() }.encode_to_vec();
        for (method, data, granted, class) in [
            ("ListPool", vec![], true, Class::Management),
            ("ListPool", vec![], false, Class::Discovery),
            ("Hello", vec![], false, Class::Discovery),
            ("GetBlobByKey", blob("heights:1:1:30000"), false, Class::SmallBlobs),
            ("GetBlobByKey", blob(" headers:1:1:100000"), false, Class::Ranges),
            ("GetBlobByKey", blob("genesis"), false, Class::Ranges),
            ("GetBlobByKey", vec![0xff; 10], false, Class::SmallBlobs),
            ("WantBlob", vec![], false, Class::Ranges),
            ("no such method", vec![], true, Class::Discovery),
        ] {
            let request = call(method, data);
            assert_eq!(Class::of(Protocol::Pb, &request, granted), class, "{method}");
        }
        let (request, _) = envelope::request(Method::GetDataProviderInfo, Bytes::new());
        assert_eq!(Class::of(Protocol::Pb, &request, true), Class::Discovery);
        assert_eq!(Class::of(Protocol::Pb, &vec![0xff; 100].into(), true), Class::Discovery);
        assert_eq!(Class::of(Protocol::Blob, &"blocks:1:5:9".into(), false), Class::Ranges);
        assert_eq!(Class::of(Protocol::Blob, &"nothing".into(), false), Class::SmallBlobs);
    }
}
