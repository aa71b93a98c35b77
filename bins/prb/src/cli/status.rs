//! `prb status` and `prb provider list`.

use serde_json::Value;

use super::{
    client::Client,
    json,
    table::{cell, clean, pairs, pha, table},
};

pub(super) async fn status(client: &Client, as_json: bool) -> anyhow::Result<String> {
    let status = client.get(&["status"], &[]).await?;
    if as_json {
        return json(&status);
    }
    let workers = &status["workers"];
    let heights = &status["heights"];
    let chain = |held: &str, known: &str| format!("{} of {}", cell(&heights[held]), cell(&heights[known]));
    let editable = if status["editable"] == true { "here" } else { "in the fleet file" };
    let mut text = not_ready(&status);
    text += &pairs(&[
        (
            "daemon",
            format!(
                "prb {} {}, at {}",
                cell(&status["daemon"]),
                cell(&status["version"]),
                cell(&status["at"])
            ),
        ),
        ("pools", format!("{}, edited {editable}", cell(&status["pools"]))),
        ("workers", format!("{}: {}", cell(&workers["total"]), counts(&workers["by_state"]))),
        ("reasons", counts(&workers["by_reason"])),
        ("stalled", cell(&workers["stalled"])),
        ("in trouble", cell(&workers["in_trouble"])),
        ("longest lag", format!("{} blocks", cell(&workers["max_lag"]))),
        ("at stake", format!("{} PHA", pha(&workers["at_stake"]))),
        ("relay chain", chain("relay", "relay_target")),
        ("parachain", chain("para", "para_target")),
        ("jobs", counts(&status["jobs"])),
        ("providers", cell(&status["providers"])),
    ]);
    let troubled = status["troubled"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !troubled.is_empty() {
        let rows: Vec<_> = troubled
            .iter()
            .map(|one| {
                let mut row = ["name", "state", "reason", "message"].map(|key| cell(&one[key])).to_vec();
                if one["trouble"] != one["reason"] {
                    row[2] = format!("{}, {}", row[2], cell(&one["trouble"]));
                }
                row
            })
            .collect();
        text += "\n";
        text += &table(&["IN TROUBLE", "STATE", "REASON", "MESSAGE"], &rows);
    }
    Ok(text)
}

/// Formats why the daemon is not ready, each reason with its remedy; nothing if it is.
fn not_ready(status: &Value) -> String {
    let reasons = status["not_ready"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lines = reasons.iter().map(|reason| {
        let [code, message, remedy] = ["code", "message", "remedy"].map(|key| clean(&cell(&reason[key])));
        format!("not ready: {code}: {message}\n  {remedy}\n")
    });
    lines.collect()
}

/// Formats counts, such as `S_ACTIVE 3, S_ERROR 1`; zeros are left out.
fn counts(value: &Value) -> String {
    let Some(counts) = value.as_object() else { return "-".into() };
    let some = counts.iter().filter(|(_, count)| **count != 0).map(|(name, count)| format!("{name} {count}"));
    match some.collect::<Vec<_>>() {
        none if none.is_empty() => "none".into(),
        some => some.join(", "),
    }
}

pub(super) async fn providers(client: &Client, as_json: bool) -> anyhow::Result<String> {
    let answer = client.get(&["providers"], &[]).await?;
    if as_json {
        return json(&answer["providers"]);
    }
    let rows: Vec<_> = answer["providers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(|one| {
            let row = [
                "peer_id",
                "hostname",
                "address",
                "usable",
                "standing",
                "provenance",
                "state",
                "answered",
                "failed",
                "refused",
                "round_trip_ms",
                "reason",
            ]
            // Nothing, not a dash, for providers that are used.
            .map(|key| if key == "reason" && one[key].is_null() { String::new() } else { cell(&one[key]) });
            row.to_vec()
        })
        .collect();
    let headings = [
        "PEER",
        "HOST",
        "ADDRESS",
        "USABLE",
        "STANDING",
        "PROVENANCE",
        "STATE",
        "SERVED",
        "FAILED",
        "REFUSED",
        "PING MS",
        "WHY NOT",
    ];
    Ok(table(&headings, &rows))
}
