//! Workers that take time for each byte, on a chain in memory whose blocks have content.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    blob::{
        BlobSource,
        memory::{JustifiedBlock, MemorySource, empty_genesis},
    },
    primitives::{Hash, ParaNumber, RelayNumber},
    prpc::{InitRuntimeRequest, Method},
    pruntime::{self, PRuntime, PRuntimeClient, scripted::ScriptedWorker},
    sync::{BatchSizes, Driver, Lane, Limits, Outcome, PlannedStep, Position, Step},
    wire::{Header, StorageChanges},
};

/// A worker at most this many blocks behind the tip uses the tip's share of the budget.
pub const TIP_WITHIN: u32 = 64;

fn header(number: u32) -> Header {
    Header {
        parent_hash: Hash::default(),
        number,
        state_root: Hash::default(),
        extrinsics_root: Hash::default(),
        digest: vec![],
    }
}

/// A chain that grows by one justified relay block with each parachain block.
pub struct Tip {
    pub source: Arc<MemorySource>,
}

impl Tip {
    pub const fn new(source: Arc<MemorySource>) -> Self {
        Self { source }
    }

    pub fn head(&self) -> u32 {
        self.source.heights().borrow().para.unwrap().0
    }

    pub fn grow(&self, blocks: u32, block_bytes: usize) {
        for _ in 0..blocks {
            push(&self.source, self.head() + 1, block_bytes);
        }
    }
}

pub fn heavy_chain(blocks: u32, block_bytes: usize) -> Arc<MemorySource> {
    let source = MemorySource::new(empty_genesis(RelayNumber(0)));
    source.push_para_header(&header(0));
    for number in 1..=blocks {
        push(&source, number, block_bytes);
    }
    Arc::new(source)
}

fn push(source: &MemorySource, number: u32, block_bytes: usize) {
    source.push_para_header(&header(number));
    let main = vec![(vec![1; 32], Some(vec![0; block_bytes]))];
    source.push_changes(&StorageChanges { main, ..StorageChanges::default() });
    let para_head = Some(ParaNumber(number));
    let justified = JustifiedBlock { justification: vec![1], para_head, proof: vec![], next_set: None };
    source.push_relay(&header(number), Some(justified));
}

/// The connections to all workers: counts the distinct bytes in flight.
#[derive(Clone, Debug, Default)]
pub struct Link(Arc<Mutex<InFlight>>);

#[derive(Debug, Default)]
struct InFlight {
    /// The number of calls that send a body, by its address and length.
    bodies: HashMap<(usize, usize), u32>,
    bytes: usize,
    most: usize,
}

impl Link {
    /// The most distinct bytes in flight at once.
    pub fn most_bytes(&self) -> usize {
        self.0.lock().unwrap().most
    }

    /// An initialised worker that wants `next` block and header, and takes `bytes_per_sec`.
    pub async fn worker(&self, seed: u32, next: u32, bytes_per_sec: usize) -> SlowWorker {
        let scripted = ScriptedWorker::new(seed);
        PRuntime::new(Arc::new(scripted.clone())).init(&InitRuntimeRequest::default()).await.unwrap();
        scripted.edit(|state| {
            state.info.blocknum = next;
            state.info.headernum = next;
            state.info.para_headernum = next;
        });
        SlowWorker { scripted, link: self.clone(), bytes_per_sec }
    }

    fn begin(&self, body: &Bytes) -> Sending {
        let at = (body.as_ptr().addr(), body.len());
        let in_flight = &mut *self.0.lock().unwrap();
        let senders = in_flight.bodies.entry(at).or_default();
        *senders += 1;
        if *senders == 1 {
            in_flight.bytes += at.1;
            in_flight.most = in_flight.most.max(in_flight.bytes);
        }
        Sending { link: self.clone(), at }
    }
}

struct Sending {
    link: Link,
    at: (usize, usize),
}

impl Drop for Sending {
    fn drop(&mut self) {
        let in_flight = &mut *self.link.0.lock().unwrap();
        let senders = in_flight.bodies.get_mut(&self.at).unwrap();
        *senders -= 1;
        if *senders == 0 {
            in_flight.bodies.remove(&self.at);
            in_flight.bytes -= self.at.1;
        }
    }
}

/// A worker that takes time for each byte.
#[derive(Clone, Debug)]
pub struct SlowWorker {
    pub scripted: ScriptedWorker,
    link: Link,
    bytes_per_sec: usize,
}

impl SlowWorker {
    pub fn client(&self) -> PRuntime {
        PRuntime::new(Arc::new(self.clone()))
    }
}

#[async_trait]
impl PRuntimeClient for SlowWorker {
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, pruntime::Error> {
        let sending = self.link.begin(&body);
        let takes = Duration::from_secs_f64(body.len() as f64 / self.bytes_per_sec as f64);
        tokio::time::sleep(takes).await;
        let answer = self.scripted.call(method, body).await;
        drop(sending);
        answer
    }

    async fn kick(&self) -> Result<(), pruntime::Error> {
        self.scripted.kick().await
    }
}

/// Keeps a worker at the tip, or on its way there; never ends.
pub async fn keep_up(driver: Driver, client: PRuntime, max_batch_bytes: usize) {
    let mut heights = driver.heights();
    let mut sizes = BatchSizes::new(max_batch_bytes);
    let mut at = Position::of(&client.info().await.unwrap());
    loop {
        let seen = *heights.borrow_and_update();
        let lane = Lane::of(at.lag(&seen), TIP_WITHIN);
        let planned = PlannedStep::of(at, seen, &Limits::default(), lane);
        if planned.step == Step::Wait {
            heights.changed().await.unwrap();
            continue;
        }
        let stepped = driver.step(client.clone(), planned, sizes).await;
        sizes = stepped.sizes;
        match stepped.result.unwrap() {
            Outcome::Advanced { position, .. } => at = position,
            Outcome::NotYet { .. } => heights.changed().await.unwrap(),
        }
    }
}
