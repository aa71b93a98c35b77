//! Suite of the queue seam.
