//! Calls between peers: `/pb`.
