//! A WebSocket proxy in front of a node that corrupts some of its messages in ways that no named fault covers.

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::{Duration, timeout},
};

/// How long a message is held back for a later one to overtake it.
const HELD: Duration = Duration::from_millis(30);
/// Largest handshake or frame, in bytes.
const MOST: usize = 64 << 20;
/// A notification of an unknown subscription.
const UNASKED: &str =
    r#"{"jsonrpc":"2.0","method":"chain_newHead","params":{"subscription":"x","result":[]}}"#;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
/// The bit of a compressed message, and that of a message's last frame.
const COMPRESSED: u8 = 0x40;
const LAST: u8 = 0x80;

/// A corruption of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Corruption {
    /// Half of its text is missing.
    CutShort,
    /// It is delayed, and later ones with it.
    Late,
    /// It comes after the next one.
    OutOfOrder,
    /// It comes twice.
    Twice,
    /// It answers a request that was not made.
    OtherId,
    /// The connection ends in the middle of it.
    BrokenOff,
    /// It is a binary one.
    Binary,
    /// Its header announces a terabyte.
    Huge,
    /// It consists of random bytes.
    Noise,
    /// It is sent in fragments, with pings between them.
    Fragments,
    /// It is masked, as only a client's may be.
    Masked,
    /// The connection is closed in its place.
    Closed,
    /// A notification of an unknown subscription precedes it.
    Unasked,
    /// The answer is a list in a list, and so on, ten thousand deep.
    Nested,
    /// The answer is of another type.
    OtherType,
    /// A digit of the answer is another one.
    OtherDigit,
    /// Pings come in its place.
    OnlyPings,
    /// It is marked as compressed, which was not negotiated.
    Compressed,
    /// Its bytes come one by one, and those after it wait.
    Dripping,
    /// The node stops sending, and still reads.
    HalfClosed,
    /// It has the same content in a form that is not JSON-RPC's or the method's, or that no node uses.
    OtherForm,
    /// A thousand notifications and pings precede it.
    Flood,
}

impl Corruption {
    pub(crate) const ALL: [Self; 22] = [
        Self::CutShort,
        Self::Late,
        Self::OutOfOrder,
        Self::Twice,
        Self::OtherId,
        Self::BrokenOff,
        Self::Binary,
        Self::Huge,
        Self::Noise,
        Self::Fragments,
        Self::Masked,
        Self::Closed,
        Self::Unasked,
        Self::Nested,
        Self::OtherType,
        Self::OtherDigit,
        Self::OnlyPings,
        Self::Compressed,
        Self::Dripping,
        Self::HalfClosed,
        Self::OtherForm,
        Self::Flood,
    ];
}

/// The proxy, until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    url: String,
    _task: JoinSet<()>,
}

impl Proxy {
    /// In front of the node at `url`; about one message of `one_in` is corrupted.
    pub(crate) async fn start(url: &str, corrupt: Corruption, one_in: u32, seed: u64) -> Self {
        let node = url.trim_start_matches("ws://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut connections, mut seeds) = (JoinSet::new(), StdRng::seed_from_u64(seed));
            while let Ok((client, _)) = listener.accept().await {
                let (node, random) = (node.clone(), StdRng::seed_from_u64(seeds.random()));
                connections.spawn(async move {
                    let Ok(node) = TcpStream::connect(node).await else { return };
                    // Either end may go away at any time.
                    let _ = serve(client, node, corrupt, one_in, random).await;
                });
            }
        });
        Self { url, _task: task }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }
}

async fn serve(
    client: TcpStream,
    node: TcpStream,
    corrupt: Corruption,
    one_in: u32,
    random: StdRng,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let ((from_client, to_client), (from_node, mut to_node)) = (client.into_split(), node.into_split());
    let (mut from_client, mut from_node) = (BufReader::new(from_client), BufReader::new(from_node));
    let mut to_client = ToClient { out: to_client, corrupt, one_in, random, held: None, is_first: true };
    to_node.write_all(&head(&mut from_client).await?).await?;
    to_client.out.write_all(&head(&mut from_node).await?).await?;
    tokio::select! {
        copied = tokio::io::copy_buf(&mut from_client, &mut to_node) => copied.map(drop),
        passed = pass_on(from_node, &mut to_client) => passed,
    }
}

/// Reads the handshake.
async fn head(from: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MOST {
        head.push(from.read_u8().await?);
    }
    Ok(head)
}

/// Passes the node's messages on.
async fn pass_on(mut node: BufReader<OwnedReadHalf>, client: &mut ToClient) -> std::io::Result<()> {
    let mut next = std::pin::pin!(frame(&mut node));
    loop {
        let wait = if client.held.is_some() { HELD } else { Duration::MAX };
        // A message that is half read is read on after the wait.
        let Ok(read) = timeout(wait, &mut next).await else {
            client.release().await?;
            continue;
        };
        let (node, (first, payload)) = read?;
        let is_corrupted = first & 0x0f == TEXT && client.random.random_ratio(1, client.one_in);
        if is_corrupted {
            client.corrupt(payload).await?;
        } else {
            client.send(first, &payload).await?;
            client.release().await?;
        }
        client.is_first = false;
        next.set(frame(node));
    }
}

