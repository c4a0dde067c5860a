//! Lays one test program out as some linkers do by themselves: with gaps between its segments.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bin=gaps-host=-Wl,-z,max-page-size=65536");
}
