//! The seams for [`Arc`]s: a decorator `Audited<Q: JobQueue>` wraps a queue that the program keeps as well.
//!
//! Every method is forwarded, including those with a default: a default here would hide the implementation's.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use tokio::sync::{mpsc, watch};

use crate::{
    attestation::{self, CollateralSource},
    blob::{
        self, BlobSource, BlockBatch, BlockCursor, Genesis, HeaderBatch, HeaderCursor, Heights, RefusedData,
        range::{RangeSource, Ranges},
    },
    chain::{
        BatchOutcome, Call, CallBatch, ChainReader, ChainSubmitter, ChainView, Effects, Followed,
        SubmitError, SubmitProgress,
    },
    inventory::{self, Edit, Inventory, Snapshot},
    manage::{KeyError, OperatorKeys},
    primitives::{AccountId, RelayNumber},
    prpc::Method,
    pruntime::{self, Connect, ConnectError, PRuntimeClient},
    queue::{
        self, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, JobSigner, Lease, Progress, Stats,
        Withdrawal,
        admin::{Filter, JobDetail, Page, QueueAdmin},
    },
    signer::{self, SIGNATURE_BYTES, Signer, Signers},
    trade::accounts::{self, AccountLeases},
    vault::{self, Sealed, Vault},
    wire::Collateral,
};

#[async_trait]
impl<T: BlobSource + ?Sized> BlobSource for Arc<T> {
    fn heights(&self) -> watch::Receiver<Heights> {
        (**self).heights()
    }

    async fn genesis(&self) -> Result<Genesis, blob::Error> {
        (**self).genesis().await
    }

    async fn headers(
        &self,
        cursor: HeaderCursor,
        max_bytes: usize,
    ) -> Result<Option<HeaderBatch>, blob::Error> {
        (**self).headers(cursor, max_bytes).await
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, blob::Error> {
        (**self).blocks(cursor, max_bytes).await
    }

    fn refused(&self, refusal: &RefusedData) {
        (**self).refused(refusal);
    }
}

#[async_trait]
impl<T: RangeSource + ?Sized> RangeSource for Arc<T> {
    async fn ranges(&self, from: RelayNumber) -> Result<Option<Ranges>, blob::Error> {
        (**self).ranges(from).await
    }

    async fn headers_to(
        &self,
        cursor: HeaderCursor,
        end: RelayNumber,
        max_bytes: usize,
    ) -> Result<Option<HeaderBatch>, blob::Error> {
        (**self).headers_to(cursor, end, max_bytes).await
    }
}

#[async_trait]
impl<T: PRuntimeClient + ?Sized> PRuntimeClient for Arc<T> {
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, pruntime::Error> {
        (**self).call(method, body).await
    }

    async fn kick(&self) -> Result<(), pruntime::Error> {
        (**self).kick().await
    }
}

impl<T: Connect + ?Sized> Connect for Arc<T> {
    fn connect(&self, endpoint: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
        (**self).connect(endpoint)
    }
}

impl<T: ChainReader + ?Sized> ChainReader for Arc<T> {
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        (**self).views()
    }

    fn follow(&self, followed: Followed) {
        (**self).follow(followed);
    }
}

#[async_trait]
impl<T: ChainSubmitter + ?Sized> ChainSubmitter for Arc<T> {
    async fn submit(
        &self,
        batch: &CallBatch,
        progress: mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        (**self).submit(batch, progress).await
    }

    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
        (**self).effects(account, calls).await
    }

    fn forget(&self, account: AccountId) {
        (**self).forget(account);
    }
}

#[async_trait]
impl<T: JobQueue + ?Sized> JobQueue for Arc<T> {
    async fn submit(&self, job: Job) -> Result<JobHandle, queue::Error> {
        (**self).submit(job).await
    }

    async fn withdraw(&self, id: JobId) -> Result<Withdrawal, queue::Error> {
        (**self).withdraw(id).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, queue::Error> {
        (**self).lease(ttl).await
    }

    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, queue::Error> {
        (**self).heartbeat(leases, ttl).await
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), queue::Error> {
        (**self).release(leases, after).await
    }

    async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), queue::Error> {
        (**self).progress(leases, progress).await
    }

    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), queue::Error> {
        (**self).complete(id, token, outcome).await
    }

    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), queue::Error> {
        (**self).fail(id, token, failure, retry_after).await
    }

    async fn stats(&self) -> Result<Stats, queue::Error> {
        (**self).stats().await
    }
}

#[async_trait]
impl<T: QueueAdmin + ?Sized> QueueAdmin for Arc<T> {
    async fn list(&self, filter: Filter, offset: usize, limit: usize) -> Result<Page, queue::Error> {
        (**self).list(filter, offset, limit).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, queue::Error> {
        (**self).job(id).await
    }

    async fn retry(&self, id: JobId) -> Result<bool, queue::Error> {
        (**self).retry(id).await
    }

    async fn remove(&self, id: JobId) -> Result<bool, queue::Error> {
        (**self).remove(id).await
    }
}

#[async_trait]
impl<T: Inventory + ?Sized> Inventory for Arc<T> {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        (**self).snapshots()
    }

    async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, inventory::Error> {
        (**self).apply(edits).await
    }
}

#[async_trait]
impl<T: CollateralSource + ?Sized> CollateralSource for Arc<T> {
    async fn collateral(&self, quote: &[u8]) -> Result<Collateral, attestation::Error> {
        (**self).collateral(quote).await
    }
}

#[async_trait]
impl<T: Vault + ?Sized> Vault for Arc<T> {
    async fn seal(&self, secret: &SecretString) -> Result<Sealed, vault::Error> {
        (**self).seal(secret).await
    }

    async fn open(&self, sealed: &Sealed) -> Result<SecretString, vault::Error> {
        (**self).open(sealed).await
    }
}

#[async_trait]
impl<T: Signer + ?Sized> Signer for Arc<T> {
    fn account(&self) -> AccountId {
        (**self).account()
    }

    async fn sign(&self, payload: &[u8]) -> Result<[u8; SIGNATURE_BYTES], signer::Error> {
        (**self).sign(payload).await
    }
}

#[async_trait]
impl<T: Signers + ?Sized> Signers for Arc<T> {
    async fn signer(&self, of: &JobSigner) -> Result<Arc<dyn Signer>, signer::Error> {
        (**self).signer(of).await
    }
}

impl<T: OperatorKeys + ?Sized> OperatorKeys for Arc<T> {
    fn account(&self, secret: &SecretString) -> Result<AccountId, KeyError> {
        (**self).account(secret)
    }
}

#[async_trait]
impl<T: AccountLeases + ?Sized> AccountLeases for Arc<T> {
    async fn acquire(&self, account: AccountId, ttl: Duration) -> Result<Option<u64>, accounts::Error> {
        (**self).acquire(account, ttl).await
    }

    async fn renew(
        &self,
        leases: &[(AccountId, u64)],
        ttl: Duration,
    ) -> Result<Vec<AccountId>, accounts::Error> {
        (**self).renew(leases, ttl).await
    }

    async fn release(&self, leases: &[(AccountId, u64)]) -> Result<(), accounts::Error> {
        (**self).release(leases).await
    }
}
