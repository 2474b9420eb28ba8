//! The judge through its front door: claims, references, policies and a time in; a decision out.

#[cfg(test)]
mod authorize;
#[cfg(test)]
mod boot;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod common;
#[cfg(test)]
mod mitigations;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod references;
#[cfg(test)]
mod tdx;
#[cfg(test)]
mod waivers;
