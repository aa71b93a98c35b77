//! Positions of entries in the file, for messages.

use std::{collections::HashMap, fmt};

use toml::Spanned;

/// The position of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// The line, counted from 1.
    Line(usize),
    /// The index in its list, counted from 1, because the JSON parser provides no lines.
    Entry(usize),
}

impl Position {
    /// Returns the line of a byte in the text.
    pub(super) fn line(text: &str, byte: usize) -> Self {
        let before = &text.as_bytes()[..byte.min(text.len())];
        Self::Line(before.iter().filter(|byte| **byte == b'\n').count() + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Entry(number) => write!(f, "entry {number}"),
        }
    }
}

/// An entry with its position.
#[derive(Debug)]
pub(super) struct Positioned<T> {
    pub(super) position: Position,
    pub(super) entry: T,
}

impl<T> Positioned<T> {
    pub(super) fn by_index(entries: Vec<T>) -> Vec<Self> {
        let position = |(index, entry)| Self { position: Position::Entry(index + 1), entry };
        entries.into_iter().enumerate().map(position).collect()
    }

    pub(super) fn by_line(text: &str, entries: Vec<Spanned<T>>) -> Vec<Self> {
        let position = |entry: Spanned<T>| Self {
            position: Position::line(text, entry.span().start),
            entry: entry.into_inner(),
        };
        entries.into_iter().map(position).collect()
    }
}

/// Values seen so far, to detect duplicates.
#[derive(Debug, Default)]
pub(super) struct Unique(HashMap<String, Position>);

impl Unique {
    /// Adds a value; returns the position of the earlier one if it is a duplicate.
    pub(super) fn insert(&mut self, value: String, position: Position) -> Option<Position> {
        self.0.insert(value, position)
    }
}
