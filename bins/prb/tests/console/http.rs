//! The console over HTTP, without its script.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::http::StatusCode;
use prb::{
    console::{
        MAX_STREAMS,
        backend::{Edit, Error},
    },
    ops::Reason,
    readiness::Code,
};
use prb_core::{
    inventory::{KeyChange, Worker},
    primitives::ParaNumber,
    queue::JobId,
    worker::{Command, InFlight, Stage},
};
use secrecy::ExposeSecret;

use crate::rig::*;

#[tokio::test]
async fn first_page_lists_workers_that_need_attention() {
    let page = Page::of(&Made::new(fleet(100, 10))).await;
    let answer = page.get("/").await;
    assert_eq!(answer.status, 200);
    // Ten of a hundred workers, in five groups, with cause and remedy from the documentation.
    answer
        .has(&[
            "10 workers",
            "unreachable",
            "Nothing answers at the endpoint",
            "free-stake-short",
            "Contribute",
        ])
        .has(&[
            "/workers?reason=key-changed&amp;attention=1",
            "count-S_ACTIVE",
            "2,000,000\u{a0}PHA",
            "40,000\u{a0}PHA",
        ])
        // The trade queue's jobs: waiting and delayed ones together.
        .has(&[
            ">3</dd></div><div><dt>Jobs in progress",
            ">1,234<",
            r#"Jobs failed</dt><dd class="bad">7</dd>"#,
        ]);
    assert_eq!(answer.count("<tr id=\"trouble-"), 5);
    let calm = Page::of(&Made::new(fleet(10, 100))).await;
    calm.get("/").await.has(&["Nothing. Waiting workers continue by themselves."]).lacks(&["trouble-"]);
    let empty = Page::of(&Made::new(fleet(0, 1))).await;
    empty.get("/").await.has(&["No workers yet.", "/pools/new"]);
}

#[tokio::test]
async fn reasons_of_readiness_come_first_with_their_remedies() {
    let made = Made::new(fleet(10, 100));
    made.change(|fleet| {
        fleet.not_ready = vec![
            Reason::new(Code::NoParaNode, format!("no node answers: {NASTY}")),
            Reason::new(Code::ChainStalled, "the relay chain has finalised no block after 7 for 5 minutes"),
            Reason::new(Code::ChainStalled, "the para chain has finalised no block after 3 for 5 minutes"),
        ];
    });
    let page = Page::of(&made).await;
    let answer = page.get("/").await;
    answer
        .has(&[
            "<tr id=\"not-ready-0\"><td data-label=\"Not ready\">no_para_node</td>",
            "No node answers: &lt;b onmouseover",
            "Start the node, or correct <code>PHALA_CHAIN_ENDPOINT</code>",
            "The para chain has finalised no block",
        ])
        .lacks(&["Nothing. Waiting", "<b onmouseover"]);
    assert_eq!(answer.count("<tr id=\"not-ready-"), 3);

    // With workers in trouble, they follow.
    made.change(|now| now.workers = fleet(100, 10).workers);
    let body = page.get("/").await.body;
    let places =
        ["Needs attention", "not-ready-0", "10 workers", "trouble-"].map(|text| body.find(text).unwrap());
    assert!(places.is_sorted(), "{places:?}");
}

#[tokio::test]
async fn workers_are_filtered_sorted_and_paged() {
    let page = Page::of(&Made::new(fleet(250, 25))).await;
    let rows = |answer: &Answer| answer.count(" id=\"w-");
    let all = page.get("/workers").await;
    assert_eq!(rows(&all), 100);
    all.has(&["1–100", "of <b>250</b>", "Page 1 of 3"]);
    let last = page.get("/workers?page=9&size=100").await;
    assert_eq!(rows(&last), 50);
    last.has(&["201–250"]);
    for (query, count) in [
        ("attention=1", 10),
        ("state=S_ERROR", 4),
        ("reason=key-changed", 2),
        ("pool=8", 13),
        ("text=RACK-07", 7),
        ("text=connection+refused", 2),
        ("text=no+such+worker", 0),
    ] {
        let answer = page.get(&format!("/workers?size=500&{query}")).await;
        assert_eq!(rows(&answer), count, "{query}");
    }
    // Neither a size that the page does not offer, nor more of a text than its field takes.
    let long = page.get(&format!("/workers?size=100000&text={}", "x".repeat(5000))).await;
    long.has(&[&format!("value=\"{}\"", "x".repeat(200))]);
    assert_eq!(rows(&page.get("/workers?size=100000").await), 100);
    let most = page.get("/workers?sort=lag&order=down&size=50").await;
    let first = most.body.split(" id=\"w-").nth(1).unwrap();
    assert!(first.contains("100,000") && first.contains("Stalled."), "{first}");
    // All columns of the original's page.
    page.get("/workers?columns=all&size=50").await.has(&[
        "Para block",
        "Para header",
        "Relay header",
        "Public key",
        ">V<",
        ">Ve<",
        "P instant",
        "P initial",
        "Minted",
        "Version",
        "Git revision",
        "Memory peak",
        "Memory used",
        "Memory total peak",
        "Session account",
        "ID",
        "Confidence",
        "Lag",
        "Goal",
        "Reason",
        "c0ffee12c0ff",
        "512\u{a0}MiB",
    ]);
}

