//! Whole models beside llama.cpp, on the same files and threads, in turns: medians of tokens per second and per
//! CPU-second, of the pairwise ratios, and of the share of this machine's limit, which is measured between them.
//!
//! PUYU=target/release/puyu PUYU_SMOLLM2=SmolLM2-135M-Instruct.Q4_1.gguf cargo bench --bench peers -- [WORD...]
//! WORD: "135M", "Q4_0", "decode" choose rows of the table; model.gguf is measured instead of them.
//! PUYU_LLAMA_CPP is the folder of llama.cpp's programs; without it they are fetched and built in build/peers.
//! PUYU_PAIRS sets the number of pairs (default 7), PUYU_THREADS the threads (default 2).

use puyu_benches::llama_cpp::{internlm2_1_8b, llama_cpp, smollm2};
use puyu_benches::{from_root, number, output, program};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is measured, and the ratio it should reach (or 90 % of the machine's limit; decode of 1.8B should reach
/// both the ratio and 95 %).
struct Row {
    model: &'static str,
    format: &'static str,
    work: Work,
    compute: &'static str,
    wanted: f64,
}

#[derive(Clone, Copy)]
enum Work {
    Prefill(usize),
    /// 128 tokens after so many.
    Decode(usize),
    /// 128 tokens of so many sequences together.
    Together(usize),
    /// A process from its start to its end, with one token after a short prompt: starts per second.
    Start,
    /// 128 tokens while another process keeps one core busy; its peer is puyu undisturbed.
    Disturbed,
}

const DECODED: usize = 128;

const fn row(
    model: &'static str,
    format: &'static str,
    work: Work,
    compute: &'static str,
    wanted: f64,
) -> Row {
    Row { model, format, work, compute, wanted }
}

use Work::{Decode, Disturbed, Prefill, Start, Together};
const TABLE: [Row; 21] = [
    row("135M", "Q4_0", Decode(0), "fast", 1.5),
    row("135M", "Q4_1", Decode(0), "fast", 2.0),
    row("135M", "Q8_0", Decode(0), "fast", 1.75),
    row("135M", "F16", Decode(0), "exact", 1.15),
    row("135M", "Q8_0", Decode(4096), "fast", 2.0),
    row("135M", "Q4_0", Prefill(512), "fast", 2.0),
    row("135M", "Q4_1", Prefill(512), "fast", 4.5),
    row("135M", "Q8_0", Prefill(512), "fast", 2.3),
    row("135M", "F16", Prefill(512), "exact", 1.3),
    row("135M", "F16", Prefill(512), "fast", 2.2),
    row("135M", "Q8_0", Prefill(4096), "fast", 2.0),
    row("135M", "Q4_0", Together(16), "fast", 2.0),
    row("135M", "Q8_0", Together(16), "fast", 2.5),
    row("1.8B", "Q4_0", Decode(0), "fast", 1.0),
    row("1.8B", "Q4_0", Prefill(512), "fast", 1.9),
    row("1.8B", "Q8_0", Decode(0), "fast", 1.0),
    row("1.8B", "Q8_0", Prefill(512), "fast", 2.4),
    row("1.8B", "Q4_K_M", Decode(0), "fast", 1.0),
    row("1.8B", "Q4_K_M", Prefill(512), "fast", 1.5),
    row("135M", "Q8_0", Start, "fast", 1.0),
    row("135M", "Q8_0", Disturbed, "fast", 0.45),
];

impl Work {
    /// llama-bench's flags, which are puyu's; how many sequences is a flag of its own.
    fn flags(self) -> Vec<String> {
        let [p, n, d] = match self {
            Prefill(n) => [n, 0, 0],
            Decode(depth) => [0, DECODED, depth],
            _ => [0, DECODED, 0],
        };
        [["-p".into(), p.to_string()], ["-n".into(), n.to_string()], ["-d".into(), d.to_string()]]
            .concat()
    }

    fn tokens(self) -> usize {
        match self {
            Prefill(n) => n,
            Decode(_) | Disturbed => DECODED,
            Together(n) => n * DECODED,
            Start => 1,
        }
    }

    fn name(self) -> String {
        match self {
            Prefill(n) => format!("prefill {n}"),
            Decode(0) => format!("decode {DECODED}"),
            Decode(depth) => format!("decode {DECODED} at {depth}"),
            Together(n) => format!("decode {DECODED} x {n}"),
            Start => "start to first token, 1/s".into(),
            Disturbed => format!("decode {DECODED} disturbed, and not"),
        }
    }
}

/// Tokens per wall second and per CPU-second of one run.
#[derive(Clone, Copy)]
struct Speed {
    wall: f64,
    cpu: Option<f64>,
    /// Peak resident bytes, where they were asked for.
    memory: Option<f64>,
}

/// CPU-seconds that ended child processes of this one have used (Linux only).
fn children_cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The fields after the command name, which may hold spaces; cutime and cstime are 16 and 17.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields.get(13)?.parse::<f64>().ok()? + fields.get(14)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// The first JSON value among what a program printed.
fn json(command: &mut Command) -> Value {
    let printed = output(command).stdout;
    let text = String::from_utf8_lossy(&printed);
    let from = text.find(['{', '[']).unwrap_or(0);
    let mut values = serde_json::Deserializer::from_str(&text[from..]).into_iter();
    values.next().and_then(Result::ok).unwrap_or_else(|| panic!("no JSON in {text}"))
}

/// Runs `command` with `extra` and llama-bench's flags.
fn run(command: &mut Command, extra: &[&str], model: &Path, work: Work, threads: usize) -> Speed {
    command.args(extra).arg("-m").arg(model).args(work.flags());
    command.args(["-t", &threads.to_string(), "-r", "1", "-o", "json"]);
    speed(command, work, "avg_ts")
}

/// Runs llama-batched-bench, which decodes after a prompt of one token.
fn run_batched(model: &Path, sequences: usize, threads: usize) -> Speed {
    let mut command = Command::new(llama_cpp("llama-batched-bench"));
    let context = (sequences * (DECODED + 1)).to_string();
    command.arg("-m").arg(model).args(["-c", &context, "-npp", "1", "-ntg", &DECODED.to_string()]);
    command.args(["-npl", &sequences.to_string(), "-t", &threads.to_string()]);
    speed(command.args(["--output-format", "jsonl"]), Together(sequences), "speed_tg")
}

/// Runs `command`, whose JSON has the tokens per second as `key`.
fn speed(command: &mut Command, work: Work, key: &str) -> Speed {
    let before = children_cpu_seconds();
    let printed = json(command);
    let cpu = before.zip(children_cpu_seconds()).map(|(a, b)| work.tokens() as f64 / (b - a));
    let row = printed.get(0).unwrap_or(&printed);
    let wall = row[key].as_f64().unwrap_or_else(|| panic!("no {key}: {printed}"));
    Speed { wall, cpu, memory: None }
}

/// Runs `command` to its end, and asks for its peak memory meanwhile (Linux only).
fn run_whole(command: &mut Command) -> Speed {
    let (before, start) = (children_cpu_seconds(), Instant::now());
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", command.get_program().display()));
    let status = format!("/proc/{}/status", child.id());
    let mut memory = None;
    let ended = loop {
        if let Some(ended) = child.try_wait().expect("a child can be waited for") {
            break ended;
        }
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kib = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        memory = kib.and_then(|kib| Some(1024.0 * kib.parse::<f64>().ok()?)).or(memory);
        std::thread::sleep(Duration::from_micros(500));
    };
    assert!(ended.success(), "{} failed", command.get_program().display());
    let seconds = start.elapsed().as_secs_f64();
    let cpu = before.zip(children_cpu_seconds()).map(|(a, b)| 1.0 / (b - a));
    Speed { wall: 1.0 / seconds, cpu, memory }
}

/// What one token takes: bytes that are read for it alone, and operations of its products.
struct Cost {
    bytes: f64,
    operations: f64,
    /// Operations of the head, which a prefill needs for its last token alone.
    head: f64,
    blocks: bool,
}

impl Cost {
    /// Of a decoded token after `depth` others, and of one of many in a prefill.
    fn of(puyu: &Path, model: &Path, depth: usize) -> Self {
        let file = json(Command::new(puyu).arg("inspect").arg(model).args(["--tensors", "--json"]));
        let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("no number: {file}"));
        let tied = file["config"]["tie_word_embeddings"] == true;
        let mut cost = Self { bytes: 0.0, operations: 0.0, head: 0.0, blocks: false };
        for tensor in file["tensors"].as_array().into_iter().flatten() {
            let kind = &file["types"][tensor["type"].as_str().unwrap_or_default()];
            let shape = tensor["shape"].as_array().into_iter().flatten().map(number);
            let elements: f64 = shape.product();
            let bytes = elements * number(&kind["bytes"]) / number(&kind["elements"]);
            let name = tensor["name"].as_str().unwrap_or_default();
            if name != "token_embd.weight" || tied {
                cost.bytes += bytes;
            }
            if name == if tied { "token_embd.weight" } else { "output.weight" } {
                cost.head += 2.0 * elements;
            }
            if name.starts_with("blk.") {
                cost.operations += 2.0 * elements;
                cost.blocks |= bytes < 2.0 * elements;
            }
        }
        cost.bytes += depth as f64 * number(&file["kv_bytes_per_token_f16"]);
        cost
    }

    /// Tokens per second at most, by the ceilings that `puyu bench --limits` has measured.
    fn limit(&self, work: Work, compute: &str, limits: &Value) -> f64 {
        let ceiling = |name: &str| limits[0][name].as_f64().unwrap_or(f64::NAN);
        match work {
            Decode(_) | Disturbed => 1e9 * ceiling("read_gb_s") / self.bytes,
            Start => f64::NAN,
            // Weights are read once for all of them.
            Together(n) => {
                let read = 1e9 * ceiling("read_gb_s") / self.bytes * n as f64;
                read.min(1e9 * ceiling("i8_gop_s") / (self.operations + self.head))
            }
            Prefill(_) if self.blocks => 1e9 * ceiling("i8_gop_s") / self.operations,
            Prefill(_) => {
                // NaN where the CPU has no products of BF16.
                let bf16 = if compute == "fast" { ceiling("bf16_gflop_s") } else { f64::NAN };
                1e9 * ceiling("f32_gflop_s").max(bf16) / self.operations
            }
        }
    }
}

