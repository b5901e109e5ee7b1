//! Generates the types and service traits of the container storage interface from `proto/csi.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/csi.proto");
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
