//! Connections to Redis.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prb_core::queue;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError,
    RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    config::{Config, StartError, check_url, without_password},
    error::EndpointError,
    scripts::{self, Scripts},
};

// Why the shared connection is replaced.
/// The server refuses writes on it.
const DEMOTED: &str = "refuses writes because it is now a replica";
/// Nothing arrives over it, as when a load balancer keeps it open to a server that is gone.
const SILENT: &str = "does not answer";
/// A proxy that keeps connections while it connects to a server anew leads to a session without the password.
const UNAUTHENTICATED: &str = "has forgotten the password";
/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before a call is repeated after its connection was lost; doubles up to [`REPEAT_MAX`].
const REPEAT_MIN: Duration = Duration::from_millis(20);
const REPEAT_MAX: Duration = Duration::from_secs(1);
/// Minimum time between two warnings about a replaced connection.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Keepalive of idle connections, and how long sent data may stay unacknowledged: firewalls and failovers
/// drop connections silently.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections to one Redis: a shared, self-healing one for commands, and dedicated ones.
#[derive(Clone)]
pub(super) struct Connections {
    client: Client,
    shared: Arc<watch::Sender<Current>>,
    endpoint: Arc<str>,
    prefix: String,
    pub(super) scripts: Arc<Scripts>,
    call_timeout: Duration,
    has_password: bool,
}

/// The shared connection for commands.
struct Current {
    /// How often it has been replaced.
    generation: u64,
    manager: ConnectionManager,
    /// When data last arrived over it, or when it was created.
    answered: Arc<Mutex<Instant>>,
    /// When its replacement was last logged.
    logged: Option<Instant>,
}

fn connection_info(url: &str) -> RedisResult<ConnectionInfo> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    Ok(url.into_connection_info()?.set_tcp_settings(settings))
}

fn manager(client: &Client, call_timeout: Duration) -> RedisResult<ConnectionManager> {
    ConnectionManager::new_lazy_with_config(
        client.clone(),
        ConnectionManagerConfig::new()
            // `call_until` retries, under the deadline of the whole call.
            .set_number_of_retries(1)
            .set_min_delay(REPEAT_MIN)
            .set_max_delay(REPEAT_MAX)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(call_timeout)),
    )
}

impl Connections {
    pub(super) fn new(config: &Config) -> Result<Self, StartError> {
        let bad_url = |reason| StartError::BadUrl { url: without_password(&config.url), reason };
        check_url(&config.url).map_err(bad_url)?;
        // The error's details may contain the URL.
        let bad_url = |_: RedisError| bad_url("the client refuses it");
        if config.url.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("rediss://")) {
            // The client uses the process's default crypto provider; if the program has installed none, install ring.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = connection_info(&config.url).and_then(Client::open).map_err(bad_url)?;
        let manager = manager(&client, config.call_timeout).map_err(bad_url)?;
        let prefix = format!("bq:{}:", config.name);
        let scripts = Arc::new(Scripts::new(&prefix));
        let shared =
            Arc::new(watch::Sender::new(Current { generation: 0, manager, answered: now(), logged: None }));
        let endpoint = without_password(&config.url).into();
        let has_password = client.get_connection_info().redis_settings().password().is_some();
        let call_timeout = config.call_timeout;
        Ok(Self { client, shared, endpoint, prefix, scripts, call_timeout, has_password })
    }

    /// Converts a Redis error to the seam's, with the server's address and a remedy where one is known.
    pub(super) fn unavailable(&self, error: RedisError) -> queue::Error {
        queue::Error::Unavailable(Box::new(self.endpoint_error(error)))
    }

    /// Adds the server's address to an error.
    pub(super) fn endpoint_error(&self, error: RedisError) -> EndpointError {
        EndpointError::new(Arc::clone(&self.endpoint), error)
    }

    /// The server's address, without its password.
    pub(super) const fn endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    /// Completes when the shared connection is replaced. Holders of dedicated connections reconnect then, too.
    pub(super) async fn replaced(&self) {
        // A new receiver counts the current value as seen: only later replacements end the wait.
        let mut shared = self.shared.subscribe();
        // Cannot fail: `self` holds the sender.
        let _ = shared.changed().await;
    }

