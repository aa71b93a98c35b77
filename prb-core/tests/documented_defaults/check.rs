//! Compares the defaults that fields' documentation states with the values of `Default`.
//!
//! Each field of a listed struct has a sentence `Default: VALUE.` in its documentation. The value is written as
//! `30 s` (ns, µs, ms, s, min, h, days), `8 MiB` (bytes, KiB, MiB, GiB), `10 PHA`, `10,000`, `none`, `unlimited`,
//! in backquotes as in Rust (`true`), as ``[`Enum::Variant`]`` or ``[`Struct::default`]``, or for a struct without
//! a default of its own as ``` `first` 1 s, `max` 60 s ```. An explanation may follow in parentheses.
//! A field that the constructor asks for says `No default: `.
//!
//! Other crates use this file by its path.

use std::{
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
};

/// Name endings of the structs that [`Defaults::finish`] wants to be listed, if they implement `Default`.
const SETTINGS: [&str; 5] = ["Config", "Limits", "Settings", "Timings", "Tuning"];

/// The structs of one crate, checked one by one.
pub(crate) struct Defaults {
    sources: PathBuf,
    checked: Vec<(String, String)>,
    faults: Vec<String>,
}

impl Defaults {
    /// Begins with the crate in this folder: `env!("CARGO_MANIFEST_DIR")`.
    pub(crate) fn of_crate(folder: &str) -> Self {
        Self { sources: Path::new(folder).join("src"), checked: Vec::new(), faults: Vec::new() }
    }

    /// Compares the documentation of a struct in `src/<file>` with its default value.
    pub(crate) fn check<T: Debug>(mut self, file: &str, default: &T) -> Self {
        let shown = format!("{default:?}");
        let name = shown.split(' ').next().unwrap_or_default().to_owned();
        let text = fs::read_to_string(self.sources.join(file)).unwrap_or_default();
        self.faults.extend(faults(&text, &name, &shown).into_iter().map(|fault| format!("{file}: {fault}")));
        self.checked.push((file.to_owned(), name));
        self
    }

    /// Fails with all faults, and with the structs that nobody has listed.
    pub(crate) fn finish(mut self) {
        for (file, name) in settings_with_default(&self.sources) {
            if !self.checked.iter().any(|(f, n)| (f, n) == (&file, &name)) {
                self.faults.push(format!("{file}: {name} implements `Default` and is not checked: list it"));
            }
        }
        assert!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults.join("\n"));
    }
}

/// What is wrong with the documented defaults of a struct in a source.
pub(crate) fn faults(source: &str, name: &str, shown: &str) -> Vec<String> {
    let documented = fields(source, name);
    if documented.is_empty() {
        return vec![format!("no public struct {name} with fields")];
    }
    let actual = parts(shown);
    let check = |(field, doc): &(String, String)| {
        let Some((_, actual)) = actual.iter().find(|(name, _)| name == field) else {
            return Some(format!("{name}::{field} is not in its Debug output"));
        };
        match stated(doc) {
            None if doc.contains("No default: ") => None,
            None => Some(format!("{name}::{field} states no default; it is {actual}")),
            Some(stated) if !is_equal(stated, actual) => {
                Some(format!("{name}::{field} states {stated}; it is {actual}"))
            }
            Some(_) => None,
        }
    };
    documented.iter().filter_map(check).collect()
}

/// The public fields of a struct, with their documentation on one line.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let start = format!("pub struct {name} {{");
    let lines = source.lines().skip_while(|line| *line != start).skip(1).take_while(|line| *line != "}");
    let (mut fields, mut doc) = (Vec::new(), Vec::new());
    for line in lines.map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            fields.push((field.to_owned(), std::mem::take(&mut doc).join(" ")));
        }
    }
    fields
}

/// The value in the sentence `Default: VALUE.` or `Default: VALUE (explanation).`
fn stated(doc: &str) -> Option<&str> {
    let (_, rest) = doc.split_once("Default: ")?;
    let end = rest.find(". ").or_else(|| rest.strip_suffix('.').map(str::len))?;
    rest[..end].split(" (").next()
}

/// The fields in the `Debug` output of a struct.
fn parts(shown: &str) -> Vec<(String, String)> {
    let inner = shown.split_once(" { ").and_then(|(_, rest)| rest.strip_suffix(" }")).unwrap_or_default();
    let (mut depth, mut from, mut items) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items.push(&inner[from..]);
    let pair = |item: &str| item.split_once(": ").map(|(name, value)| (name.trim().into(), value.into()));
    items.into_iter().filter_map(pair).collect()
}

fn is_equal(stated: &str, actual: &str) -> bool {
    let actual = actual.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(actual);
    let plain = stated.trim_matches(['[', ']', '`']);
    if let Some(path) = plain.strip_suffix("::default") {
        let name = path.rsplit("::").next().unwrap_or_default();
        return actual == name || actual.starts_with(&format!("{name} {{"));
    }
    if stated.starts_with('`') && stated.contains(", `") {
        let stated: Vec<_> = stated
            .split(", ")
            .filter_map(|item| item.strip_prefix('`').and_then(|item| item.split_once("` ")))
            .collect();
        let actual = parts(actual);
        return stated.len() == actual.len()
            && stated.iter().zip(&actual).all(|((a, x), (b, y))| a == b && is_equal(x, y));
    }
    match (plain, actual) {
        ("none", "None" | "[]" | "\"\"" | "{}") => true,
        ("unlimited", number) => [usize::MAX.to_string(), u64::MAX.to_string()].contains(&number.to_owned()),
        _ => match (quantity(plain), quantity(actual)) {
            (Some(stated), Some(actual)) => stated == actual,
            _ => plain.rsplit("::").next() == Some(actual),
        },
    }
}

/// A number with its kind (`s`, or nothing for counts, bytes and amounts): `1.5 s` is 1,500,000,000 ns.
fn quantity(text: &str) -> Option<(&'static str, u128)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !",.".contains(c)).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (kind, scale) = match unit.trim() {
        "" | "bytes" => ("", 1),
        "KiB" => ("", 1 << 10),
        "MiB" => ("", 1 << 20),
        "GiB" => ("", 1 << 30),
        "PHA" => ("", 1_000_000_000_000),
        "ns" => ("s", 1),
        "µs" => ("s", 1_000),
        "ms" => ("s", 1_000_000),
        "s" => ("s", 1_000_000_000),
        "min" => ("s", 60 * 1_000_000_000),
        "h" => ("s", 3_600 * 1_000_000_000),
        "day" | "days" => ("s", 86_400 * 1_000_000_000),
        _ => return None,
    };
    let number = number.replace(',', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    let tenths = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    Some((kind, digits * scale / tenths))
}

/// Files and names of the public structs with a name of settings that implement `Default`.
fn settings_with_default(sources: &Path) -> Vec<(String, String)> {
    let (mut folders, mut found) = (vec![sources.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let text = fs::read_to_string(&entry).unwrap();
            let file = entry.strip_prefix(sources).unwrap().to_string_lossy().into_owned();
            let names = text.lines().filter_map(|line| line.strip_prefix("impl Default for "));
            let names = names.map(|rest| rest.trim_end_matches(" {"));
            let is_listed = |name: &&str| {
                SETTINGS.iter().any(|end| name.ends_with(end))
                    && text.contains(&format!("\npub struct {name} {{"))
            };
            found.extend(names.filter(is_listed).map(|name| (file.clone(), name.to_owned())));
        }
    }
    found.sort();
    found
}
