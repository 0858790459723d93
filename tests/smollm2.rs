//! The real model, SmolLM2-135M-Instruct in Q4_1, against goldens: found through `PUYU_SMOLLM2` and
//! `PUYU_SHARED`, skipped loudly without them.

use puyu::engine::{Engine, LoadOptions, Session};
use puyu_nn::{Compute, Ctx, KvCache, Sequence};
use puyu_tensor::cpu::pool;
use puyu_tensor::{DType, Tensor};
use puyu_tests::{shared, smollm2};
use serde_json::Value;

/// The engine and golden.json.
fn open(compute: Compute) -> Option<(Engine, Value)> {
    let (file, folder) = (smollm2()?, shared("fixtures/smollm2")?);
    let cache = if compute == Compute::Exact { DType::F32 } else { DType::F16 };
    let options = LoadOptions { compute, cache, ..LoadOptions::default() };
    let engine = Engine::open(&file, options, &|_, _| ()).expect("the model loads");
    let text = std::fs::read_to_string(folder.join("golden.json")).expect("golden.json");
    Some((engine, serde_json::from_str(&text).expect("golden.json is JSON")))
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().expect("a list").iter().map(|x| x.as_u64().expect("an id") as u32).collect()
}

fn last_logits(engine: &Engine, ids: &[u32]) -> Vec<f32> {
    let mut session = Session::new(engine, ids.len()).unwrap();
    session.feed(ids, &mut |_, _| true).unwrap()
}

/// The largest difference from the golden's ten largest logits.
fn top10_error(logits: &[f32], golden: &Value) -> f32 {
    let top = golden["f32_top10"].as_array().unwrap();
    let off = top.iter().map(|pair| {
        let id = pair[0].as_u64().unwrap() as usize;
        (logits[id] - pair[1].as_f64().unwrap() as f32).abs()
    });
    off.fold(0.0, f32::max)
}

#[test]
fn exact_logits() {
    let Some((engine, golden)) = open(Compute::Exact) else { return };
    for case in golden["logits"].as_array().unwrap() {
        let error = top10_error(&last_logits(&engine, &ids(&case["ids"])), case);
        assert!(error <= 2e-3, "{}: off by {error}", case["prompt"]);
    }
}

#[test]
fn fast_logits() {
    let Some((engine, golden)) = open(Compute::Fast) else { return };
    let mut worst = 0.0f32;
    for case in golden["logits"].as_array().unwrap() {
        worst = worst.max(top10_error(&last_logits(&engine, &ids(&case["ids"])), case));
    }
    eprintln!("--compute fast moves the ten largest logits by at most {worst}");
    assert!(worst <= 1.5, "off by {worst}");
}

#[test]
fn exact_greedy_ids() {
    let Some((engine, golden)) = open(Compute::Exact) else { return };
    for case in golden["greedy"].as_array().unwrap() {
        let prompt = ids(&case["ids"]);
        let mut session = Session::new(&engine, prompt.len() + 64).unwrap();
        let mut logits = session.feed(&prompt, &mut |_, _| true).unwrap();
        let margins = case["f32_margins"].as_array().unwrap();
        for (step, (want, margin)) in ids(&case["f32_greedy"]).iter().zip(margins).enumerate() {
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            if best as u32 != *want {
                let margin = margin.as_f64().unwrap();
                assert!(margin <= 5e-3, "{}: step {step}: {best}, not {want}", case["user"]);
                break;
            }
            logits = session.push(*want).unwrap().unwrap();
        }
    }
}

/// Total negative log-likelihood of the golden text.
fn total_nll(engine: &Engine, ids: &[u32]) -> f64 {
    let n = ids.len();
    let mut ctx = Ctx::packed(&[n]);
    ctx.compute = engine.options.compute;
    let hidden = engine.model.hidden(&Tensor::new(ids, [n]), &mut ctx);
    let mut total = 0.0;
    for first in (0..n - 1).step_by(100) {
        let rows = 100.min(n - 1 - first);
        let logits = engine.model.output().forward(&hidden.narrow(0, first, rows), &ctx);
        let targets = Tensor::new(&ids[first + 1..first + 1 + rows], [rows]);
        total += f64::from(logits.cross_entropy_sum(&targets).0.item().unwrap());
    }
    total
}

#[test]
fn negative_log_likelihood() {
    let Some((engine, golden)) = open(Compute::Exact) else { return };
    let nll = &golden["nll"];
    let (ids, want) = (ids(&nll["ids_first_1000"]), nll["f32_total_nll"].as_f64().unwrap());
    let exact = total_nll(&engine, &ids);
    assert!((exact - want).abs() <= 0.05, "exact: {exact}, not {want}");
    let Some((engine, _)) = open(Compute::Fast) else { return };
    let fast = total_nll(&engine, &ids);
    eprintln!("--compute fast moves the total by {} from {want}", fast - want);
    assert!((fast - want).abs() <= 0.01 * want, "fast: {fast}, not {want}");
}

/// The same tokens alone and in a ragged batch of eight, prefill and decode, for 1, 2 and 3 threads:
/// the same bits.
#[test]
fn a_batch_and_threads_change_no_bit() {
    for compute in [Compute::Exact, Compute::Fast] {
        let Some((engine, golden)) = open(compute) else { return };
        let text = ids(&golden["nll"]["ids_first_1000"]);
        let prompts: Vec<&[u32]> = (0..8).map(|i| &text[i * 40..][..1 + i * 11 % 70]).collect();
        let alone: Vec<_> = prompts
            .iter()
            .map(|p| pool::with_threads(1, || run(&engine, &[p]).remove(0)))
            .collect();
        for threads in 1..=3 {
            let together = pool::with_threads(threads, || run(&engine, &prompts));
            for (i, (a, b)) in alone.iter().zip(&together).enumerate() {
                let same = a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{compute:?}: sequence {i} with {threads} threads");
            }
        }
    }
}

/// The logits of each prompt's end and of two tokens more, run as one ragged batch.
fn run(engine: &Engine, prompts: &[&[u32]]) -> Vec<Vec<f32>> {
    let c = engine.config();
    let mut cache =
        KvCache::new(c.layers, c.kv_heads, c.head_dim, 4096, engine.options.cache).unwrap();
    let mut sequences: Vec<_> = prompts.iter().map(|p| Sequence::new(p.len())).collect();
    let mut next: Vec<Vec<u32>> = prompts.iter().map(|p| p.to_vec()).collect();
    let mut out = vec![Vec::new(); prompts.len()];
    for step in 0..3 {
        let counts: Vec<_> = next.iter().map(Vec::len).collect();
        let mut ctx = cache.step(&mut sequences.iter_mut().collect::<Vec<_>>(), &counts).unwrap();
        ctx.compute = engine.options.compute;
        let ends = counts.iter().scan(0, |end, n| {
            *end += *n as u32;
            Some(*end - 1)
        });
        let ends: Vec<u32> = ends.collect();
        ctx.logit_rows = Some(Tensor::new(&ends, [ends.len()]));
        let all = next.concat();
        let logits = engine.model.forward(&Tensor::new(&all, [all.len()]), &mut ctx);
        let logits = logits.to_vec::<f32>().unwrap();
        for (out, row) in out.iter_mut().zip(logits.chunks_exact(logits.len() / prompts.len())) {
            out.extend_from_slice(row);
        }
        // Any tokens will do, as long as a prompt is continued alike alone and in the batch.
        next = prompts.iter().map(|p| vec![100 + p.len() as u32 * 7 + step]).collect();
    }
    out
}
