//! `prb store`: works on the block store of a stopped daemon on this machine.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use prb_chain::{
    history::{self, HistorySource, Replay, archive},
    store::{self, Part, Report, Store, Tips},
};
use prb_core::primitives::{ParaNumber, RelayNumber};

use super::{
    args::{ChangeOptions, StoreAction, StoreArgs},
    confirm, print,
};
use crate::output;

/// Interval of progress lines if output is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval of progress lines on a terminal.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Runs a command.
pub(super) async fn run(args: StoreArgs) -> anyhow::Result<()> {
    let path = args.data.map_or(args.local_db_path, |data| data.join("blocks"));
    match args.action {
        StoreAction::Import { from, chain_identity } => import(path, from, chain_identity).await,
        action => tokio::task::spawn_blocking(move || on_store(path, action)).await?,
    }
}

fn on_store(path: PathBuf, action: StoreAction) -> anyhow::Result<()> {
    if !path.join("data.mdb").exists() {
        bail!(
            "there is no block store at {}: set PHALA_LOCAL_DB_PATH, or --data for that of prb all",
            path.display()
        );
    }
    if matches!(action, StoreAction::Verify | StoreAction::Export { .. }) {
        // Before the database is mapped: a damaged page could end the process by a signal.
        Store::check_pages(&path)?;
    }
    let store = open(&path)?;
    match action {
        StoreAction::Verify => verify(&store),
        StoreAction::Export { to, level, file_mib } => {
            export(&store, &to, archive::Config::default().with_level(level).with_file_bytes(file_mib << 20))
        }
        StoreAction::Compact => {
            let (before, after) = store.compact()?;
            print(&format!("compacted from {} to {}\n", size(before), size(after)))
        }
        StoreAction::Drop { relay_from, para_from, headers, options } => {
            drop_blocks(&store, relay_from, para_from, headers, options)
        }
        StoreAction::Import { .. } => Ok(()),
    }
}

fn open(path: &std::path::Path) -> anyhow::Result<Store> {
    Ok(Store::open(path, store::Config::default())?)
}

fn verify(store: &Store) -> anyhow::Result<()> {
    let mut meter = Meter::new();
    let report = store.verify(&mut |progress| {
        meter.show(&format!("{}s", progress.part), progress.done.into(), progress.total.into());
        true
    })?;
    meter.end();
    let Report { relay_headers, justified, para_headers, changes, faulty, .. } = &report;
    let mut text = format!(
        "checked {relay_headers} relay headers ({justified} justified), {para_headers} parachain headers, storage \
         changes of {changes} blocks\n"
    );
    text += &faults_and_remedies(&report);
    print(&text)?;
    if *faulty > 0 {
        bail!("{faulty} faults in the store at {}", store.path().display());
    }
    Ok(())
}

fn faults_and_remedies(report: &Report) -> String {
    let faults: String = report.faults.iter().map(|fault| format!("{fault}\n")).collect();
    faults + &remedies(report)
}

/// Returns the remedy for the faults, starting with the part that the others depend on.
fn remedies(report: &Report) -> String {
    let mut remedies = String::new();
    if report.first_of(Part::Genesis).is_some() {
        return "Move the store away: the daemon fetches everything again, or import an archive with `prb store import`.\n".into();
    }
    if let Some(number) = report.first_of(Part::Relay) {
        remedies +=
            &format!("Run `prb store drop --relay-from {number}`: the daemon fetches the rest again.\n");
    }
    match (report.first_of(Part::ParaHeaders), report.first_of(Part::Changes)) {
        (Some(header), _) => {
            remedies += &format!(
                "Run `prb store drop --para-from {header} --headers`: the daemon fetches the rest again.\n"
            );
        }
        (None, Some(number)) => {
            remedies +=
                &format!("Run `prb store drop --para-from {number}`: the daemon fetches the rest again.\n");
        }
        (None, None) => {}
    }
    remedies
}

