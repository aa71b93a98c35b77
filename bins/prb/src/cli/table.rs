//! Formats tables and values for terminals.

use prb_core::{primitives::parse_amount, text::is_invisible};
use serde_json::Value;

/// Maximum width of a cell, in characters.
const MAX_CELL: usize = 72;
/// The same in the last column, which no other one stands behind: it has the texts, such as a command's answers.
const MAX_LAST_CELL: usize = 1_000;
/// Decimals of PHA.
const DECIMALS: usize = prb_core::primitives::PHA_DECIMALS as usize;

/// Formats rows under headings; columns are as wide as their content. A long text belongs into the last one.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let last = headings.len() - 1;
    let limit = |column| if column == last { MAX_LAST_CELL } else { MAX_CELL };
    let cut = |row: &Vec<String>| row.iter().enumerate().map(|(n, cell)| shown(cell, limit(n))).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(cut).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        padded.collect::<String>().trim_end().to_owned() + "\n"
    };
    let mut text = line(headings.to_vec());
    for row in &rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

/// Formats names and values, one pair per line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    pairs.iter().map(|(name, value)| format!("{name:width$}  {}\n", clean(value))).collect()
}

/// Truncates a cell.
fn shown(cell: &str, limit: usize) -> String {
    let cell = clean(cell);
    match cell.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &cell[..end]),
        None => cell,
    }
}

/// Replaces invisible characters, which could move the cursor or reverse a text: names and messages come from workers
/// and other people.
pub(crate) fn clean(text: &str) -> String {
    text.replace(is_invisible, " ")
}

/// Formats a JSON value as a cell; `-` for null.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Formats an amount in 10^-12 PHA as PHA.
pub(crate) fn pha(value: &Value) -> String {
    let Some(units) = value.as_str().and_then(|text| text.parse::<u128>().ok()) else { return cell(value) };
    let one = 10u128.pow(DECIMALS as u32);
    let fraction = format!("{:0DECIMALS$}", units % one);
    match fraction.trim_end_matches('0') {
        "" => (units / one).to_string(),
        fraction => format!("{}.{fraction}", units / one),
    }
}

/// Converts an amount to 10^-12 PHA: digits are in that unit already, `30000PHA` and `0.5 PHA` are
/// converted. Other texts stay unchanged, and the daemon rejects them.
pub(super) fn to_base_units(text: &str) -> String {
    parse_amount(text).map_or_else(|_| text.trim().to_owned(), |units| units.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_converted_exactly() {
        for (text, expected) in [
            ("30000PHA", "30000000000000000"),
            ("0.5 PHA", "500000000000"),
            (" 12 ", "12"),
            ("0PHA", "0"),
            ("1.1234567890123PHA", "1.1234567890123PHA"),
            ("-1PHA", "-1PHA"),
            ("PHA", "PHA"),
            ("1.PHA", "1000000000000"),
        ] {
            assert_eq!(to_base_units(text), expected, "{text}");
        }
        assert_eq!(pha(&json!("1500000000000")), "1.5");
        assert_eq!(pha(&json!("30000000000000000")), "30000");
        assert_eq!(pha(&Value::Null), "-");
    }

    #[test]
    fn control_characters_are_removed() {
        let long = vec!["x".repeat(500), "y".repeat(MAX_LAST_CELL + 1)];
        let text = table(&["NAME", "ANSWER"], &[vec!["a\u{1b}[2J\nb".into()], long]);
        assert_eq!(text.lines().count(), 3);
        let (x, y) = (text.matches('x').count(), text.matches('y').count());
        assert_eq!((text.contains('\u{1b}'), x, y), (false, MAX_CELL, MAX_LAST_CELL));
    }
}