type Frame = (u8, Vec<u8>);

/// The node's next frame, its first byte before it.
async fn frame(
    from: &mut BufReader<OwnedReadHalf>,
) -> std::io::Result<(&mut BufReader<OwnedReadHalf>, Frame)> {
    let first = from.read_u8().await?;
    let bytes = match from.read_u8().await? {
        126 => usize::from(from.read_u16().await?),
        127 => from.read_u64().await? as usize,
        bytes => usize::from(bytes),
    };
    assert!(bytes <= MOST, "the devnet sends no such frames");
    let mut payload = vec![0; bytes];
    from.read_exact(&mut payload).await?;
    Ok((from, (first, payload)))
}

struct ToClient {
    out: OwnedWriteHalf,
    corrupt: Corruption,
    one_in: u32,
    random: StdRng,
    held: Option<Vec<u8>>,
    /// Nothing was sent on this connection.
    is_first: bool,
}

fn is_of_changes(payload: &[u8]) -> bool {
    payload.windows(7).any(|part| part == b"Changes")
}

/// A frame's header.
fn header(first: u8, bytes: u64) -> Vec<u8> {
    let mut header = vec![first];
    match bytes {
        0..126 => header.push(bytes as u8),
        126..=0xffff => {
            header.push(126);
            header.extend((bytes as u16).to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend(bytes.to_be_bytes());
        }
    }
    header
}

/// Returns the message with another answer in it; `None` if it is no answer.
fn answered(payload: &[u8], answer: &str) -> Option<Vec<u8>> {
    let message: serde_json::Value = serde_json::from_slice(payload).ok()?;
    message.get("result")?;
    let id = message.get("id")?;
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{answer}}}"#).into_bytes())
}

