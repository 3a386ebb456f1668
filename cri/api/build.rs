//! Compiles the .proto files with protox, so that nobody needs `protoc` to build Berth.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const PROTO_DIR: &str = "proto";
const FILES: [&str; 2] = ["runtime/v1/api.proto", "berth.proto"];

/// Its `Debug` is written by hand: it must not print passwords.
const SECRETS: &str = ".runtime.v1.AuthConfig";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let mut compiler = protox::Compiler::new([PROTO_DIR])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let with_comments = compiler.file_descriptor_set();

    let mut prost = tonic_prost_build::Config::new();
    prost.btree_map(["."]).skip_debug([SECRETS]).enable_type_names();
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .compile_fds_with_config(with_comments, prost)?;

    compiler.include_source_info(false);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}