/// The middle value; NaN if there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures one row and prints it.
fn measure(name: &str, model: &Path, work: Work, compute: &str, wanted: Option<f64>) {
    let puyu = program("PUYU").unwrap_or_else(|| "puyu".into());
    let (pairs, threads) = (number("PUYU_PAIRS", 7), number("PUYU_THREADS", 2));
    let peer = llama_cpp("llama-bench");
    let depth = if let Decode(depth) = work { depth } else { 0 };
    let cost = Cost::of(&puyu, model, depth);
    let decode = |extra: &[&str]| {
        let mut ours = Command::new(&puyu);
        run(&mut ours, &[&["bench", "--compute", compute], extra].concat(), model, work, threads)
    };
    let one = |_| {
        let (ours, theirs) = match work {
            Together(n) => {
                (decode(&["--n-parallel", &n.to_string()]), run_batched(model, n, threads))
            }
            Start => {
                let threads = threads.to_string();
                let flags = ["-p", "Once upon a time", "-n", "1", "-t", &threads, "-m"];
                let mut ours = Command::new(&puyu);
                ours.arg("generate").args(flags).arg(model);
                let mut theirs = Command::new(llama_cpp("llama-completion"));
                theirs.args(["-no-cnv", "--no-warmup"]).args(flags).arg(model);
                (run_whole(&mut ours), run_whole(&mut theirs))
            }
            Disturbed => {
                let alone = decode(&[]);
                let this = std::env::current_exe().expect("a program knows where it lies");
                let mut busy = Command::new(this).arg(BUSY).spawn().expect("it can run again");
                let ours = decode(&[]);
                busy.kill().and_then(|()| busy.wait()).expect("it runs until it is killed");
                (ours, alone)
            }
            _ => (decode(&[]), run(&mut Command::new(&peer), &[], model, work, threads)),
        };
        let mut limits = Command::new(&puyu);
        limits.args(["bench", "--limits", "--json", "-t", &threads.to_string()]);
        (ours, theirs, cost.limit(work, compute, &json(&mut limits)))
    };
    let all: Vec<(Speed, Speed, f64)> = (0..pairs).map(one).collect();
    let ratio = median(all.iter().map(|(ours, theirs, _)| ours.wall / theirs.wall));
    let share = median(all.iter().map(|(ours, _, limit)| ours.wall / limit));
    let cpu = |speed: fn(&(Speed, Speed, f64)) -> Speed| {
        median(all.iter().filter_map(|one| speed(one).cpu))
    };
    let memory =
        median(all.iter().filter_map(|(ours, theirs, _)| Some(ours.memory? / theirs.memory?)));
    let verdict = wanted.map_or(String::new(), |wanted| {
        let lean = memory.is_nan() || memory <= 0.6;
        // A large model's decoding is nothing but reading: of it the bandwidth is wanted too.
        let reads = name.starts_with("1.8B") && matches!(work, Decode(_));
        let fast =
            if reads { ratio >= wanted && share >= 0.95 } else { ratio >= wanted || share >= 0.9 };
        let holds = fast && lean;
        format!("{wanted:.2}: {}", if holds { "yes" } else { "no" })
    });
    println!(
        "| {name} | {} | {:.1} | {:.1} | {ratio:.2} | {} | {verdict} | {:.1} | {:.1} |",
        work.name(),
        median(all.iter().map(|one| one.0.wall)),
        median(all.iter().map(|one| one.1.wall)),
        if share.is_nan() { "-".into() } else { format!("{:.0} %", 100.0 * share) },
        cpu(|one| one.0),
        cpu(|one| one.1),
    );
    if !memory.is_nan() {
        println!("{name} {}: peak memory {memory:.2} of llama.cpp's (wanted: 0.60)", work.name());
    }
}

