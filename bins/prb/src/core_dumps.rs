//! Disables core files, which would contain operators' keys.

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};

/// Disables core files of this process, and denies other processes of its user access to its memory and environment.
///
/// The limit alone does not hold for systems that pipe cores to a program (`systemd-coredump`, `apport`).
/// Returns what failed, for [`report`]: the log starts later than the first secret is read.
pub fn disable() -> Vec<Errno> {
    let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    let limited = setrlimit(Resource::Core, limit);
    let undumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    [limited.err(), undumpable.err()].into_iter().flatten().collect()
}

/// Logs why core files could not be disabled.
pub fn report(failures: &[Errno]) {
    for error in failures {
        tracing::warn!(
            error = %prb_core::text::describe(error),
            "core files cannot be disabled: one would contain keys of this process"
        );
    }
}
