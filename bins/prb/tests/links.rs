//! The links of the documentation lead somewhere: relative ones to a file, and to a heading where they name one. The
//! paths that it names exist.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The Markdown files of the repository that people read.
fn pages() -> Vec<PathBuf> {
    let root = root();
    let mut pages: Vec<_> = ["README.md", "CHANGELOG.md"].map(|name| root.join(name)).into();
    let crates = ["prb-core", "prb-chain", "prb-queue", "prb-walkie"];
    pages.extend(crates.map(|name| root.join(name).join("README.md")));
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "md" => pages.push(path),
                _ => {}
            }
        }
    }
    pages
}

/// The anchor of a heading: lower case, spaces as hyphens, punctuation left out.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// The links and the anchors of a page.
fn read(page: &Path) -> (Vec<String>, BTreeSet<String>) {
    let text = fs::read_to_string(page).unwrap();
    let (mut links, mut anchors, mut heading) = (Vec::new(), BTreeSet::new(), None::<String>);
    for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                anchors.extend(heading.take().map(|heading| anchor(&heading)));
            }
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                links.push(dest_url.into_string());
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            _ => {}
        }
    }
    (links, anchors)
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let pages: HashMap<PathBuf, _> = pages().into_iter().map(|page| (page.clone(), read(&page))).collect();
    let mut broken = Vec::new();
    let mut checked = 0;
    for (page, (links, own)) in &pages {
        for link in links.iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            checked += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let found = target.canonicalize().ok().filter(|target| target.starts_with(root()));
            let anchors =
                found.as_ref().and_then(|target| pages.get(target)).map_or(own, |(_, anchors)| anchors);
            if found.is_none() || !(heading.is_empty() || anchors.contains(heading)) {
                broken.push(format!("{}: {link}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(checked > 100, "{checked} links");
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The guide's table of contents has every page of the guide: what it leaves out is not in the book.
#[test]
fn the_guide_has_every_page() {
    let docs = root().join("docs");
    let (links, _) = read(&docs.join("SUMMARY.md"));
    let listed: BTreeSet<_> = links.iter().map(|link| docs.join(link)).collect();
    let missing: Vec<_> = pages()
        .into_iter()
        .filter(|page| page.starts_with(&docs) && !page.ends_with("SUMMARY.md") && !listed.contains(page))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whether code on a page is a path: `prb-core/src/sync.rs`, but not `/readyz`, `sync::plan` or `a / b`.
fn is_path(code: &str) -> bool {
    let named = code.contains('/') || code.ends_with(".rs");
    named && !code.starts_with('/') && !code.contains("::") && !code.contains(char::is_whitespace)
}

/// Pages for contributors name files by their path from the root of the repository.
#[test]
fn every_path_on_the_pages_for_contributors_exists() {
    let root = root();
    for page in ["docs/where-to-change.md", "docs/architecture.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let paths: BTreeSet<_> = Parser::new_ext(&text, Options::ENABLE_TABLES)
            .filter_map(|event| match event {
                Event::Code(code) if is_path(&code) => Some(code.into_string()),
                _ => None,
            })
            .collect();
        assert!(paths.len() > 5, "{page}: {paths:?}");
        let missing: Vec<_> = paths.iter().filter(|path| !root.join(path).exists()).collect();
        assert!(missing.is_empty(), "{page} names files that do not exist: {missing:#?}");
    }
}
