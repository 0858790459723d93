//! The seven stops of docs/one_token.md with the numbers of a real token:
//! `cargo run --release -p puyu --example one_token [-- --model FILE]`, by default on the tiny model in
//! the tree.

use puyu::engine::{Engine, LoadOptions, Session};
use puyu_models::Model;
use puyu_nn::{Compute, Ctx, KvCache};
use puyu_tensor::{DType, Error, Op, Result, Tensor, apply1, ops::MatmulTransposed};
use std::path::{Path, PathBuf};

const PROMPT: &str = "The sun rises in the";

fn main() -> Result<()> {
    let options = LoadOptions { compute: Compute::Exact, ..LoadOptions::default() };
    let engine = Engine::open(&model()?, options, &|_, _| ())?;
    let ids = engine.encode(PROMPT, false);

    stop(1, "the generate loop", "pipeline/src/engine/generate.rs");
    let mut session = Session::new(&engine, 64)?;
    let logits = session.feed(&ids, &mut |_, _| true)?;
    let next = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
    println!("{PROMPT:?} is the ids {ids:?}.");
    println!("Of the {} logits after it, that of id {next} is the highest.", logits.len());

    stop(2, "the model", "models/src/model.rs");
    let last = hidden(&*engine.model, &ids)?; // [1, H]

    stop(3, "linear", "nn/src/layers.rs");
    let weight = engine.model.output().weight().clone();
    println!("The head is {}: {}.", weight.name(), weight.get().spec());
    println!("It takes {} and gives a logit for each of its rows.", last.spec());

    stop(4, "attention", "nn/src/attention.rs");
    let c = engine.config();
    let bytes = KvCache::bytes_per_token(c.layers, c.kv_heads, c.head_dim, engine.options.cache);
    println!("{} query heads share {} key heads of {}.", c.heads, c.kv_heads, c.head_dim);
    println!("The cache holds {} tokens, {bytes} bytes each.", session.tokens().len());

    stop(5, "apply", "tensor/src/apply.rs");
    let weight = weight.get();
    let op = || MatmulTransposed { bf16: None };
    let product = apply1(op(), &[&last, &weight]);
    println!("{} of {} and {}", op().name(), last.spec(), weight.spec());
    println!("gives {}.", product.spec());

    stop(6, "matmul on the CPU", "tensor/src/cpu/gemm.rs");
    let row = weight.unpack().narrow(0, next, 1).to_dtype(DType::F32).to_vec::<f32>()?;
    let x = last.to_vec::<f32>()?;
    let by_hand: f32 = x.iter().zip(&row).map(|(x, w)| x * w).sum();
    println!("Row {next} of the head times the hidden state, in a plain loop: {by_hand}");
    println!("The same output of the op: {}", product.to_vec::<f32>()?[next]);

    stop(7, "matmul on the GPU", "shaders/matmul.wgsl");
    let weight = weight.unpack();
    match op().gpu(&[*last.spec(), *weight.spec()], &[*product.spec()]) {
        Some(kernels) => kernels.dispatches.iter().for_each(|d| {
            let [x, y, z] = d.groups;
            println!("A GPU would run {}.wgsl with {x} x {y} x {z} workgroups.", d.shader.name);
        }),
        None => println!("There is no kernel for {}.", weight.spec()),
    }

    let text = engine.tokenizer.decode(&[next as u32], false);
    println!("\nAnd so {PROMPT:?} is followed by {text:?}.");
    Ok(())
}

/// The normalized hidden state `[1, H]` of the last token, printing what passes by.
fn hidden(model: &dyn Model, ids: &[u32]) -> Result<Tensor> {
    let mut failed = None;
    let mut show = |name: &str, x: &Tensor| match x.square().sum_all().item() {
        Ok(sum) => {
            let rms = (sum / x.spec().numel() as f32).sqrt();
            println!("{name:<12} {:<20} root mean square {rms:.3}", x.spec().to_string());
        }
        Err(e) => failed = Some(e),
    };
    let mut ctx = Ctx::packed(&[ids.len()]);
    ctx.observer = Some(&mut show);
    ctx.logit_rows = Some(Tensor::new(&[ids.len() as u32 - 1], [1]));
    let last = model.hidden(&Tensor::new(ids, [ids.len()]), &mut ctx);
    drop(ctx);
    failed.map_or(Ok(last), Err)
}

fn stop(number: usize, what: &str, file: &str) {
    println!("\n{number}. {what} ({file})");
}

/// What follows `--model`, or the tiny InternLM2 that the tests run.
fn model() -> Result<PathBuf> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match &args[..] {
        [] => Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/internlm2")),
        [flag, path] if flag == "--model" || flag == "-m" => Ok(path.into()),
        _ => Err(Error::invalid("usage: one_token [--model FILE]")),
    }
}
