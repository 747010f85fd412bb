#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| openwatch_fuzz::known_hosts(data));
