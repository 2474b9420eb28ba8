//! What vendors signed about hardware, checked to a pinned [`anchor`](crate::anchor).

pub mod amd;