#[tokio::test]
async fn key_changes_and_what_is_in_flight_are_columns_with_an_order() {
    let made = Made::new(fleet(60, 100));
    let since = |secs: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
    made.change(|fleet| {
        for (place, secs, stage) in [(7, 1_700_000_000, Stage::Queued), (3, 1_600_000_000, Stage::Preparing)]
        {
            let worker = &mut fleet.workers[place];
            worker.in_flight =
                Some(InFlight { operation: "start", stage, since: since(secs), job: Some(JobId(41)) });
            worker.key_change = Some(KeyChange { at_ms: secs * 1000, block: Some(ParaNumber(7_654_321)) });
        }
    });
    let page = Page::of(&made).await;
    let shown = page.get("/workers?columns=all&size=50").await;
    shown.has(&["In flight", "Last key change (UTC)", "start, queued<br>", "2023-11-14 22:13:20"]);
    page.get("/workers").await.has(&["start, preparing<br>"]).lacks(&["Last key change"]);
    // In flight for years.
    assert_eq!(page.get("/workers?attention=1").await.count(" id=\"w-"), 2);
    page.get("/").await.has(&["2 workers", "overdue", "Look for its job among the transactions"]);
    page.get("/workers?columns=runtime").await.has(&["Last key change (UTC)"]);
    let names = |answer: &Answer| -> Vec<String> {
        answer.body.split("id=\"open-").skip(1).take(2).map(|row| row[..36].to_owned()).collect()
    };
    let ids = [7, 3].map(|place| made.fleet.lock().unwrap().workers[place].entry.id.to_string());
    let newest = page.get("/workers?columns=runtime&size=50&sort=keychange&order=down").await;
    assert_eq!(names(&newest), ids);
    // What is in flight longest comes first.
    let longest = page.get("/workers?columns=runtime&size=50&sort=flight&order=down").await;
    assert_eq!(names(&longest), [ids[1].clone(), ids[0].clone()]);
    page.get(&format!("/workers/{}", ids[0])).await.has(&[
        "href=\"/transactions/jobs/41\"",
        "after block 7,654,321",
        "Last key change",
    ]);
}

#[tokio::test]
async fn names_and_messages_are_shown_as_text() {
    let mut made = fleet(1, 100);
    let entry = Arc::make_mut(&mut made.workers[0].entry);
    entry.name = NASTY.to_owned();
    made.workers[0].message = NASTY.into();
    made.pools[1].name = NASTY.to_owned();
    let id = made.workers[0].entry.id;
    let page = Page::of(&Made::new(made)).await;
    for path in ["/workers", "/pools", "/workers/new"].map(str::to_owned).into_iter().chain([
        format!("/workers/{id}"),
        format!("/workers/{id}/edit"),
        format!("/workers/confirm?command=kick&id={id}"),
        format!("/workers?text={}", "%3Cscript%3Ealert(1)%3C/script%3E"),
    ]) {
        let answer = page.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        answer.lacks(&["<b onmouseover", "<script>alert"]);
    }
}

