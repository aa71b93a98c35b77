//! A scripted worker for tests.
