//! No core files: the memory of a process that crashed has operators' keys in it.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Makes this process leave no core file, and keeps other users' processes out of its memory and environment.
///
/// The limit alone does not hold for systems that pipe cores to a program (`systemd-coredump`, `apport`).
pub fn disable() {
    let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    let limited = setrlimit(Resource::Core, limit);
    let undumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    for error in [limited.err(), undumpable.err()].into_iter().flatten() {
        tracing::warn!(
            error = %prb_core::text::describe(&error),
            "core files cannot be switched off: one would hold keys of this process"
        );
    }
}
