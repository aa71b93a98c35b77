//! Suite of the blob seam.