/// The message in another form.
fn in_other_form(payload: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    const FORMS: [&str; 9] = [
        "text id",
        "fraction id",
        "no version",
        "in a list",
        "null error beside",
        "error beside",
        "upper case",
        "no prefix",
        "odd digits",
    ];
    let Ok(text) = String::from_utf8(payload) else { unreachable!("the devnet sends text") };
    let Ok(message) = serde_json::from_str::<serde_json::Value>(&text) else { return text.into_bytes() };
    let id = message["id"].to_string();
    let end = text.trim_end().len() - 1;
    let beside = |field: &str| format!("{},{field}}}", &text[..end]);
    match FORMS[random.random_range(0..FORMS.len())] {
        "text id" => text.replacen(&format!(r#""id":{id}"#), &format!(r#""id":"{id}""#), 1),
        "fraction id" => text.replacen(&format!(r#""id":{id}"#), &format!(r#""id":{id}.0"#), 1),
        "no version" => text.replacen(r#""jsonrpc":"2.0","#, "", 1),
        "in a list" => format!("[{text}]"),
        "null error beside" => beside(r#""error":null"#),
        "error beside" => beside(r#""error":{"code":-32000,"message":"and an error"}"#),
        "upper case" => {
            let mut text = text;
            // The digits of the first value, not its prefix.
            if let Some(at) = text.find(r#""0x"#) {
                let end = text[at + 3..].find('"').map_or(text.len(), |end| at + 3 + end);
                text[at + 3..end].make_ascii_uppercase();
            }
            text
        }
        "no prefix" => text.replacen(r#""0x"#, "\"", 1),
        _ => text.replacen(r#""0x"#, r#""0x0"#, 1),
    }
    .into_bytes()
}

impl ToClient {
    async fn send(&mut self, first: u8, payload: &[u8]) -> std::io::Result<()> {
        self.out.write_all(&header(first, payload.len() as u64)).await?;
        self.out.write_all(payload).await
    }

    async fn text(&mut self, payload: &[u8]) -> std::io::Result<()> {
        self.send(LAST | TEXT, payload).await
    }

    /// Sends the message that was held back.
    async fn release(&mut self) -> std::io::Result<()> {
        match self.held.take() {
            Some(held) => self.text(&held).await,
            None => Ok(()),
        }
    }

    async fn corrupt(&mut self, payload: Vec<u8>) -> std::io::Result<()> {
        match self.corrupt {
            Corruption::CutShort => self.text(&payload[..payload.len() / 2]).await,
            Corruption::Late => {
                tokio::time::sleep(Duration::from_millis(self.random.random_range(1..100))).await;
                self.text(&payload).await
            }
            Corruption::OutOfOrder => {
                self.release().await?;
                self.held = Some(payload);
                Ok(())
            }
            Corruption::Twice => {
                self.text(&payload).await?;
                self.text(&payload).await
            }
            Corruption::OtherId => {
                let text = String::from_utf8_lossy(&payload).replacen(r#""id":"#, r#""id":9"#, 1);
                self.text(text.as_bytes()).await
            }
            Corruption::Binary => self.send(LAST | BINARY, &payload).await,
            Corruption::Noise => {
                let mut noise = payload;
                self.random.fill(&mut noise[..]);
                self.text(&noise).await
            }
            Corruption::Fragments => self.fragments(&payload).await,
            Corruption::Nested | Corruption::OtherType | Corruption::OtherDigit | Corruption::OtherForm => {
                let payload = self.with_other_content(payload);
                self.text(&payload).await
            }
            Corruption::Compressed => {
                let mut noise = payload;
                self.random.fill(&mut noise[..]);
                self.send(LAST | COMPRESSED | TEXT, &noise).await
            }
            Corruption::BrokenOff | Corruption::Huge | Corruption::Masked | Corruption::Closed => {
                self.end(&payload).await
            }
            Corruption::Unasked
            | Corruption::OnlyPings
            | Corruption::Dripping
            | Corruption::Flood
            | Corruption::HalfClosed => self.with_other_pace(&payload).await,
        }
    }

    /// Sends the message whole, but slowly, among others, or never.
    async fn with_other_pace(&mut self, payload: &[u8]) -> std::io::Result<()> {
        match self.corrupt {
            Corruption::OnlyPings => {
                for _ in 0..8 {
                    self.send(LAST | PING, b"").await?;
                    tokio::time::sleep(HELD / 8).await;
                }
                Ok(())
            }
            Corruption::Dripping => {
                self.out.write_all(&header(LAST | TEXT, payload.len() as u64)).await?;
                let (slow, rest) = payload.split_at(payload.len().min(200));
                for byte in slow {
                    self.out.write_all(&[*byte]).await?;
                    tokio::time::sleep(HELD / 10).await;
                }
                self.out.write_all(rest).await
            }
            Corruption::Flood => {
                for _ in 0..1_000 {
                    self.text(UNASKED.as_bytes()).await?;
                    self.send(LAST | PING, b"flood").await?;
                }
                self.text(payload).await
            }
            Corruption::HalfClosed => {
                self.out.shutdown().await?;
                // The client ends it.
                std::future::pending().await
            }
            _ => {
                self.text(UNASKED.as_bytes()).await?;
                self.text(payload).await
            }
        }
    }

    fn with_other_content(&mut self, mut payload: Vec<u8>) -> Vec<u8> {
        match self.corrupt {
            Corruption::Nested => {
                let lists = "[".repeat(10_000) + &"]".repeat(10_000);
                answered(&payload, &lists).unwrap_or(payload)
            }
            Corruption::OtherType => {
                const ANSWERS: [&str; 8] = ["null", "true", "[]", "{}", r#""0x""#, "-1", "1e308", "[[null]]"];
                let answer = ANSWERS[self.random.random_range(0..ANSWERS.len())];
                answered(&payload, answer).unwrap_or(payload)
            }
            // Storage changes cannot be verified, and the first answer identifies the chain.
            Corruption::OtherDigit if self.is_first || is_of_changes(&payload) => payload,
            Corruption::OtherDigit => {
                let digits: Vec<usize> =
                    (0..payload.len()).filter(|at| payload[*at].is_ascii_digit()).collect();
                if let Some(at) = digits.get(self.random.random_range(0..digits.len().max(1))) {
                    payload[*at] = b'0' + (payload[*at] - b'0' + self.random.random_range(1..10)) % 10;
                }
                payload
            }
            _ => in_other_form(payload, &mut self.random),
        }
    }

    async fn fragments(&mut self, payload: &[u8]) -> std::io::Result<()> {
        let third = payload.len() / 3;
        self.send(TEXT, &payload[..third]).await?;
        self.send(LAST | PING, b"ping").await?;
        self.send(0, &payload[third..2 * third]).await?;
        self.send(LAST | PING, b"").await?;
        self.send(LAST, &payload[2 * third..]).await
    }

    /// Sends something that ends the connection.
    async fn end(&mut self, payload: &[u8]) -> std::io::Result<()> {
        match self.corrupt {
            Corruption::Huge => {
                self.out.write_all(&header(LAST | TEXT, 1 << 40)).await?;
                self.out.write_all(payload).await?;
                // The client ends it.
                std::future::pending().await
            }
            Corruption::Masked => {
                let mut header = header(LAST | TEXT, payload.len() as u64);
                header[1] |= 0x80;
                header.extend([0; 4]);
                self.out.write_all(&header).await?;
                return self.out.write_all(payload).await;
            }
            Corruption::Closed => self.send(LAST | CLOSE, &1001u16.to_be_bytes()).await?,
            _ => {
                self.out.write_all(&header(LAST | TEXT, payload.len() as u64)).await?;
                self.out.write_all(&payload[..payload.len() / 2]).await?;
            }
        }
        Err(std::io::ErrorKind::ConnectionAborted.into())
    }
}
