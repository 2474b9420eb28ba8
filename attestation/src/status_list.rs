//! Status list.
