//! Generates the types and service traits of the container storage interface from `proto/csi.proto`, and lets programs find
//! a RocksDB that is not where the system looks.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/csi.proto");
    println!("cargo::rerun-if-env-changed=ROCKSDB_LIB_DIR");
    if let Some(folder) = std::env::var_os("ROCKSDB_LIB_DIR") {
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{}", folder.display());
    }
    #[cfg(feature = "cluster")]
    {
        // protox compiles the file in Rust: nobody who builds this needs protoc.
        let files = protox::compile(["proto/csi.proto"], ["proto"])?;
        tonic_prost_build::configure()
            .build_client(true)
            // A call that a service does not offer is answered with Unimplemented.
            .generate_default_stubs(true)
            .compile_fds(files)?;
    }
    Ok(())
}
