//! Lua scripts. Every change to more than one key runs as one of them, atomically.

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs, aio::ConnectionLike};

/// A compiled script.
pub(super) struct Script(redis::Script);

/// A call of a script. Arguments are written straight into the command, without a copy.
pub(super) struct Call<'a> {
    script: &'a redis::Script,
    command: Cmd,
}

impl Script {
    fn new(code: &str) -> Self {
        Self(redis::Script::new(code))
    }

    pub(super) fn call(&self) -> Call<'_> {
        let mut command = redis::cmd("EVALSHA");
        // No keys are declared: the scripts build them from the prefix, which a Redis cluster would not
        // allow.
        command.arg(self.0.get_hash()).arg(0);
        Call { script: &self.0, command }
    }

    /// Loads the script into the server.
    pub(super) async fn load(&self, connection: &mut impl ConnectionLike) -> RedisResult<()> {
        self.0.load_async(connection).await.map(drop)
    }
}

impl Call<'_> {
    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        self.command.arg(arg);
        self
    }

    /// Returns the `EVALSHA` command, for a server that has the script.
    pub(super) fn into_command(self) -> Cmd {
        self.command
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> RedisResult<T> {
        match self.command.query_async(connection).await {
            Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.script.load_async(connection).await?;
                self.command.query_async(connection).await
            }
            answer => answer,
        }
    }
}

macro_rules! scripts {
    ($($name:ident: [$($part:literal),*];)*) => {
        /// The scripts of one queue, with its key prefix inserted.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)*
        }

        impl Scripts {
            /// The prefix is inserted into Lua string literals: it must have no quotes and no backslashes, which
            /// [`Config`](super::Config) checks.
            pub(super) fn new(prefix: &str) -> Self {
                Self {
                    $($name: Script::new(
                        &concat!(
                            include_str!("lua/keys.lua"),
                            $(include_str!(concat!("lua/", $part, ".lua")),)*
                            include_str!(concat!("lua/", stringify!($name), ".lua")),
                        )
                        .replace("@P@", prefix),
                    ),)*
                }
            }
        }
    };
}

scripts! {
    submit: ["clock", "answers", "usage"];
    take: ["clock", "answers", "timers"];
    promote: ["clock", "timers"];
    finish: ["clock", "release"];
    renew: ["clock", "release"];
    hand_back: ["clock", "release"];
    mark_alive: [];
    outcomes: [];
    stalled: ["clock", "timers"];
    trim: ["clock", "usage", "delete_job"];
    reindex: ["clock", "delete_job"];
    list: ["clock"];
    retry: ["usage"];
    remove: ["delete_job", "unlist"];
    withdraw: ["delete_job", "unlist"];
    lease_account: ["clock"];
    renew_accounts: [];
}
