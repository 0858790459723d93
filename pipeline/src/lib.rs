//! The whole InternLM chain: a folder for each stage, and the command line over them.
#![forbid(unsafe_code)]

pub mod cli;
pub mod data;
pub mod engine;
pub mod finetune;
pub mod hub;
pub mod plan;
pub mod train;
pub mod units;
pub mod world;
