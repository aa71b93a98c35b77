//! Decodes jobs that other programs may have written to Redis.

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    // Jobs of our own are read as they were written.
    if let Some(job) = prb_queue::internals::read_job(bytes) {
        let written = prb_queue::internals::write_job(&job);
        let again = prb_queue::internals::read_job(&written).unwrap();
        assert_eq!((again.pool, &again.signer, &again.calls), (job.pool, &job.signer, &job.calls));
    }
}