fn export(store: &Store, to: &std::path::Path, config: archive::Config) -> anyhow::Result<()> {
    let (mut meter, start) = (Meter::new(), Instant::now());
    let exported = archive::export(store, to, config, &mut |progress| {
        meter.show(&format!("{}s", progress.part), progress.done.into(), progress.total.into());
        true
    });
    meter.end();
    if let Err(archive::Error::Damaged(report)) = &exported {
        print(&faults_and_remedies(report))?;
        bail!(
            "the store at {} is damaged: {} has complete files only, with blocks before the damage",
            store.path().display(),
            to.display()
        );
    }
    let archive::Exported { files, bytes, content_bytes, relay_headers, para_headers, changes, .. } =
        exported?;
    print(&format!(
        "added {files} files with {relay_headers} relay headers, {para_headers} parachain headers and storage changes \
         of {changes} blocks in {:.1} s: {} of {}\n",
        start.elapsed().as_secs_f64(),
        size(bytes),
        size(content_bytes),
    ))
}

async fn import(path: PathBuf, from: PathBuf, expected: Option<String>) -> anyhow::Result<()> {
    // Before the store, which is created if it is missing: a wrong folder must not leave one behind.
    let archive = tokio::task::spawn_blocking(move || archive::ArchiveHistory::open(&from)).await??;
    let store = Arc::new(tokio::task::spawn_blocking(move || open(&path)).await??);
    let end = archive.extent();
    let mut replay = Replay::new(Arc::clone(&store), vec![Arc::new(archive)], history::Config::default());
    if store.chain_identity().is_none() {
        let Some((genesis, _)) = replay.start().await else {
            bail!("the archive has no valid start of the chain: genesis.prb is missing or damaged");
        };
        let identity = genesis.chain_identity.to_string();
        // Before the first write: a store keeps its chain.
        if expected.as_ref().is_some_and(|expected| !expected.eq_ignore_ascii_case(&identity)) {
            bail!("the archive is of chain {identity}, which is not the expected one");
        }
        output::error_line(&format!(
            "chain {identity}, parachain {}, from relay block {} ({}) on",
            genesis.para_id, genesis.relay_number, genesis.relay_hash
        ));
        replay.store_start(genesis).await?;
    }
    let start = Instant::now();
    let mut tips = store.tips();
    let drained = {
        let drain = replay.drain();
        tokio::pin!(drain);
        let mut meter = Meter::new();
        loop {
            tokio::select! {
                drained = &mut drain => break drained?,
                _ = tips.changed() => {
                    let now = *tips.borrow_and_update();
                    let done = now.relay.map_or(0, |(number, _)| number.0) as u64 + u64::from(now.changes.0);
                    let total = end.relay.map_or(0, |n| n.0) as u64 + end.para.map_or(0, |n| n.0) as u64;
                    // The store may be ahead of the archive.
                    meter.show("blocks of both chains", done, total.max(done));
                }
            }
        }
    };
    let heights = *store.heights().borrow();
    let shown = |number: Option<u32>| number.map_or("none".to_owned(), |number| number.to_string());
    let (relay, para) = (heights.relay.map(|n| n.0), heights.para.map(|n| n.0));
    print(&format!(
        "verified and stored up to relay block {} and parachain block {} in {:.1} s\n",
        shown(relay),
        shown(para),
        start.elapsed().as_secs_f64()
    ))?;
    for fault in &drained.faults {
        output::error_line(&format!("{}: {}: {}", fault.source, fault.part.name(), fault.what));
    }
    if !drained.faults.is_empty() {
        bail!(
            "the archive was imported only in part; all stored blocks are verified, and the rest can come from another source"
        );
    }
    Ok(())
}

fn drop_blocks(
    store: &Store,
    relay: Option<u32>,
    para: Option<u32>,
    headers: bool,
    options: ChangeOptions,
) -> anyhow::Result<()> {
    let tips = *store.tips().borrow();
    let what = blocks_to_drop(&tips, relay, para, headers);
    if what.is_empty() {
        return print(&format!("nothing to drop: {}\n", end_of_store(&tips)));
    }
    if options.dry_run {
        return print(&format!("would drop {what}\n"));
    }
    confirm(options, &format!("Drop {what}?"))?;
    if let Some(number) = para {
        store.drop_para_from(ParaNumber(number), headers).context("not all of it was dropped")?;
    }
    if let Some(number) = relay {
        store.drop_relay_from(RelayNumber(number)).context("not all of it was dropped")?;
    }
    print(&format!("dropped {what}; {}\n", end_of_store(&store.tips().borrow())))
}

