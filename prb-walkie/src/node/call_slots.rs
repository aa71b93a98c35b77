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

use super::{Limits, behaviour::Protocol};
use crate::provenance::share_of;
use crate::{
    blob::keys::Key,
    rpc::{Call, Method, calls, fields},
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

    /// Returns the class of a request, reading only its method and key; `None` if it has more fields than any caller
    /// sends.
    pub(super) fn of(protocol: Protocol, request: &Bytes, granted: bool) -> Option<Self> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        if protocol == Protocol::Blob {
            return Some(std::str::from_utf8(request).map_or(Self::SmallBlobs, Self::of_key));
        }
        // The driver reads this much before the call has a slot, and the rest is decoded only once it has one.
        let [data, method] = fields::last(request.clone(), [3, 4])?;
        let method = match Method::from_name(&text(&method)) {
            Some(method) if method.is_management() && granted => return Some(Self::Management),
            Some(method) if !method.is_management() => method,
            // Refused with the reason, and not decoded either.
            _ => return Some(Self::Discovery),
        };
        // Strangers may call these.
        let [first] = fields::last(data, [1])?;
        Some(match method {
            calls::GetBlobByKey::METHOD => Self::of_key(&text(&first)),
            Method::WantBlob | Method::GetBlobWithToken => Self::Ranges,
            _ => Self::Discovery,
        })
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
    use prost::Message;

    use super::*;
    use crate::{
        proto::{Request, data_provider::GetBlobByKey},
        rpc::envelope,
    };

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
            assert_eq!(Class::of(Protocol::Pb, &request, granted), Some(class), "{method}");
        }
        let (request, _) = envelope::request(Method::GetDataProviderInfo, Bytes::new());
        assert_eq!(Class::of(Protocol::Pb, &request, true), Some(Class::Discovery));
        assert_eq!(Class::of(Protocol::Pb, &vec![0xff; 100].into(), true), Some(Class::Discovery));
        assert_eq!(Class::of(Protocol::Blob, &"blocks:1:5:9".into(), false), Some(Class::Ranges));
        assert_eq!(Class::of(Protocol::Blob, &"nothing".into(), false), Some(Class::SmallBlobs));
    }

    fn blob(key: &str) -> Vec<u8> {
        let data = GetBlobByKey { key: key.into() }.encode_to_vec();
        envelope::request(calls::GetBlobByKey::METHOD, data.into()).0.into()
    }

    fn class(request: Vec<u8>) -> Option<Class> {
        Class::of(Protocol::Pb, &request.into(), true)
    }

    #[test]
    fn requests_are_classified_by_their_last_method_and_key() {
        let hello: Vec<u8> = envelope::request(Method::Hello, Bytes::new()).0.into();
        assert_eq!(class(hello.clone()), Some(Class::Discovery));
        assert_eq!(class(blob("genesis")), Some(Class::Ranges));
        assert_eq!(class(blob("nothing")), Some(Class::SmallBlobs));
        // As decoding does, which merges what is concatenated.
        assert_eq!(class([hello.clone(), blob("genesis")].concat()), Some(Class::Ranges));
        assert_eq!(class([blob("genesis"), hello].concat()), Some(Class::Discovery));
        // Decoding it again, with a slot, tells the caller what is wrong.
        assert_eq!(class(vec![0x22, 200]), Some(Class::Discovery));
        assert_eq!(class(Vec::new()), Some(Class::Discovery));
    }

    #[test]
    fn requests_with_too_many_fields_are_refused() {
        let repeated = |bytes: &[u8]| bytes.repeat(fields::MAX_FIELDS);
        // An empty text, a number, and a group with any number of fields.
        for field in [&[0x22, 0][..], &[0x28, 1], &[0x2b, 0x30, 1, 0x30, 1, 0x2c]] {
            assert_eq!(class([repeated(field), blob("genesis")].concat()), None, "{field:?}");
        }
        let many = Bytes::from(repeated(&[0x12, 0, 0x12, 0]));
        for method in [calls::GetBlobByKey::METHOD, Method::Hello, Method::Auth, Method::WantBlob] {
            assert_eq!(class(envelope::request(method, many.clone()).0.into()), None, "{method:?}");
        }
        // Lists of workers, from whoever may send them; others get the reason why not.
        let (request, _) = envelope::request(Method::ListWorker, many);
        assert_eq!(Class::of(Protocol::Pb, &request, true), Some(Class::Management));
        assert_eq!(Class::of(Protocol::Pb, &request, false), Some(Class::Discovery));
    }
}
