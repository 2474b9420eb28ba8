//! Pulse.
