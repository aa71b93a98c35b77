//! Submits jobs, batching those of many submitters into one script, one script at a time.

use std::sync::Arc;

use prb_core::queue::{Error, JobId};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Shared, orphans,
    pending::{Outcome, Waiting},
};

/// Maximum number of jobs, and roughly of bytes, in one script.
const MAX_BATCH: usize = 128;
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A request to add a job.
pub(super) struct Submission {
    pub(super) json: String,
    /// The job's index entry without the size: mark, pool, action.
    pub(super) index_entry: String,
    pub(super) mark: String,
    pub(super) calls: usize,
    pub(super) submitter: oneshot::Sender<Outcome>,
    pub(super) added: oneshot::Sender<Result<JobId, Error>>,
}

/// Runs until the queue is dropped.
pub(super) async fn run(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Submission>) {
    // Subscribe before the first job is added, so that no event is missed. Without a subscription, outcomes are
    // polled.
    let mut listening = shared.listening.subscribe();
    let mut waited = false;
    loop {
        let first = tokio::select! {
            () = shared.orphans.wait() => {
                // A failure is reported to the next submitter, before whose job this is tried again.
                let _ = orphans::withdraw(&shared).await;
                continue;
            }
            job = jobs.recv() => job,
        };
        let Some(first) = first else { return };
        if !waited {
            shared.submits.send_replace(true);
            let wait = tokio::time::timeout(shared.config.poll_interval, listening.wait_for(|on| *on));
            // Also continues after the timeout; the sender lives as long as this task.
            let _ = wait.await;
            waited = true;
        }
        let mut bytes = first.json.len();
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && bytes < MAX_BATCH_BYTES
            && let Ok(next) = jobs.try_recv()
        {
            bytes += next.json.len();
            batch.push(next);
        }
        // Skip submitters that left before their job was added.
        batch.retain(|job| !job.added.is_closed());
        if batch.is_empty() {
            continue;
        }
        match orphans::withdraw(&shared).await {
            Ok(()) => add(&shared, batch).await,
            Err(e) => batch.into_iter().for_each(|job| {
                let _ = job.added.send(Err(shared.link.unavailable(e.clone())));
            }),
        }
    }
}

async fn add(shared: &Shared, batch: Vec<Submission>) {
    let mut script = shared.link.scripts.submit.call();
    script.arg(shared.seq()).arg(&shared.caller);
    script.arg(shared.config.max_jobs).arg(shared.config.max_bytes);
    for job in &batch {
        script.arg(&job.json).arg(&job.index_entry);
    }
    let _adding = shared.orphans.adding.lock().await;
    // Before the script: a fast trader may end a job before this process has its id.
    shared.pending.begin();
    let answer: Result<Vec<String>, _> = shared.link.run(&script).await;
    let mut words = match answer {
        Ok(words) => words.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(e) => batch.iter().map(|_| Err(e.clone())).collect(),
    }
    .into_iter();
    let (mut open, mut answers) = (Vec::new(), Vec::new());
    let since = Instant::now();
    for Submission { mark, calls, submitter, added, .. } in batch {
        let result = match words.next() {
            Some(Ok(word)) => read(&word, shared),
            Some(Err(e)) => Err(shared.link.unavailable(e)),
            None => Err(Error::Unavailable("Redis returned too few answers".into())),
        };
        if let Ok(id) = &result {
            open.push((*id, Waiting { mark, calls, submitter, since, withdrawing: false }));
        }
        answers.push((added, result));
    }
    shared.pending.register(open);
    for (added, result) in answers {
        // The submitter may have left; the job is added regardless.
        let _ = added.send(result);
    }
}

fn read(word: &str, shared: &Shared) -> Result<JobId, Error> {
    match word {
        "F" => Err(Error::Full { limit: shared.config.max_jobs }),
        "B" => Err(Error::FullBytes { limit_bytes: shared.config.max_bytes }),
        id => id
            .parse()
            .map(JobId)
            .map_err(|_| Error::Unavailable("Redis returned a job id that is not a number".into())),
    }
}
