#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cellbus_fuzz::transfer(data));
