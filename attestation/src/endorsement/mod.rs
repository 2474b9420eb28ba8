//! What vendors signed about hardware, checked to a pinned [`anchor`](crate::anchor).

pub mod amd;
pub mod intel;
pub mod tpm;
