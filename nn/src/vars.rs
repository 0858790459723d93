//! A cursor over dotted names with a source of weights behind it. Names are written once, where a
//! layer is built, and equal the checkpoint's.

use crate::{Adapter, Embedding, Linear, Lora, Param, RmsNorm};
use puyu_tensor::{DType, Error, Result, Tensor};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::rc::Rc;

/// Where weights come from.
pub trait Weights {
    /// All names it has.
    fn names(&self) -> Vec<String>;

    /// The tensor called `name`, one of [`Weights::names`].
    ///
    /// # Errors
    /// If it cannot be read.
    fn get(&self, name: &str) -> Result<Tensor>;

    /// A value of `shape` for a name it has not: for models that begin anew.
    fn fresh(&self, _name: &str, _shape: &[usize]) -> Option<Tensor> {
        None
    }
}

/// A place in the tree of names.
#[derive(Clone)]
pub struct Vars<'a> {
    root: Rc<Root<'a>>,
    path: String,
}

struct Root<'a> {
    weights: &'a dyn Weights,
    names: BTreeSet<String>,
    /// Those of the adapter.
    added: BTreeSet<String>,
    used: RefCell<BTreeSet<String>>,
    params: RefCell<Vec<Param>>,
    /// Missing and misshapen names, in order of use.
    problems: RefCell<Vec<String>>,
    dtype: Option<DType>,
    adapter: Option<&'a dyn Adapter>,
}

impl<'a> Vars<'a> {
    /// The root of the names in `weights`. With `dtype`, matrices are cast to it (to F32 for
    /// training); otherwise they stay as they are stored. Vectors are always F32.
    pub fn new(weights: &'a dyn Weights, dtype: Option<DType>) -> Self {
        Self::adapted(weights, dtype, None)
    }

    /// As [`Vars::new`], with what `adapter` adds to linear layers, in F32.
    pub fn adapted(
        weights: &'a dyn Weights,
        dtype: Option<DType>,
        adapter: Option<&'a dyn Adapter>,
    ) -> Self {
        let added: BTreeSet<String> =
            adapter.map(|a| a.names()).unwrap_or_default().into_iter().collect();
        let root = Root {
            weights,
            names: weights.names().into_iter().chain(added.iter().cloned()).collect(),
            added,
            used: RefCell::default(),
            params: RefCell::default(),
            problems: RefCell::default(),
            dtype,
            adapter,
        };
        Self { root: Rc::new(root), path: String::new() }
    }

    /// The place `name` below this one; dots in `name` go further down.
    #[must_use]
    pub fn at(&self, name: impl Display) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { root: self.root.clone(), path: format!("{}{dot}{name}", self.path) }
    }

    /// Whether the source has a tensor `name` here.
    pub fn has(&self, name: &str) -> bool {
        self.root.names.contains(&self.at(name).path)
    }

    /// The parameter at this place.
    pub fn param(&self, shape: &[usize]) -> Param {
        let (root, name) = (&self.root, &self.path);
        let own = || root.names.contains(name) && !root.added.contains(name);
        match root.adapter.filter(|a| a.replaces(name)) {
            None => self.param_of(root.weights, root.dtype, shape),
            Some(_) if own() => self.param_of(root.weights, Some(DType::F32), shape),
            Some(adapter) => self.param_of(adapter, None, shape),
        }
    }

    /// The parameter at this place, from `weights`; a matrix becomes `dtype`.
    fn param_of(&self, weights: &dyn Weights, dtype: Option<DType>, shape: &[usize]) -> Param {
        let value = self.load(weights, dtype, shape).unwrap_or_else(|problem| {
            self.root.problems.borrow_mut().push(problem);
            Tensor::scalar(0.0).broadcast_to(shape)
        });
        let param = Param::new(&self.path, value);
        self.root.params.borrow_mut().push(param.clone());
        param
    }

    fn load(
        &self,
        weights: &dyn Weights,
        dtype: Option<DType>,
        shape: &[usize],
    ) -> Result<Tensor, String> {
        let name = &self.path;
        self.root.used.borrow_mut().insert(name.clone());
        let tensor = if self.root.names.contains(name) {
            weights.get(name).map_err(|e| format!("{name}: {e}"))?
        } else {
            weights.fresh(name, shape).ok_or_else(|| format!("{name} {shape:?} is missing"))?
        };
        if tensor.shape() != shape {
            return Err(format!("{name} has shape {:?}, expected {shape:?}", tensor.shape()));
        }
        let dtype = if shape.len() < 2 { Some(DType::F32) } else { dtype };
        if let (Some(d), Some(row)) = (dtype, shape.last())
            && !row.is_multiple_of(d.block_len())
        {
            let block = d.block_len();
            return Err(format!(
                "{name} has rows of {row}, which are no whole blocks of {d} ({block})"
            ));
        }
        let Some(dtype) = dtype else { return Ok(tensor) };
        let cast = tensor.to_dtype(dtype);
        if !cast.shares_storage(&tensor) {
            // Else all of a mapped file would lie in memory beside what was made of it.
            tensor.release();
        }
        Ok(cast)
    }

    /// A linear layer `weight [out, in]`, `bias [out]` at this place, with its adapter
    /// `lora_A.weight [r, in]`, `lora_B.weight [out, r]` if it has one.
    pub fn linear(&self, input: usize, output: usize, bias: bool) -> Linear {
        let weight = self.at("weight").param(&[output, input]);
        let bias = bias.then(|| self.at("bias").param(&[output]));
        Linear { weight, bias, lora: self.lora(input, output) }
    }

    fn lora(&self, input: usize, output: usize) -> Option<Lora> {
        let adapter = self.root.adapter?;
        let (rank, scale) = adapter.rank(&self.path)?;
        let part = |name, shape: &[usize]| {
            self.at(name).at("weight").param_of(adapter, Some(DType::F32), shape)
        };
        let (a, b) = (part("lora_A", &[rank, input]), part("lora_B", &[output, rank]));
        Some(Lora { a, b, scale, dropout: adapter.dropout(&self.path) })
    }

    /// A normalization `weight [size]` at this place.
    pub fn rms_norm(&self, size: usize, eps: f32) -> RmsNorm {
        RmsNorm { weight: self.at("weight").param(&[size]), eps }
    }

    /// An embedding `weight [count, size]` at this place.
    pub fn embedding(&self, count: usize, size: usize) -> Embedding {
        Embedding { weight: self.at("weight").param(&[count, size]) }
    }

    /// Ends loading: all parameters in order of their names.
    ///
    /// # Errors
    /// One error with all missing, misshapen and extra names; `ignore` says which extra ones are
    /// known to be of no use.
    pub fn finish(self, ignore: impl Fn(&str) -> bool) -> Result<Vec<Param>> {
        const SHOWN: usize = 8;
        let mut problems = self.root.problems.take();
        let used = self.root.used.borrow();
        let extra = self.root.names.iter().filter(|n| !used.contains(*n) && !ignore(n));
        problems.extend(extra.map(|n| format!("{n} is not part of this model")));
        if !problems.is_empty() {
            let more = problems.len().saturating_sub(SHOWN);
            let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
            return Err(Error::format(format!(
                "the weights do not fit the config: {}{rest}",
                problems[..problems.len().min(SHOWN)].join("; ")
            )));
        }
        let mut params = self.root.params.take();
        Param::in_order(&params);
        params.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(params)
    }
}
