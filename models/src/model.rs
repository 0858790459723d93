//! What all models have in common, and the loop over their blocks.

use crate::format::{self, OpenOptions, Source};
use crate::{Config, InternLm2, Llama, internlm, internlm3};
use puyu_nn::{Adapter, Attend, Ctx, Embedding, Keys, Linear, Param, Vars, Weights};
use puyu_tensor::ops::pack_all;
use puyu_tensor::{Context, DType, Error, Result, Tensor};
use std::cell::Cell;
use std::path::Path;

/// A decoder: used for inference and for training alike. T tokens of all sequences lie one after
/// another; the context says where each belongs.
pub trait Model: Send + Sync {
    /// Its shape.
    fn config(&self) -> &Config;

    /// ids `[T]` -> `[T, H]`
    fn embed(&self, ids: &Tensor) -> Tensor;

    /// Layer `i`: `[T, H]` -> `[T, H]`
    fn block(&self, i: usize, x: &Tensor, ctx: &mut Ctx) -> Tensor;

    /// The final normalization: `[T, H]` -> `[T, H]`
    fn norm(&self, x: &Tensor) -> Tensor;

    /// The head: logits `[T, H]` -> `[T, V]`, or scores `[T, 1]` of a reward model.
    fn output(&self) -> Head<'_>;

    /// The normalized hidden states of `ids [T]`, of the wanted rows only: `[R, H]`.
    fn hidden(&self, ids: &Tensor, ctx: &mut Ctx) -> Tensor {
        let mut x = self.embed(ids);
        ctx.observe("embed", &x);
        for i in 0..self.config().layers {
            x = self.block(i, &x, ctx);
            ctx.observe(format_args!("layer.{i}"), &x);
        }
        let x = match &ctx.logit_rows {
            Some(rows) => x.gather(rows),
            None => x,
        };
        let x = self.norm(&x);
        ctx.observe("final_norm", &x);
        x
    }

    /// Logits of `ids [T]`, of the wanted rows only: `[R, V]`.
    fn forward(&self, ids: &Tensor, ctx: &mut Ctx) -> Tensor {
        let x = self.hidden(ids, ctx);
        self.output().forward(&x, ctx)
    }

    /// The mean cross-entropy of `targets [T]` (`u32::MAX` is ignored), head included, without ever
    /// holding all logits.
    fn loss(&self, ids: &Tensor, targets: &Tensor, ctx: &mut Ctx) -> Tensor {
        let x = self.hidden(ids, ctx);
        let head = self.output().weight().get();
        let (sum, count) = x.linear_cross_entropy(&head, targets, ctx.learns_in_bf16(&head));
        &sum / &count
    }
}

/// A model's last layer; a tied one is the embedding.
pub enum Head<'a> {
    /// A layer of its own.
    Own(&'a Linear),
    /// The embedding's weight.
    Tied(&'a Embedding),
}

impl Head<'_> {
    /// The weight `[V, H]`.
    pub fn weight(&self) -> &Param {
        match self {
            Self::Own(l) => &l.weight,
            Self::Tied(e) => &e.weight,
        }
    }

    /// `[R, H]` -> `[R, V]`
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        Linear { weight: self.weight().clone(), bias: None, lora: None }.forward(x, ctx)
    }
}

/// A loaded model and its parameters in order of their names.
pub struct Loaded {
    /// The model.
    pub model: Box<dyn Model>,
    /// Its parameters.
    pub params: Vec<Param>,
}

impl Loaded {
    /// Lays every matrix out for the CPU's matmul, a few at a time: for inference, where weights never
    /// change. Each mapped file's pages are released as its copy is made. With `floats`, matrices of
    /// floats are rounded to it first.
    pub fn pack(&self, floats: Option<DType>) {
        /// Bytes that are in memory twice, if they are not a file's.
        const TOGETHER: usize = 64 << 20;
        let matrix = |param: &Param| param.get().shape().len() == 2;
        let matrices: Vec<Param> = self.params.iter().filter(|p| matrix(p)).cloned().collect();
        let mut rest = &matrices[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|param| {
                bytes += param.get().spec().bytes();
                bytes <= TOGETHER
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            let values: Vec<Tensor> = now.iter().map(Param::get).collect();
            for (param, packed) in now.iter().zip(pack_all(&values, floats)) {
                param.set(packed);
            }
            rest = later;
        }
    }
}

/// Builds the model of `config` from `weights`. With `dtype`, matrices are cast to it.
///
/// # Errors
/// If the weights do not fit the config: one error with all missing, extra and misshapen names.
pub fn build(config: &Config, weights: &dyn Weights, dtype: Option<DType>) -> Result<Loaded> {
    build_adapted(config, weights, dtype, None)
}

/// As [`build`], with what `adapter` adds to linear layers; its parameters are among the model's.
///
/// # Errors
/// As [`build`], and if the adapter does not fit the model or is on its head.
pub fn build_adapted(
    config: &Config,
    weights: &dyn Weights,
    dtype: Option<DType>,
    adapter: Option<&dyn Adapter>,
) -> Result<Loaded> {
    let vars = Vars::adapted(weights, dtype, adapter);
    let root = vars.clone();
    let c = config.clone();
    let model: Box<dyn Model> = match config.model_type.as_str() {
        "internlm" => Box::new(internlm::new(c, &vars)),
        "internlm2" => Box::new(InternLm2::new(c, &vars)),
        "internlm3" => Box::new(internlm3::new(c, &vars)),
        _ => Box::new(Llama::new(c, &vars, Keys::Rotated)),
    };
    // InternLM-1 and early Llama files carry rope tables, which are recomputed in F32.
    let params = root.finish(|name| name.ends_with("rotary_emb.inv_freq"))?;
    if matches!(model.output(), Head::Own(head) if head.lora.is_some()) {
        return Err(Error::unsupported(
            "an adapter on the model's head; leave it out of the targets",
        ));
    }
    Ok(Loaded { model, params })
}

/// Opens the checkpoint at `path` and builds its model. With `dtype`, matrices are cast to it.
///
/// # Errors
/// If the checkpoint cannot be read, or is of a model that puyu does not run.
pub fn load(path: &Path, options: OpenOptions, dtype: Option<DType>) -> Result<Loaded> {
    let checkpoint = format::open(path, options)?;
    let config = Config::from_json(&checkpoint.config()?).context(path.display())?;
    build(&config, &Stored::new(checkpoint.source(), &|_, _| ()), dtype).context(path.display())
}

/// A checkpoint's tensors as weights, with progress.
pub struct Stored<'a> {
    source: &'a dyn Source,
    done: Cell<usize>,
    total: usize,
    progress: &'a dyn Fn(usize, usize),
}

impl<'a> Stored<'a> {
    /// The tensors of `source`; `progress(done, total)` counts those that were taken.
    pub fn new(source: &'a dyn Source, progress: &'a dyn Fn(usize, usize)) -> Self {
        Self { source, done: Cell::new(0), total: source.names().len(), progress }
    }
}

impl Weights for Stored<'_> {
    fn names(&self) -> Vec<String> {
        self.source.names().into_iter().map(str::to_owned).collect()
    }
    fn get(&self, name: &str) -> Result<Tensor> {
        self.done.set(self.done.get() + 1);
        (self.progress)(self.done.get(), self.total);
        self.source.tensor(name)
    }
}

impl Config {
    /// The constants of this model's attention.
    pub(crate) fn attend(&self, keys: Keys) -> Attend {
        Attend { head_dim: self.head_dim, rope: self.rope, keys }
    }
}
