//! Suite of the inventory seam.
