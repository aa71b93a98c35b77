//! Malformed and oversized requests and answers.

use super::*;

/// Returns the answer to a bare peer's request.
async fn answer_to(raw: &RawPeer, node: &Node, bytes: Vec<u8>) -> Response {
    Response::decode(raw.ask(node.peer_id(), bytes).await.unwrap().as_slice()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused() {
    let mut server = config(0, Role::LifecycleManager);
    server.handlers = all_handlers();
    let server = start(server).await;
    let raw = RawPeer::start(1, Some(address(&server)), Box::new(|_| None)).await;
    let error = |answer: &Response| {
        assert!(
            answer.has_error && answer.data.is_empty() && !answer.nonce.is_empty() && answer.created_at > 0
        );
        let error = answer.error.clone().unwrap();
        (error.r#type(), error.message)
    };
    let request = |method: &str, data: &'static [u8]| {
        let (nonce, data, method) = ("n1".to_owned(), Bytes::from_static(data), method.to_owned());
        Request { created_at: 1, nonce, data, method }.encode_to_vec()
    };

    let garbage = answer_to(&raw, &server, vec![0xff; 40]).await;
    assert_eq!((error(&garbage).0, garbage.request_nonce.as_str()), (ErrorType::Server, ""));
    let empty = answer_to(&raw, &server, Vec::new()).await;
    assert_eq!((error(&empty).0, empty.request_nonce.as_str()), (ErrorType::Server, ""));
    let unknown = answer_to(&raw, &server, request("NoSuchMethod", b"")).await;
    let (kind, message) = error(&unknown);
    assert_eq!((kind, unknown.request_nonce.as_str()), (ErrorType::Server, "n1"));
    assert!(message.contains("NoSuchMethod"), "{message}");
    let bad_data = answer_to(&raw, &server, request("WantBlob", &[0xff])).await;
    assert_eq!((error(&bad_data).0, bad_data.request_nonce.as_str()), (ErrorType::Server, "n1"));
    // The original's own text, byte for byte.
    let bare = start_without_handlers(&raw, 2).await;
    let missing = answer_to(&raw, &bare, request("ListPool", b"")).await;
    assert_eq!(error(&missing), (ErrorType::NotFound, "Handler not implemented.".to_owned()));
    let fine = answer_to(&raw, &server, request("GetDataProviderInfo", b"")).await;
    assert_eq!((fine.has_error, fine.error.is_none(), fine.request_nonce.as_str()), (false, true, "n1"));
    // What is too long to be a nonce is not repeated, nor is the whole name of a method.
    let long = |nonce: usize, method: &str| {
        Request { nonce: "n".repeat(nonce), method: method.into(), ..Request::default() }.encode_to_vec()
    };
    for (length, repeated) in [(256, 256), (257, 0), (1_000_000, 0)] {
        let answer = answer_to(&raw, &server, long(length, "GetDataProviderInfo")).await;
        assert_eq!((answer.has_error, answer.request_nonce.len()), (false, repeated));
    }
    let (_, message) = error(&answer_to(&raw, &server, long(1, &"x".repeat(1_000_000))).await);
    assert!(message.starts_with("unknown method") && message.len() < 200, "{message}");
    // JavaScript writes zeros: an empty error message, explicit defaults.
    let explicit = [request("GetDataProviderInfo", b""), vec![0x1a, 0x00]].concat();
    assert!(!answer_to(&raw, &server, explicit).await.has_error);
    assert_eq!(*raw.closed.lock().unwrap(), 0);
}

/// A node with the built-in handlers only, connected with a bare peer.
async fn start_without_handlers(raw: &RawPeer, n: usize) -> Node {
    let mut config = config(n, Role::Client);
    config.boot_nodes = vec![raw.address.clone()];
    let node = start(config).await;
    // The bare peer never answers Hello, so an unrelated call is used to see that it is connected.
    let hello = SystemInfo::default().encode_to_vec().into();
    let request = Request { method: "Hello".into(), data: hello, ..Request::default() }.encode_to_vec();
    tokio::time::timeout(LONG, async {
        while raw.ask(node.peer_id(), request.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_requests_are_refused_and_the_connection_survives() {
    let mut server = config(0, Role::LifecycleManager);
    server.limits.request_bytes = 100_000;
    server.handlers = all_handlers();
    let server = start(server).await;
    let raw = RawPeer::start(1, Some(address(&server)), Box::new(|_| None)).await;
    let request = |size: usize| {
        let data = dp::GetBlob { token: "x".repeat(size) }.encode_to_vec().into();
        Request { nonce: "n".into(), method: "GetBlobWithToken".into(), data, ..Request::default() }
            .encode_to_vec()
    };
    let fits = answer_to(&raw, &server, request(99_000)).await;
    assert_eq!(dp::Blob::decode(fits.data).unwrap().data.len(), 99_000);
    let error = answer_to(&raw, &server, request(100_001)).await.error.unwrap();
    assert_eq!(error.message, "the request has more than 100000 bytes");
    // An endless request is cut off; its answer may be lost with the rest of the stream.
    if let Ok(answer) = raw.ask(server.peer_id(), request(5 << 20)).await {
        assert!(answer.is_empty() || Response::decode(answer.as_slice()).unwrap().has_error);
    }
    assert!(!answer_to(&raw, &server, request(10)).await.has_error);
    assert_eq!(*raw.closed.lock().unwrap(), 0);

    // Our own callers do not send it at all.
    let mut caller = config(2, Role::Trader);
    caller.limits.request_bytes = 100_000;
    let caller = start_knowing(caller, &server).await;
    let client = caller.client(server.peer_id());
    let error = client.blob_with_token(dp::GetBlob { token: "x".repeat(100_000) }).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "request", limit_bytes: 100_000 }), "{error}");
    assert_eq!(client.blob_with_token(dp::GetBlob { token: "x".into() }).await.unwrap().data, "x");
}

/// A bare peer that introduces itself and answers other calls as `answer` says.
async fn peer_that_answers(
    n: usize,
    mut answer: impl FnMut(Request) -> Option<Vec<u8>> + Send + 'static,
) -> RawPeer {
    RawPeer::start(
        n,
        None,
        Box::new(move |bytes| {
            let request = Request::decode(bytes.as_slice()).unwrap();
            if request.method != "Hello" {
                return answer(request);
            }
            let data = SystemInfo {
                role: Role::DataProviderInt.into(),
                chain_identity: rig::CHAIN.to_string(),
                bridge_identity: "default".into(),
                // Longer than any name, with control characters that would corrupt a log.
                hostname: "\u{1b}[31m".to_owned() + &"h".repeat(1000),
                ..SystemInfo::default()
            };
            let (request_nonce, data) = (request.nonce, data.encode_to_vec().into());
            Some(Response { request_nonce, data, ..Response::default() }.encode_to_vec())
        }),
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_answers_are_errors() {
    type Answer = fn(Request) -> Option<Vec<u8>>;
    let answers: [(&str, Answer); 8] = [
        ("empty", |_| Some(Vec::new())),
        ("garbage", |_| Some(vec![0xff; 10])),
        ("another call's", |_| {
            Some(Response { request_nonce: "other".into(), ..Response::default() }.encode_to_vec())
        }),
        ("garbage data", |r| {
            let data = vec![0xff].into();
            Some(Response { request_nonce: r.nonce, data, ..Response::default() }.encode_to_vec())
        }),
        ("an error without content", |r| {
            let (request_nonce, has_error) = (r.nonce, true);
            Some(Response { request_nonce, has_error, ..Response::default() }.encode_to_vec())
        }),
        ("an error without flag and nonce", |_| {
            let error =
                proto::ResponseError { r#type: 3, message: "m".into(), is_let_in_from_same_machine: None };
            Some(Response { error: Some(error), ..Response::default() }.encode_to_vec())
        }),
        // More than this method's answer ever has.
        ("too large", |_| Some(vec![0; 100_000])),
        ("none", |_| None),
    ];
    let chosen = Arc::new(Mutex::new(answers[0].1));
    let answer = Arc::clone(&chosen);
    let raw = peer_that_answers(0, move |request| {
        let answer = *answer.lock().unwrap();
        answer(request)
    })
    .await;
    let mut config = config(1, Role::LifecycleManager);
    config.boot_nodes = vec![raw.address.clone()];
    config.limits.call_timeout = Duration::from_secs(2);
    let node = start(config).await;
    let seen = until_peer(&node, raw.peer_id, "introduced", |p| p.is_usable()).await;
    assert!(seen.hostname.len() <= 128 && !seen.hostname.contains('\u{1b}'), "{}", seen.hostname);
    let client = node.client(raw.peer_id);
    for (name, answer) in answers {
        *chosen.lock().unwrap() = answer;
        let error = client.data_provider_info().await.unwrap_err();
        let is_as_expected = match name {
            "empty" => matches!(error, Error::Unreachable { .. }),
            "garbage" | "another call's" | "garbage data" => {
                matches!(error, Error::Malformed { .. }) && !error.is_retryable()
            }
            "an error without content" => error.kind() == Some(ErrorKind::Unknown),
            "an error without flag and nonce" => error.kind() == Some(ErrorKind::Duplicated),
            "too large" => matches!(error, Error::TooLarge { what: "answer", limit_bytes: 65_536 }),
            _ => matches!(error, Error::TimedOut { .. }) && error.is_retryable(),
        };
        assert!(is_as_expected, "{name}: {error}");
    }
    assert_eq!(*raw.closed.lock().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_are_accepted_up_to_the_limit() {
    let size = Arc::new(Mutex::new(0));
    let wanted = Arc::clone(&size);
    let big = peer_that_answers(0, move |request| {
        let data = lm::PoolList {
            pools: vec![db::Pool { name: "x".repeat(*wanted.lock().unwrap()), ..db::Pool::default() }],
        };
        let data = data.encode_to_vec().into();
        Some(Response { request_nonce: request.nonce, data, ..Response::default() }.encode_to_vec())
    })
    .await;
    let mut config = config(1, Role::LifecycleManager);
    config.boot_nodes = vec![big.address.clone()];
    config.limits.answer_bytes = 8 << 20;
    let node = start(config).await;
    until_peer(&node, big.peer_id, "introduced", |p| p.is_usable()).await;
    let client = node.client(big.peer_id);
    *size.lock().unwrap() = 7 << 20;
    assert_eq!(client.list_pools().await.unwrap().pools[0].name.len(), 7 << 20);
    *size.lock().unwrap() = 9 << 20;
    let error = client.list_pools().await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "answer", .. }), "{error}");
    *size.lock().unwrap() = 1;
    assert_eq!(client.list_pools().await.unwrap().pools.len(), 1);
    assert_eq!(*big.closed.lock().unwrap(), 0);
}
