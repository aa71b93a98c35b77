//! The scripts: everything that changes more than one key runs as one of them, whole or not at all.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $(
            $(#[$doc])*
            pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
                Script::new(concat!(include_str!("lua/prelude.lua"), include_str!(concat!("lua/", $file))))
            });
        )*
    };
}

scripts! {
    SUBMIT = "submit.lua";
    TAKE = "take.lua";
    FINISH = "finish.lua";
    RENEW = "renew.lua";
    KEEP = "keep.lua";
    FATES = "fates.lua";
    STALLED = "stalled.lua";
    TRIM = "trim.lua";
    ACCOUNT = "account.lua";
    RETRY = "retry.lua";
    REMOVE = "remove.lua";
}
