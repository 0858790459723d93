//! Any bytes as a GGUF file; the seeds are small valid ones.
#![no_main]

mod file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| file::load(bytes));
