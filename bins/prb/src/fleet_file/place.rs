//! Positions of entries in the file, for messages.

use std::{collections::HashMap, fmt};

use toml::Spanned;

/// The position of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The line, counted from 1.
    Line(usize),
    /// The index in its list, counted from 1, because the JSON parser provides no lines.
    Entry(usize),
}

impl Place {
    /// Returns the line of a byte in the text.
    pub(super) fn line(text: &str, byte: usize) -> Self {
        let before = &text.as_bytes()[..byte.min(text.len())];
        Self::Line(before.iter().filter(|byte| **byte == b'\n').count() + 1)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Entry(number) => write!(f, "entry {number}"),
        }
    }
}

/// An entry with its position.
#[derive(Debug)]
pub(super) struct Placed<T> {
    pub(super) place: Place,
    pub(super) entry: T,
}

impl<T> Placed<T> {
    pub(super) fn by_index(entries: Vec<T>) -> Vec<Self> {
        let place = |(index, entry)| Self { place: Place::Entry(index + 1), entry };
        entries.into_iter().enumerate().map(place).collect()
    }

    pub(super) fn by_line(text: &str, entries: Vec<Spanned<T>>) -> Vec<Self> {
        let place = |entry: Spanned<T>| Self {
            place: Place::line(text, entry.span().start),
            entry: entry.into_inner(),
        };
        entries.into_iter().map(place).collect()
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Placed<U> {
        Placed { place: self.place, entry: change(self.entry) }
    }
}

/// Values seen so far, to detect duplicates.
#[derive(Debug, Default)]
pub(super) struct Unique(HashMap<String, Place>);

impl Unique {
    /// Adds a value; returns the position of the earlier one if it is a duplicate.
    pub(super) fn insert(&mut self, value: String, place: Place) -> Option<Place> {
        self.0.insert(value, place)
    }
}
