//! pipeline

pub mod hub;
