//! A parameter: a cell that layers resolve at use, so that optimizers, merges and sharding swap the
//! value without touching a model.

use puyu_tensor::{Tensor, prefetch};
use std::sync::{Arc, OnceLock, RwLock, Weak};

/// A named value of a model. Clones are the same parameter (tied weights).
#[derive(Clone)]
pub struct Param {
    name: Arc<str>,
    cell: Arc<Cell>,
}

struct Cell {
    value: RwLock<Tensor>,
    /// The cell that is looked at some parameters later.
    later: OnceLock<Weak<Cell>>,
}

/// From a parameter to the one that is asked for while it is looked at.
const AHEAD: usize = 4;

impl Param {
    /// A parameter called `name` with this value.
    pub fn new(name: &str, value: Tensor) -> Self {
        let cell = Cell { value: RwLock::new(value), later: OnceLock::new() };
        Self { name: name.into(), cell: Arc::new(cell) }
    }

    /// Says that a step looks at `params` in this order. Since it reads all of their elements in between, where they
    /// lie has left the caches when it is needed again: it is asked for a few parameters ahead.
    pub(crate) fn in_order(params: &[Self]) {
        for (param, later) in params.iter().zip(params.iter().skip(AHEAD)) {
            // The first order that is given stays.
            let _ = param.cell.later.set(Arc::downgrade(&later.cell));
        }
    }

    /// The name, which is that of the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value.
    pub fn get(&self) -> Tensor {
        if let Some(later) = self.cell.later.get().and_then(Weak::upgrade) {
            if let Some(later) = later.later.get() {
                prefetch(later.as_ptr());
            }
            if let Ok(value) = later.value.try_read() {
                value.prefetch();
            }
        }
        self.cell.value.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Puts another value in.
    pub fn set(&self, value: Tensor) {
        *self.cell.value.write().unwrap_or_else(|e| e.into_inner()) = value;
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