#[tokio::test]
async fn command_is_previewed_before_it_is_given() {
    let mut made = fleet(100, 10);
    Arc::make_mut(&mut made.workers[2].entry).enabled = false;
    let ids: Vec<_> = made.workers[..3].iter().map(|worker| worker.entry.id).collect();
    let made = Made::new(made);
    let page = Page::of(&made).await;
    let query = ids.iter().map(|id| format!("&id={id}")).collect::<String>();
    let shown = page.get(&format!("/workers/confirm?command=kick{query}")).await;
    shown.has(&["kick: 2 workers", "will kick", "Left out: worker rack-", "does not run"]);
    let sent = format!("{},{}", ids[0], ids[1]);
    shown.has(&[&sent]).lacks(&[&format!(",{}", ids[2])]);
    // The workers that match the filter, whatever is selected.
    page.get("/workers/confirm?command=restart&all=1&attention=1").await.has(&["restart: 10 workers"]);
    page.get("/workers/confirm?command=restart").await.has(&["No worker was chosen."]);
    for (path, status) in [
        ("/workers/confirm?command=explode", 400),
        ("/workers/confirm?command=kick&id=nobody", 400),
        ("/workers/confirm?command=kick&id=00000000-0000-0000-0000-000000000000", 404),
    ] {
        assert_eq!(page.get(path).await.status, status, "{path}");
    }
    // Previews gave no command, and none is accepted without the token.
    let body = format!("command=kick&ids={sent}");
    assert_eq!(page.post("/workers/command", None, &body).await.status, 401);
    assert_eq!(page.post("/workers/command", Some("another-token-of-16"), &body).await.status, 401);
    assert!(made.commands.lock().unwrap().is_empty());
    let answer = page.post("/workers/command", Some(TOKEN), &body).await;
    assert_eq!(answer.status, 200);
    answer.has(&["2 workers accepted the command kick."]);
    assert_eq!(*made.commands.lock().unwrap(), [(ids[..2].to_vec(), Command::Kick)]);
}

/// A form of another site in the operator's browser cannot show the token, and a name of somebody else's that leads
/// here is none of ours.
#[tokio::test]
async fn other_sites_and_hosts_change_nothing() {
    let made = Made::new(fleet(3, 100));
    let page = Page::of(&made).await;
    let (id, own) = (made.fleet.lock().unwrap().workers[0].entry.id, page.address.to_string());
    let body = format!("command=kick&ids={id}");
    let post = async |host: &str, headers: &str| {
        let length = body.len();
        let head = format!(
            "POST /workers/command HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n{headers}"
        );
        page.send(&head, &body).await.status
    };
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for headers in ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Cookie: a=b\r\n", ""] {
        assert_eq!(post(&own, headers).await, 401, "{headers}");
    }
    assert_eq!(post("evil.example", &bearer).await, 421);
    assert!(made.commands.lock().unwrap().is_empty());
    assert_eq!(post(&own, &bearer).await, 200);
    assert_eq!(made.commands.lock().unwrap().len(), 1);
}