/// Names the stored blocks from the given ones on; empty if there are none.
fn blocks_to_drop(tips: &Tips, relay: Option<u32>, para: Option<u32>, headers: bool) -> String {
    let range = |what: &str, from: Option<u32>, tip: Option<u32>| {
        let (from, tip) = (from?, tip?);
        (from <= tip).then(|| format!("{what} {from} to {tip}"))
    };
    let (relay_tip, header_tip) = (tips.relay.map(|tip| tip.0.0), tips.para_header.map(|tip| tip.0.0));
    let parts = [
        range("relay blocks", relay, relay_tip),
        range("storage changes of parachain blocks", para, Some(tips.changes.0).filter(|tip| *tip > 0)),
        range("parachain headers", para.filter(|_| headers), header_tip),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn end_of_store(tips: &Tips) -> String {
    let last = |what: &str, number: Option<u32>| {
        number.map_or_else(|| format!("no {what}"), |number| format!("{what} {number}"))
    };
    format!(
        "the store ends with {}, {} and storage changes of block {}",
        last("relay block", tips.relay.map(|(number, _)| number.0)),
        last("parachain header", tips.para_header.map(|(number, _)| number.0)),
        tips.changes
    )
}

/// Formats a number of bytes.
fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// Prints progress, rate and remaining time.
struct Meter {
    is_terminal: bool,
    what: String,
    start: Instant,
    first: u64,
    printed_at: Instant,
}

impl Meter {
    fn new() -> Self {
        let now = Instant::now();
        let is_terminal = std::io::stderr().is_terminal();
        Self { is_terminal, what: String::new(), start: now, first: 0, printed_at: now }
    }

    fn show(&mut self, what: &str, done: u64, total: u64) {
        let now = Instant::now();
        if self.what != what {
            self.what = what.to_owned();
            (self.start, self.first) = (now, done);
        }
        let pause = if self.is_terminal { REDRAW_INTERVAL } else { LINE_INTERVAL };
        if now - self.printed_at < pause {
            return;
        }
        self.printed_at = now;
        let line = line(what, done, total, done.saturating_sub(self.first), now - self.start);
        if self.is_terminal {
            output::error_text(&format!("\r\u{1b}[K{line}"));
        } else {
            output::error_line(&line);
        }
    }

    fn end(&self) {
        if self.is_terminal {
            output::error_text("\r\u{1b}[K");
        }
    }
}

fn line(what: &str, done: u64, total: u64, since: u64, took: Duration) -> String {
    let rate = since as f64 / took.as_secs_f64().max(0.001);
    let left = total.saturating_sub(done);
    let time = if rate >= 1.0 { format!(", {} s left", (left as f64 / rate).ceil()) } else { String::new() };
    format!("{what}: {done} of {total}, {rate:.0}/s{time}")
}

#[cfg(test)]
mod tests {
    use prb_core::primitives::Hash;

    use super::*;

    #[test]
    fn only_stored_blocks_are_dropped() {
        let mut tips = Tips::default();
        assert_eq!(blocks_to_drop(&tips, Some(0), Some(0), true), "");
        assert_eq!(
            end_of_store(&tips),
            "the store ends with no relay block, no parachain header and storage changes of block 0"
        );
        tips.relay = Some((RelayNumber(700), Hash([0; 32])));
        tips.para_header = Some((ParaNumber(310), Hash([0; 32])));
        tips.changes = ParaNumber(299);
        assert_eq!(blocks_to_drop(&tips, Some(701), Some(300), false), "");
        assert_eq!(blocks_to_drop(&tips, None, Some(300), true), "parachain headers 300 to 310");
        assert_eq!(
            blocks_to_drop(&tips, Some(700), Some(299), true),
            "relay blocks 700 to 700, storage changes of parachain blocks 299 to 299, parachain headers 299 to 310"
        );
        assert!(end_of_store(&tips).contains("relay block 700, parachain header 310 and"));
    }

    #[test]
    fn progress_line_has_rate_and_remaining_time() {
        let text = line("relay blocks", 3000, 9000, 2000, Duration::from_secs(4));
        assert_eq!(text, "relay blocks: 3000 of 9000, 500/s, 12 s left");
        assert_eq!(line("x", 0, 5, 0, Duration::ZERO), "x: 0 of 5, 0/s");
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size(3 << 20), "3.0 MiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }
}
