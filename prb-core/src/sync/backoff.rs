//! Waiting longer after each failure in a row.

use std::time::Duration;

use rand::Rng;

/// How long to wait after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// About the wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

/// Doubles the wait with each failure in a row, up to a bound; the actual wait is a random one between half
/// of that and all of it, so that those who failed together do not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    attempts: u32,
}

impl Backoff {
    /// No failure yet.
    pub const fn new(config: BackoffConfig) -> Self {
        Self { config, attempts: 0 }
    }

    /// Failures in a row.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Notes a failure and gives the wait after it.
    pub fn fail(&mut self) -> Duration {
        let doublings = self.attempts.min(20);
        self.attempts = self.attempts.saturating_add(1);
        let wait = self.config.first.saturating_mul(1 << doublings).min(self.config.max);
        jittered(wait)
    }

    /// Notes a success.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A random wait between half of `wait` and all of it.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound() {
        let config = BackoffConfig { first: Duration::from_secs(1), max: Duration::from_secs(10) };
        let mut backoff = Backoff::new(config);
        for expected in [1, 2, 4, 8, 10, 10, 10] {
            let wait = backoff.fail();
            let expected = Duration::from_secs(expected);
            assert!(wait >= expected / 2 && wait <= expected, "{wait:?} for {expected:?}");
        }
        for _ in 0..100 {
            assert!(backoff.fail() <= config.max);
        }
        backoff.reset();
        assert!(backoff.fail() <= config.first);
    }
}
