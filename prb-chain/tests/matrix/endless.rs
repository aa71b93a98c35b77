//! A proxy that passes the handshake and then sends one endless message.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Size of a frame, and the headers of a text message's first frame and of the following ones.
const FRAME: usize = 0x8000;
const FIRST: [u8; 4] = [0x01, 126, 0x80, 0];
const NEXT: [u8; 4] = [0x00, 126, 0x80, 0];

#[derive(Debug)]
pub(crate) struct Endless {
    url: String,
    _task: JoinSet<()>,
}

impl Endless {
    /// Starts a proxy in front of the node at `url`.
    pub(crate) async fn start(url: &str) -> Self {
        let node = url.trim_start_matches("ws://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let node = node.clone();
                connections.spawn(async move {
                    // Either end may disconnect at any time.
                    let _ = serve(client, &node).await;
                });
            }
        });
        Self { url, _task: task }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }
}

async fn serve(mut client: TcpStream, node: &str) -> std::io::Result<()> {
    let mut node = TcpStream::connect(node).await?;
    let mut buffer = [0; 4096];
    // The handshake: a request, and an answer without frames.
    let asked = client.read(&mut buffer).await?;
    node.write_all(&buffer[..asked]).await?;
    let answered = node.read(&mut buffer).await?;
    client.write_all(&buffer[..answered]).await?;
    let asked = client.read(&mut buffer).await?;
    if asked == 0 {
        return Ok(());
    }
    let blanks = [b' '; FRAME];
    client.write_all(&FIRST).await?;
    client.write_all(&blanks).await?;
    loop {
        client.write_all(&NEXT).await?;
        client.write_all(&blanks).await?;
    }
}
