#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| openwatch_fuzz::os_release(data));
