plug_api::plugin! {
    name: "hello", version: "1.0.0", description: "adds two numbers", license: "MIT",
    init: |_| Ok(()), exit: || (),
}

plug_api::export! {
    pub fn add(a: u64, b: u64) -> u64 { a + b }
}
