#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qbulk_fuzz::hash_tree(data));
