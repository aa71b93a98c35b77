//! Tampering proxies: one that understands the blob protocol, one that does not.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use codec::{Decode, Encode};
use prb_core::{prpc::CombinedHeadersToSync, wire::HeaderToSync};
use prb_walkie::blob::answer::HEADERS_HEAD_BYTES;
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Number of bytes before an answer's payload: the id and the checksum.
const HEAD: usize = 16;

/// The manipulation of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tampering {
    None,
    /// Flips a bit.
    Flip,
    /// Changes data and fixes the checksum.
    Forge,
    /// The last relay header of a batch has another state root; all that can be seen without the authorities fits.
    ForgeHeaders,
    /// It ends in the middle.
    Truncate,
    /// Delays it.
    Delay(Duration),
    /// Returns the answer to another key.
    OtherKey,
    /// Claims a length of 4 GiB and sends bytes as long as they are accepted.
    Huge,
}

/// A port that forwards to another one through a tampering proxy.
pub(crate) struct Middle {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    tampering: Mutex<Tampering>,
    done: AtomicU64,
}

impl Shared {
    fn now(&self) -> Tampering {
        *self.tampering.lock().unwrap()
    }

    fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Middle {
    /// Creates one before a blob server: answers about headers and blocks are manipulated, others are not.
    pub(crate) async fn of_blobs(to: SocketAddr, tampering: Tampering) -> Self {
        Self::start(to, tampering, blobs).await
    }

    /// Creates one before any port.
    pub(crate) async fn of_bytes(to: SocketAddr, tampering: Tampering) -> Self {
        Self::start(to, tampering, bytes).await
    }

    async fn start<F>(
        to: SocketAddr,
        tampering: Tampering,
        pass: fn(TcpStream, TcpStream, Arc<Shared>) -> F,
    ) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { tampering: Mutex::new(tampering), done: AtomicU64::new(0) });
        let own = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((peer, _)) = listener.accept().await {
                let shared = Arc::clone(&own);
                connections.spawn(async move {
                    // Either side may close.
                    if let Ok(server) = TcpStream::connect(to).await {
                        let _ = pass(peer, server, shared).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, shared, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn set(&self, tampering: Tampering) {
        *self.shared.tampering.lock().unwrap() = tampering;
    }

    /// Returns the number of manipulations.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }
}

async fn bytes(peer: TcpStream, server: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let (mut peer_in, mut peer_out) = peer.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let up = async { tokio::io::copy(&mut peer_in, &mut server_out).await.map(drop) };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = server_in.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            let bytes = &mut buffer[..read];
            let now = shared.now();
            if now != Tampering::None {
                shared.count();
            }
            match now {
                Tampering::None => {}
                Tampering::Flip | Tampering::Forge | Tampering::ForgeHeaders | Tampering::OtherKey => {
                    bytes[read - 1] ^= 1
                }
                Tampering::Truncate => return peer_out.write_all(&bytes[..read / 2]).await,
                Tampering::Delay(time) => tokio::time::sleep(time).await,
                Tampering::Huge => return flood(&mut peer_out).await,
            }
            peer_out.write_all(bytes).await?;
        }
    };
    tokio::select! { done = up => done, done = down => done }
}

/// A length of 4 GiB less one byte, and a plausible start of the data.
async fn flood(out: &mut OwnedWriteHalf) -> io::Result<()> {
    const AT_MOST: usize = 256 << 20;
    out.write_all(&[0xff, 0xff, 0xff, 0xff, 0x0f]).await?;
    let block = vec![0xff; 1 << 20];
    for _ in 0..AT_MOST / block.len() {
        out.write_all(&block).await?;
    }
    Ok(())
}

/// Keys by request id, of one connection.
type Asked = Mutex<HashMap<[u8; 8], String>>;

async fn blobs(peer: TcpStream, server: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let (peer_in, mut peer_out) = peer.into_split();
    let (server_in, mut server_out) = server.into_split();
    let asked = Asked::default();
    let up = async {
        let mut requests = BufReader::new(peer_in);
        loop {
            let frame = read_frame(&mut requests).await?;
            if let Some((id, key)) = frame.split_first_chunk() {
                asked.lock().unwrap().insert(*id, String::from_utf8_lossy(key).into_owned());
            }
            write_frame(&mut server_out, &frame).await?;
        }
    };
    let down = async {
        let mut answers = BufReader::new(server_in);
        let mut before = HashMap::new();
        loop {
            let frame = read_frame(&mut answers).await?;
            let key = frame.first_chunk().and_then(|id| asked.lock().unwrap().remove(id)).unwrap_or_default();
            let kind = key.split(':').next().unwrap_or_default();
            let now = if frame.len() > HEAD { shared.now() } else { Tampering::None };
            match (kind, now) {
                ("headers", Tampering::Forge) | ("blocks", Tampering::ForgeHeaders) => {
                    write_frame(&mut peer_out, &frame).await?
                }
                ("headers" | "blocks", now) => {
                    let last = before.insert(kind.to_owned(), frame.clone());
                    if now != Tampering::None && (now != Tampering::OtherKey || last.is_some()) {
                        shared.count();
                    }
                    spoil(&mut peer_out, frame, now, &key, last).await?;
                }
                _ => write_frame(&mut peer_out, &frame).await?,
            }
        }
    };
    tokio::select! { done = up => done, done = down => done }
}

async fn spoil(
    out: &mut OwnedWriteHalf,
    mut frame: Vec<u8>,
    tampering: Tampering,
    key: &str,
    before: Option<Vec<u8>>,
) -> io::Result<()> {
    match tampering {
        Tampering::None => {}
        Tampering::Flip => *frame.last_mut().unwrap() ^= 1,
        Tampering::Forge => {
            forge(&mut frame[HEAD..], key);
            sum(&mut frame);
        }
        // Shorter answers say that there is nothing.
        Tampering::ForgeHeaders if frame.len() > HEAD + HEADERS_HEAD_BYTES => {
            forge_headers(&mut frame);
            sum(&mut frame);
        }
        Tampering::ForgeHeaders => {}
        Tampering::Truncate => {
            write_length(out, frame.len()).await?;
            out.write_all(&frame[..frame.len() / 2]).await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Tampering::Delay(time) => tokio::time::sleep(time).await,
        Tampering::OtherKey => {
            if let Some(before) = before {
                frame.truncate(8);
                frame.extend(&before[8..]);
            }
        }
        Tampering::Huge => {
            out.write_all(&[0xff, 0xff, 0xff, 0xff, 0x0f]).await?;
            out.write_all(&frame).await?;
            return flood(out).await;
        }
    }
    write_frame(out, &frame).await
}

/// Writes the checksum that fits.
fn sum(frame: &mut [u8]) {
    let crc = u64::from(crc32c::crc32c(&frame[HEAD..]));
    frame[8..HEAD].copy_from_slice(&crc.to_be_bytes());
}

/// Gives the last relay header another state root.
fn forge_headers(frame: &mut Vec<u8>) {
    let body = frame.split_off(HEAD + HEADERS_HEAD_BYTES);
    let mut batch = CombinedHeadersToSync::decode(&*body).unwrap();
    let mut relay = Vec::<HeaderToSync>::decode(&mut &*batch.encoded_relaychain_headers).unwrap();
    relay.last_mut().unwrap().header.state_root.0[0] ^= 1;
    batch.encoded_relaychain_headers = relay.encode().into();
    batch.encode(frame).unwrap();
}

/// Changes a value of the first block, such that it is a block still: its storage root is not what its header says.
fn forge(payload: &mut [u8], key: &str) {
    // Values in the devnet's load contain the block's number.
    let number: u128 = key.split(':').nth(1).unwrap().parse().unwrap();
    let needle = (number * 1_000_000).to_le_bytes();
    let at = payload.windows(needle.len()).position(|window| window == needle).unwrap();
    payload[at] ^= 1;
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = from.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn write_length(to: &mut (impl AsyncWrite + Unpin), mut length: usize) -> io::Result<()> {
    while length >= 0x80 {
        to.write_u8(length as u8 | 0x80).await?;
        length >>= 7;
    }
    to.write_u8(length as u8).await
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    write_length(to, frame.len()).await?;
    to.write_all(frame).await
}