/// The argument with which this program keeps a core busy until it is killed.
const BUSY: &str = "keep-a-core-busy";

fn main() {
    if std::env::args().any(|arg| arg == BUSY) {
        loop {
            std::hint::spin_loop();
        }
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let (files, words): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word.ends_with(".gguf"));
    if program("PUYU").is_none() {
        eprintln!("SKIPPED: set PUYU to the program, built with --release");
        return;
    }
    println!(
        "| model | work | puyu t/s | llama.cpp t/s | ratio | of the limit | wanted | puyu t/CPU-s | llama.cpp t/CPU-s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for file in &files {
        let model: PathBuf = from_root(file.into());
        for work in [Prefill(512), Decode(0)] {
            measure(file, &model, work, "fast", None);
        }
    }
    let named = |row: &&Row| {
        let name = format!("{} {} {} {}", row.model, row.format, row.work.name(), row.compute);
        words.iter().all(|word| name.contains(word))
    };
    for row in TABLE.iter().filter(named).filter(|_| files.is_empty()) {
        let puyu = program("PUYU").expect("it was there before");
        let model = match row.model {
            "135M" => smollm2(&puyu, row.format),
            _ => internlm2_1_8b(row.format),
        };
        let exact = if row.compute == "exact" { " exact" } else { "" };
        let name = format!("{} {}{exact}", row.model, row.format);
        measure(&name, &model, row.work, row.compute, Some(row.wanted));
    }
    println!(
        "{} threads, medians of {} interleaved pairs; CPU-seconds include loading",
        number("PUYU_THREADS", 2),
        number("PUYU_PAIRS", 7)
    );
}
