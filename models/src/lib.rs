//! Models: one file per architecture; checkpoint formats, tokenizers and chat templates.
#![forbid(unsafe_code)]

pub mod format;
