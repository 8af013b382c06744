#![no_main]

use std::sync::LazyLock;

#[path = "../src/bodies.rs"]
#[allow(dead_code, reason = "each target runs one body")]
mod bodies;

static ARENA: LazyLock<bodies::Arena> = LazyLock::new(bodies::Arena::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bodies::headers(&ARENA, data);
});
