//! A peer: libp2p, discovery, who is there.
