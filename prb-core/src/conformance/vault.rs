//! Suite of the vault seam.
