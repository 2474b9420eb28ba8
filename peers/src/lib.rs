//! What the differential tests share: recorded cases, mutations that a seed reproduces, and measured ratios.

pub mod cases;
pub mod mutate;
pub mod ratio;
