//! Any bytes as a safetensors file; the seeds are small valid ones.
#![no_main]

mod file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| file::load(bytes));
