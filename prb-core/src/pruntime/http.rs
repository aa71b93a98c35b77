//! `PRuntimeClient` over HTTP.
