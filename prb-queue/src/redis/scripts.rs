//! The scripts: everything that changes more than one key runs as one of them, whole or not at all.

use redis::Script;

macro_rules! scripts {
    ($($name:ident: [$($part:literal),*];)*) => {
        /// The scripts of one queue: its keys stand in them.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)*
        }

        impl Scripts {
            /// `prefix` has no quotes and no backslashes.
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
    submit: ["answers", "room"];
    take: ["clock", "answers", "lines"];
    finish: ["clock", "answers", "release"];
    renew: ["clock", "release"];
    keep: [];
    fates: [];
    stalled: ["clock", "lines"];
    trim: ["clock", "room", "forget"];
    account: ["clock", "forget"];
    retry: ["room"];
    remove: ["forget"];
    lease_account: ["clock"];
    renew_accounts: [];
}
