//! Compiles `proto/workload.proto`, in Rust alone: no `protoc` is needed.

fn main() -> Result<(), Box<dyn core::error::Error>> {
    println!("cargo::rerun-if-changed=proto/workload.proto");
    let files = protox::compile(["proto/workload.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .btree_map(".")
        // They hold a key and a token.
        .skip_debug(["X509SVID", "JWTSVID"])
        .compile_fds(files)?;
    Ok(())
}
