//! Offline check of a log directory.
