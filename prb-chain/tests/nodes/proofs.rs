//! Finality proofs that do not help.

use super::*;
