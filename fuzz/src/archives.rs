//! Reads files of archives, as they come from a web server, and the content of their frames.

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    prb_chain::internals::history::read_archive(bytes);
}