    /// Replaces the shared connection, unless another call has done so since `generation`. After a failover the
    /// old server may keep its connections and refuse every write on them, while its host name already resolves
    /// to the new one.
    fn replace(&self, generation: u64, reason: &'static str) {
        let Ok(fresh) = manager(&self.client, self.call_timeout) else { return };
        self.shared.send_if_modified(|current| {
            if current.generation != generation {
                return false;
            }
            if current.logged.is_none_or(|at| at.elapsed() > WARN_INTERVAL) {
                current.logged = Some(Instant::now());
                let endpoint = &self.endpoint;
                tracing::warn!(%endpoint, reason, "the connection to Redis was replaced");
            }
            current.generation += 1;
            current.manager = fresh;
            current.answered = now();
            true
        });
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Runs a repeatable script, retrying until it is answered or the call's timeout is over.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &scripts::Call<'_>) -> RedisResult<T> {
        self.run_until(self.deadline(), script).await
    }

    /// The deadline of a call that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.call_timeout
    }

    /// Like [`Connections::run`], with a given deadline.
    pub(super) async fn run_until<T: FromRedisValue>(
        &self,
        deadline: Instant,
        script: &scripts::Call<'_>,
    ) -> RedisResult<T> {
        self.call_until(deadline, Call::Script(script)).await
    }

    /// Runs commands that are read-only or idempotent.
    pub(super) async fn query<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        self.call_until(self.deadline(), Call::Commands(commands)).await
    }

    /// Like [`Connections::query`], with a shorter timeout.
    pub(super) async fn query_within<T: FromRedisValue>(
        &self,
        limit: Duration,
        commands: &Pipeline,
    ) -> RedisResult<T> {
        self.call_until(Instant::now() + limit.min(self.call_timeout), Call::Commands(commands)).await
    }

    async fn call_until<T: FromRedisValue>(&self, deadline: Instant, call: Call<'_>) -> RedisResult<T> {
        let mut pause = REPEAT_MIN;
        loop {
            // The connection manager notices a lost connection only on the next call, and reconnects for the call after
            // it. Hence the retries.
            let (generation, manager, answered) = {
                let current = self.shared.borrow();
                (current.generation, current.manager.clone(), Arc::clone(&current.answered))
            };
            let mut answered = Answered(answered);
            let error = match timeout_at(deadline, call.once(manager)).await {
                Ok(Err(error)) => error,
                Ok(Ok(answer)) => {
                    answered.now();
                    return Ok(answer);
                }
                Err(_) => timed_out(),
            };
            // One late answer may be due to a slow call. The connection counts as dead only after a whole timeout
            // without any answer to any call.
            if error.is_timeout() {
                if answered.elapsed() >= self.call_timeout {
                    self.replace(generation, SILENT);
                }
            } else {
                answered.now();
            }
            if is_demoted(&error) {
                self.replace(generation, DEMOTED);
            }
            let is_unauthenticated = self.has_password && is_of(&error, "NOAUTH");
            if is_unauthenticated {
                self.replace(generation, UNAUTHENTICATED);
            }
            if !(is_unauthenticated || is_transient(&error)) || Instant::now() + pause >= deadline {
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

    /// Opens a dedicated connection for subscriptions.
    pub(super) async fn subscriptions(&self) -> RedisResult<PubSub> {
        // The client has no timeout of its own for this kind of connection.
        match timeout(CONNECT_TIMEOUT, self.client.get_async_pubsub()).await {
            Ok(result) => result,
            Err(_) => Err(timed_out()),
        }
    }
}

/// When data last arrived over a connection.
struct Answered(Arc<Mutex<Instant>>);

impl Answered {
    fn now(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

fn now() -> Arc<Mutex<Instant>> {
    Arc::new(Mutex::new(Instant::now()))
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
    // UNBLOCKED ends a blocking command when the server becomes a replica.
    // BUSY and LOADING end by themselves; TRYAGAIN and MASTERDOWN end with a failover.
    const TRANSIENT: [&str; 5] = ["LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "UNBLOCKED"];
    error.is_io_error()
        || error.is_unrecoverable_error()
        || is_demoted(error)
        || error.code().is_some_and(|code| TRANSIENT.contains(&code))
}

/// Whether the server has become a replica, which keeps its connections and refuses writes.
fn is_demoted(error: &RedisError) -> bool {
    is_of(error, "READONLY")
}

fn is_of(error: &RedisError, code: &str) -> bool {
    // For an error within a script or of a pipeline, the code is part of the text.
    error.code() == Some(code) || error.to_string().contains(code)
}

fn timed_out() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "Redis did not answer in time").into()
}
