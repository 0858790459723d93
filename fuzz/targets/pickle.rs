//! Any bytes as a PyTorch `.bin` file; the seeds are small valid ones.
#![no_main]

mod file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| file::load(bytes));
