//! What vendors signed about hardware, checked to a pinned [`anchor`](crate::anchor).

pub mod amd;
pub mod intel;
pub mod issue;
pub mod tpm;
