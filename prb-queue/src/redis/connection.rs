//! Connections to Redis: retries, failover and dedicated connections.

use std::{sync::Arc, time::Duration};

use prb_core::queue;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    config::{Config, StartError, without_password},
    scripts::{self, Scripts},
    server_error::ServerError,
};

/// Timeout for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before a call is repeated after its connection was lost; doubles up to [`REPEAT_MAX`].
const REPEAT_MIN: Duration = Duration::from_millis(20);
const REPEAT_MAX: Duration = Duration::from_secs(1);
/// Minimum interval between two warnings about a server that is a replica.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// One Redis server: a shared, self-healing connection for commands, and dedicated connections.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    shared: Arc<watch::Sender<Current>>,
    endpoint: Arc<str>,
    prefix: String,
    pub(super) scripts: Arc<Scripts>,
    call_timeout: Duration,
}

/// The shared connection for commands.
struct Current {
    /// How often it was replaced.
    generation: u64,
    manager: ConnectionManager,
    /// When the last warning was logged.
    said: Option<Instant>,
}

fn manager(client: &Client, call_timeout: Duration) -> RedisResult<ConnectionManager> {
    ConnectionManager::new_lazy_with_config(
        client.clone(),
        ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_min_delay(REPEAT_MIN)
            .set_max_delay(REPEAT_MAX)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(call_timeout)),
    )
}

impl Connection {
    pub(super) fn new(config: &Config) -> Result<Self, StartError> {
        let bad_url = |e: RedisError| StartError::BadUrl {
            url: without_password(&config.url),
            // The error's details may contain the URL, and with it the password.
            reason: format!("{:?}", e.kind()),
        };
        if config.url.starts_with("rediss://") {
            // The client uses the process's default crypto provider; if none is installed, ring is.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::open(config.url.as_str()).map_err(bad_url)?;
        let manager = manager(&client, config.call_timeout).map_err(bad_url)?;
        let prefix = format!("bq:{}:", config.name);
        let scripts = Arc::new(Scripts::new(&prefix));
        let shared = Arc::new(watch::Sender::new(Current { generation: 0, manager, said: None }));
        let endpoint = without_password(&config.url).into();
        Ok(Self { client, shared, endpoint, prefix, scripts, call_timeout: config.call_timeout })
    }

    /// Converts an error of Redis to the seam's: with the server's address, and a remedy if one is known.
    pub(super) fn unavailable(&self, error: RedisError) -> queue::Error {
        queue::Error::Unavailable(Box::new(self.server_error(error)))
    }

    /// Adds the server's address to the error.
    pub(super) fn server_error(&self, error: RedisError) -> ServerError {
        ServerError::new(Arc::clone(&self.endpoint), error)
    }

    /// Completes when the server turned out to be a replica: owners of dedicated connections must reconnect
    /// then.
    pub(super) async fn replaced(&self) {
        let mut shared = self.shared.subscribe();
        // The sender lives as long as this value.
        let _ = shared.changed().await;
    }

    /// Replaces the shared connection, unless that was done since `generation`. After a failover the old
    /// server may keep its connections and refuse every write on them, while its name may resolve to another
    /// server by now.
    fn replace(&self, generation: u64) {
        let Ok(fresh) = manager(&self.client, self.call_timeout) else { return };
        self.shared.send_if_modified(|current| {
            if current.generation != generation {
                return false;
            }
            if current.said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
                current.said = Some(Instant::now());
                let endpoint = &self.endpoint;
                tracing::warn!(%endpoint, "Redis refuses writes because it is a replica now: reconnecting");
            }
            current.generation += 1;
            current.manager = fresh;
            true
        });
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Runs an idempotent script, repeated until it is answered or times out.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &scripts::Call<'_>) -> RedisResult<T> {
        self.run_until(self.deadline(), script).await
    }

    /// The deadline of a call that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.call_timeout
    }

    /// Like [`Connection::run`], with a deadline that began earlier.
    pub(super) async fn run_until<T: FromRedisValue>(
        &self,
        deadline: Instant,
        script: &scripts::Call<'_>,
    ) -> RedisResult<T> {
        self.settle(deadline, Call::Script(script)).await
    }

    /// Runs commands that change nothing, or that are idempotent.
    pub(super) async fn query<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        self.settle(self.deadline(), Call::Commands(commands)).await
    }

    /// Like [`Connection::query`], with its own timeout.
    pub(super) async fn query_within<T: FromRedisValue>(
        &self,
        limit: Duration,
        commands: &Pipeline,
    ) -> RedisResult<T> {
        self.settle(Instant::now() + limit.min(self.call_timeout), Call::Commands(commands)).await
    }

    async fn settle<T: FromRedisValue>(&self, deadline: Instant, call: Call<'_>) -> RedisResult<T> {
        let mut pause = REPEAT_MIN;
        loop {
            // A lost connection is detected by the next call, and re-established for the one after it.
            let (generation, manager) = {
                let current = self.shared.borrow();
                (current.generation, current.manager.clone())
            };
            let error = match timeout_at(deadline, call.once(manager)).await {
                Ok(Err(e)) => e,
                Ok(Ok(answer)) => return Ok(answer),
                Err(_) => return Err(timed_out()),
            };
            if is_demoted(&error) {
                self.replace(generation);
            }
            if !is_transient(&error) || Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(REPEAT_MAX);
        }
    }

    /// Opens a dedicated connection, for commands that block for up to `longest`.
    pub(super) async fn blocking(&self, longest: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(longest + self.call_timeout));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Opens a dedicated connection, for subscriptions.
    pub(super) async fn subscriptions(&self) -> RedisResult<PubSub> {
        match timeout(CONNECT_TIMEOUT, self.client.get_async_pubsub()).await {
            Ok(result) => result,
            Err(_) => Err(timed_out()),
        }
    }
}

#[derive(Clone, Copy)]
enum Call<'a> {
    Script(&'a scripts::Call<'a>),
    Commands(&'a Pipeline),
}

impl Call<'_> {
    async fn once<T: FromRedisValue>(self, mut connection: ConnectionManager) -> RedisResult<T> {
        match self {
            Self::Script(script) => script.run(&mut connection).await,
            Self::Commands(commands) => commands.query_async(&mut connection).await,
        }
    }
}

/// Whether the same call may succeed on another connection, or a little later.
fn is_transient(error: &RedisError) -> bool {
    const PASSING: [&str; 5] = ["LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "UNBLOCKED"];
    error.is_io_error()
        || error.is_unrecoverable_error()
        || is_demoted(error)
        || error.code().is_some_and(|code| PASSING.contains(&code))
}

/// Whether the server has become a replica, which keeps its connections and refuses writes.
pub(super) fn is_demoted(error: &RedisError) -> bool {
    // Within a script the code is part of the text.
    error.code() == Some("READONLY") || error.detail().is_some_and(|text| text.contains("READONLY"))
}

fn timed_out() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "Redis did not answer in time").into()
}