/// A selection of a whole page: the ids make a long URL.
#[tokio::test]
async fn a_whole_page_can_be_chosen() {
    let made = Made::new(fleet(510, 1000));
    let ids: Vec<_> =
        made.fleet.lock().unwrap().workers.iter().map(|worker| worker.entry.id).take(500).collect();
    let page = Page::of(&made).await;
    // Of all, no more are named.
    let all = page.get("/workers/confirm?command=stop&all=1").await;
    all.has(&["stop: 510 workers", "And 10 "]);
    assert_eq!(all.count("data-label=\"Worker\""), 500);
    let query = ids.iter().map(|id| format!("&id={id}")).collect::<String>();
    let shown = page.get(&format!("/workers/confirm?command=stop{query}")).await;
    assert_eq!(shown.status, 200);
    shown.has(&["stop: 500 workers", "<b>500</b> × will stop"]);
    let sent = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let answer = page.post("/workers/command", Some(TOKEN), &format!("command=stop&ids={sent}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(made.commands.lock().unwrap()[0].0.len(), 500);
}

#[tokio::test]
async fn forms_are_validated_and_do_not_overwrite_edits() {
    let made = Made::new(fleet(3, 100));
    let page = Page::of(&made).await;
    let worker = made.fleet.lock().unwrap().workers[0].entry.clone();
    let form = page.get(&format!("/workers/{}/edit", worker.id)).await;
    form.has(&["value=\"20000\"", "Remove rack-", "It is computing"]);
    let version = form.body.split("name=\"version\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let body = |pid: &str, stake: &str, version: &str| {
        format!(
            "id={}&version={version}&name=a&pid={pid}&endpoint=http://a&stake={stake}&enabled=1",
            worker.id
        )
    };
    for (body, text) in [
        (body("x", "1", version), "pool's number"),
        (body("1", "1,000", version), "amount in PHA"),
        (body("1", "1", "stale"), "somebody else has changed it"),
    ] {
        let answer = page.post("/workers/save", Some(TOKEN), &body).await;
        assert!(answer.status == 400 || answer.status == 409, "{}", answer.status);
        assert!(answer.body.to_lowercase().contains(&text.to_lowercase()), "{}", answer.body);
    }
    assert!(made.edits.lock().unwrap().is_empty());
    assert_eq!(page.post("/workers/save", None, &body("1", "1", version)).await.status, 401);
    let answer = page.post("/workers/save", Some(TOKEN), &body("1", "1500.25", version)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    match made.edits.lock().unwrap().remove(0) {
        Edit::PutWorker(Some(id), value) => {
            assert_eq!((id, &*value.stake), (worker.id, "1500250000000000"));
            assert!(value.enabled && !value.sync_only && value.gatekeeper == Some(false));
        }
        other => panic!("{other:?}"),
    }
    // A secret is accepted but never shown; a blank one means none.
    let pool = "pid=99&name=new&proxied=&enabled=1&after_stop=reclaim&secret=";
    let answer = page.post("/pools/save", Some(TOKEN), &format!("{pool}bottom+drive+obey")).await;
    answer.has(&["Pool new is saved."]).lacks(&["bottom"]);
    match made.edits.lock().unwrap().remove(0) {
        Edit::PutPool(None, value) => assert_eq!(value.secret.unwrap().expose_secret(), "bottom drive obey"),
        other => panic!("{other:?}"),
    }
    assert_eq!(page.post("/pools/save", Some(TOKEN), &pool.replace("99", "7")).await.status, 409);
    // It computes: whoever removes it has to say that this is known.
    let body = format!("id={}&version={version}", worker.id);
    let refused = page.post("/workers/remove", Some(TOKEN), &body).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    refused.has(&["is computing", "Stop it first, reclaim its stake"]);
    assert!(made.edits.lock().unwrap().is_empty());
    let answer = page.post("/workers/remove", Some(TOKEN), &format!("{body}&while_computing=1")).await;
    assert_eq!(answer.status, 200);
    assert!(matches!(made.edits.lock().unwrap()[..], [Edit::RemoveWorker(id)] if id == worker.id));
}

#[tokio::test]
async fn stream_has_only_changes() {
    let made = Made::new(fleet(100, 1000));
    let page = Page::of(&made).await;
    let mut stream = page.stream("/live/workers?size=50").await;
    let first = stream.next().await;
    assert_eq!(first["parts"].as_array().unwrap().len(), 3, "everything once");
    let id = made.fleet.lock().unwrap().workers[7].entry.id;
    made.change(|fleet| fleet.workers[7].message = "Something new".into());
    let next = stream.next().await;
    let rows = next["rows"].as_array().unwrap();
    assert!(next["parts"].as_array().unwrap().is_empty() && rows.len() == 1, "{next}");
    assert_eq!(rows[0][0], format!("w-{id}"));
    assert!(rows[0][1].as_str().unwrap().contains("Something new"));
    // A change of a worker that is not on the page sends nothing.
    made.change(|fleet| {
        fleet.workers[80].message = "Elsewhere".into();
        fleet.workers.remove(0);
    });
    let next = stream.next().await;
    assert_eq!(next["parts"][0][0], "list", "another order: the list as a whole");
    // On an error, shown content stays, with a notice.
    *made.trouble.lock().unwrap() = Some(Error::new(StatusCode::BAD_GATEWAY, "the peer cannot be reached"));
    let next = stream.next().await;
    assert_eq!((next["parts"].as_array().unwrap().len(), &next["parts"][0][0]), (1, &"notice".into()));
}

#[tokio::test]
async fn streams_of_one_address_leave_others_theirs() {
    let page = Page::of(&Made::new(fleet(1, 1000))).await;
    let mut held = Vec::new();
    for from in [2, 3] {
        for _ in 0..MAX_STREAMS / 4 {
            let mut stream = page.stream_from(from, "/live/workers").await;
            assert_eq!(stream.status().await, 200);
            held.push(stream);
        }
        assert_eq!(page.stream_from(from, "/live/workers").await.status().await, 503, "127.0.0.{from}");
    }
    // Its pages are served nevertheless, and a stream that ends makes room.
    page.get("/workers").await.has(&["data-stream"]);
    held.clear();
    let start = Instant::now();
    while page.stream_from(2, "/live/workers").await.status().await != 200 {
        assert!(start.elapsed() < LONG, "streams are not given back");
    }
}

/// A body in chunks does not say how long it is.
#[tokio::test]
async fn size_of_chunked_bodies_is_limited() {
    let page = Page::of(&Made::new(fleet(1, 1000))).await;
    let post = async |bytes: usize| {
        let head = format!(
            "POST /workers/command HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Transfer-Encoding: chunked\r\n",
            page.address
        );
        let chunk = format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes));
        page.send(&head, &chunk).await.status
    };
    assert_eq!(post(1000).await, 400, "it names no command");
    assert_eq!(post(512 * 1024 + 1).await, 413);
}

#[tokio::test]
async fn recent_measurements_are_drawn() {
    let made = Made::new(fleet(100, 10));
    let queue = prb_core::queue::memory::MemoryQueue::default();
    let page = Page::with_queue(&made, &queue).await;
    page.get("/").await.has(&["Nothing has been measured yet"]).lacks(&["<figure"]);
    page.console.take_sample(std::time::SystemTime::now()).await;
    let drawn = page.get("/").await;
    assert_eq!(drawn.count("<figure"), 4, "no rate from one sample");
    drawn.has(&[
        "aria-labelledby=\"chart-lag-title chart-lag-desc\"",
        "<title id=\"chart-lag-title\">Lag</title>",
        "From an hour ago to now: from 1 to 100,000 blocks. Now largest 100,000. Now median 1.",
        "<h2>Recent values</h2>",
        "Lowest operator balance",
        "chart-jobs",
        "href=\"/?span=day\"",
    ]);
    drawn.lacks(&["style=", "onload"]);
    page.get("/?span=day").await.has(&["From a day ago to now"]);
    // The charts are a separate part: a sample changes only that part.
    let mut stream = page.stream("/live/").await;
    stream.next().await;
    made.change(|fleet| fleet.workers.iter_mut().for_each(|worker| worker.lag = Some(7)));
    page.console.take_sample(std::time::SystemTime::now()).await;
    let mut changed = Vec::new();
    while !changed.contains(&"charts".to_owned()) {
        let next = stream.next().await;
        changed.extend(
            next["parts"].as_array().unwrap().iter().map(|part| part[0].as_str().unwrap().to_owned()),
        );
    }
    page.get("/").await.has(&["Now median 7."]);
    // A failed measurement is a gap, and does not end the chart.
    *made.trouble.lock().unwrap() = Some(Error::new(StatusCode::BAD_GATEWAY, "away"));
    page.console.take_sample(std::time::SystemTime::now()).await;
    *made.trouble.lock().unwrap() = None;
    page.get("/").await.has(&["Now median 7."]);
}

#[tokio::test]
async fn errors_are_shown_with_their_reason() {
    let made = Made::new(fleet(3, 100));
    let page = Page::of(&made).await;
    for path in [
        "/workers/nobody",
        "/workers/00000000-0000-0000-0000-000000000000",
        "/nothing",
        "/peers",
        "/pools/x/edit",
    ] {
        assert_eq!(page.get(path).await.status, 404, "{path}");
    }
    *made.trouble.lock().unwrap() =
        Some(Error::new(StatusCode::GATEWAY_TIMEOUT, "the peer has not answered"));
    let answer = page.get("/workers").await;
    assert_eq!(answer.status, 504);
    answer.has(&["The peer has not answered.", "data-live=\"/live/workers\"", "data-reload"]);
    let foreign = page.send("GET / HTTP/1.1\r\nHost: evil.example\r\n", "").await;
    assert_eq!(foreign.status, 421);
}

#[tokio::test]
async fn fleet_of_a_file_accepts_commands_but_no_edits() {
    let mut made = Made::new(fleet(3, 100));
    Arc::get_mut(&mut made).unwrap().read_only = Some("Pools and workers are edited in a file".into());
    let page = Page::of(&made).await;
    page.get("/pools").await.has(&["edited in a file"]).lacks(&["/pools/new"]);
    page.get("/workers").await.has(&["bulk-command"]).lacks(&["/workers/new"]);
    assert_eq!(page.get("/workers/new").await.status, 409);
    assert_eq!(page.post("/pools/save", Some(TOKEN), "pid=1&name=x").await.status, 409);
    let _: &Worker = &made.fleet.lock().unwrap().workers[0].entry;
}
