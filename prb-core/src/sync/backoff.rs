//! Exponential backoff with jitter.

use std::time::Duration;

use rand::Rng;

/// Bounds of a [`Backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Nominal wait after the first failure.
    pub first: Duration,
    /// The maximum wait.
    pub max: Duration,
}

/// Exponential backoff: the nominal wait doubles with each consecutive failure up to a maximum. The actual
/// wait is random between half of the nominal one and all of it, so that clients that failed together do not
/// retry together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    attempts: u32,
}

impl Backoff {
    /// Creates a backoff without failures.
    pub const fn new(config: BackoffConfig) -> Self {
        Self { config, attempts: 0 }
    }

    /// Consecutive failures.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Records a failure and returns the wait before the next attempt.
    pub fn fail(&mut self) -> Duration {
        // Keeps the shift below 32 bits; by then the maximum applies in any case.
        let doublings = self.attempts.min(20);
        self.attempts = self.attempts.saturating_add(1);
        let wait = self.config.first.saturating_mul(1 << doublings).min(self.config.max);
        jittered(wait)
    }

    /// Records a success.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A random duration between half of `wait` and all of it.
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
