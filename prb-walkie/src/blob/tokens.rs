//! Tokens of the external role: a peer that wants a blob gets a token and fetches the blob with it.
//!
//! A token has 122 random bits and is valid for one block, for the peer that asked, for a limited time. It
//! may be used repeatedly within that time, because an answer can get lost.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use uuid::Uuid;

/// Limits of [`Tokens`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// How long a token is valid. Default: 5 minutes.
    pub lifetime: Duration,
    /// Most tokens of one peer; a new one evicts the peer's oldest. Default: 64.
    pub max_per_peer: usize,
    /// Most tokens of all peers. Default: 4,096.
    pub max_tokens: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(300), max_per_peer: 64, max_tokens: 4096 }
    }
}

/// A token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The text that fetches the blob.
    pub text: String,
    /// When it expires.
    pub expires_at: SystemTime,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// There are too many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} tokens are in use; try again in a while")]
pub struct Full(pub usize);

struct Issued<T> {
    peer: String,
    until: Instant,
    what: T,
}

/// Issued tokens and the values they stand for.
pub struct Tokens<T> {
    config: Config,
    state: Mutex<State<T>>,
}

struct State<T> {
    issued: HashMap<Uuid, Issued<T>>,
    /// Tokens in the order in which they expire.
    order: VecDeque<Uuid>,
}

impl<T> fmt::Debug for Tokens<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<T: Clone> Tokens<T> {
    /// Creates an empty table.
    pub fn new(config: Config) -> Self {
        Self { config, state: Mutex::new(State { issued: HashMap::new(), order: VecDeque::new() }) }
    }

    /// Issues a new token for this peer.
    ///
    /// # Errors
    /// [`Full`].
    pub fn issue(&self, peer: &str, what: T) -> Result<Token, Full> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.forget_expired(now);
        if state.issued.values().filter(|issued| issued.peer == peer).count() >= self.config.max_per_peer {
            // The peer's own token, never another's: asking for many tokens must not invalidate those of
            // others.
            state.forget_oldest_of(peer);
        }
        if state.issued.len() >= self.config.max_tokens {
            return Err(Full(state.issued.len()));
        }
        let id = Uuid::new_v4();
        let until = now + self.config.lifetime;
        state.issued.insert(id, Issued { peer: peer.to_owned(), until, what });
        // All tokens have the same lifetime, so they expire in the order of issue.
        state.order.push_back(id);
        Ok(Token { text: id.simple().to_string(), expires_at: SystemTime::now() + self.config.lifetime })
    }

    /// Returns what a token stands for, if it is this peer's and still valid.
    pub fn redeem(&self, peer: &str, token: &str) -> Option<T> {
        let id = Uuid::try_parse(token).ok()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.forget_expired(Instant::now());
        state.issued.get(&id).filter(|issued| issued.peer == peer).map(|issued| issued.what.clone())
    }

    /// Number of valid tokens.
    pub fn len(&self) -> usize {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.forget_expired(Instant::now());
        state.issued.len()
    }

    /// Whether there are no valid tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> State<T> {
    fn forget_expired(&mut self, now: Instant) {
        while let Some(id) = self.order.front()
            && self.issued.get(id).is_none_or(|issued| issued.until <= now)
        {
            self.issued.remove(id);
            self.order.pop_front();
        }
    }

    fn forget_oldest_of(&mut self, peer: &str) {
        let of_peer = |id: &Uuid| self.issued.get(id).is_some_and(|issued| issued.peer == peer);
        if let Some(at) = self.order.iter().position(of_peer)
            && let Some(id) = self.order.remove(at)
        {
            self.issued.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tokens() -> Tokens<u32> {
        Tokens::new(Config { lifetime: Duration::from_secs(10), max_per_peer: 3, max_tokens: 5 })
    }

    #[tokio::test(start_paused = true)]
    async fn token_is_valid_for_its_peer_until_it_expires() {
        let tokens = tokens();
        let token = tokens.issue("A", 7).unwrap();
        assert_eq!(tokens.redeem("A", &token.text), Some(7));
        assert_eq!(tokens.redeem("A", &token.text), Some(7), "an answer may be lost");
        assert_eq!(tokens.redeem("B", &token.text), None);
        assert_eq!(tokens.redeem("A", "nonsense"), None);
        assert!(!format!("{token:?}").contains(&token.text));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(tokens.redeem("A", &token.text), None);
        assert!(tokens.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_bounded() {
        let tokens = tokens();
        let all: Vec<_> = (0..4).map(|i| tokens.issue("A", i).unwrap()).collect();
        assert_eq!(tokens.redeem("A", &all[0].text), None, "the oldest was evicted");
        assert_eq!(tokens.redeem("A", &all[3].text), Some(3));
        tokens.issue("B", 1).unwrap();
        tokens.issue("C", 1).unwrap();
        assert_eq!(tokens.issue("D", 1), Err(Full(5)));
        tokio::time::advance(Duration::from_secs(10)).await;
        tokens.issue("D", 1).unwrap();
        assert_eq!(tokens.len(), 1);
    }
}
