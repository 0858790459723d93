//! A parameter: a cell that layers resolve at use, so that optimizers, merges and sharding swap the
//! value without touching a model.

use puyu_tensor::Tensor;
use std::sync::{Arc, RwLock};

/// A named value of a model. Clones are the same parameter (tied weights).
#[derive(Clone)]
pub struct Param {
    name: Arc<str>,
    cell: Arc<RwLock<Tensor>>,
}

impl Param {
    /// A parameter called `name` with this value.
    pub fn new(name: &str, value: Tensor) -> Self {
        Self { name: name.into(), cell: Arc::new(RwLock::new(value)) }
    }

    /// The name, which is that of the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value.
    pub fn get(&self) -> Tensor {
        self.cell.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Puts another value in.
    pub fn set(&self, value: Tensor) {
        *self.cell.write().unwrap_or_else(|e| e.into_inner()) = value;
    }

    /// Whether both are the same parameter.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cell, &other.cell)
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Param({}, {})", self.name, self.get().spec())
    }
}
