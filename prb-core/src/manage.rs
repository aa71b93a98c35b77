//! What operators do to pools and workers, whatever the protocol that they speak.
