//! llama.cpp and the models it is measured on, made once under `build/peers`: its source comes in a Python
//! package, which also needs no compiler but the system's.

use crate::{from_root, output, path, program};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package whose source archive holds the whole tree of llama.cpp.
const NAME: &str = "llama-cpp-python";
const PACKAGE: &str = "llama-cpp-python==0.3.36";

/// Where everything lies, so that a second run finds it.
fn folder() -> PathBuf {
    let folder = from_root("build/peers".into());
    std::fs::create_dir_all(&folder).expect("build/ can be written to");
    folder
}

/// A program of llama.cpp: from `PUYU_LLAMA_CPP`, a folder of programs, else built here for this machine.
///
/// # Panics
/// If it cannot be fetched or built, with what pip or cmake said.
pub fn llama_cpp(name: &str) -> PathBuf {
    if let Some(folder) = path("PUYU_LLAMA_CPP") {
        return folder.join(name);
    }
    let build = folder().join("llama.cpp");
    let built = build.join("bin").join(name);
    if !built.exists() {
        build_all(&build);
    }
    built
}

/// A Python of our own, with what building and writing models take.
fn python() -> PathBuf {
    let venv = folder().join("python");
    let python = venv.join("bin/python");
    if !python.exists() {
        eprintln!("making {}", venv.display());
        let system = program("PUYU_PYTHON").unwrap_or_else(|| "python3".into());
        output(Command::new(system).args(["-m", "venv"]).arg(&venv));
        output(
            Command::new(&python).args(["-m", "pip", "install", "-q", "cmake", "gguf", "numpy"]),
        );
    }
    python
}

fn build_all(build: &Path) {
    let (python, sources) = (python(), folder().join("source"));
    if !sources.exists() {
        eprintln!("fetching {PACKAGE}");
        let mut fetch = Command::new(&python);
        fetch.args(["-m", "pip", "download", "-q", "--no-deps", "--no-binary", NAME, PACKAGE]);
        output(fetch.arg("-d").arg(folder()));
        let archive = folder().join("llama_cpp_python-0.3.36.tar.gz");
        std::fs::create_dir_all(&sources).expect("build/ can be written to");
        let mut unpack = Command::new("tar");
        output(unpack.arg("-xzf").arg(archive).arg("-C").arg(&sources).arg("--strip-components=1"));
    }
    eprintln!("building llama.cpp in {}, which takes minutes", build.display());
    let cmake = python.with_file_name("cmake");
    let mut configure = Command::new(&cmake);
    configure.arg("-S").arg(sources.join("vendor/llama.cpp")).arg("-B").arg(build);
    configure.args(["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF"]);
    output(&mut configure);
    let mut make = Command::new(&cmake);
    let programs = ["llama-bench", "llama-batched-bench", "llama-completion", "llama-quantize"];
    make.arg("--build").arg(build).args(["-j", "2", "--target"]).args(programs);
    output(&mut make);
}

/// SmolLM2-135M in `format`, written by puyu from the file in `PUYU_SMOLLM2`.
///
/// # Panics
/// If that file is not named, or puyu fails.
pub fn smollm2(puyu: &Path, format: &str) -> PathBuf {
    let source = path("PUYU_SMOLLM2").expect("PUYU_SMOLLM2 names SmolLM2-135M-Instruct.Q4_1.gguf");
    if format == "Q4_1" {
        return source;
    }
    let file = folder().join(format!("SmolLM2-135M.{format}.gguf"));
    if !file.exists() {
        output(Command::new(puyu).arg("quantize").args([&source, &file]).arg(format));
    }
    file
}

/// InternLM2-1.8B's shape in `format` with random weights, written by the script in `PUYU_SHARED`; Q4_K_M is
/// made of its F16 by llama.cpp.
///
/// # Panics
/// If the script is not there or fails.
pub fn internlm2_1_8b(format: &str) -> PathBuf {
    const SHAPE: [&str; 6] = ["2048", "24", "16", "8", "8192", "92544"];
    let file = folder().join(format!("1.8B.{format}.gguf"));
    if file.exists() {
        return file;
    }
    eprintln!("making {}", file.display());
    if format == "Q4_K_M" {
        let whole = internlm2_1_8b("F16");
        let mut quantize = Command::new(llama_cpp("llama-quantize"));
        output(quantize.args([&whole, &file]).arg(format));
        std::fs::remove_file(whole).expect("what was made here can be removed");
        return file;
    }
    let shared = path("PUYU_SHARED").unwrap_or_else(|| from_root("../shared".into()));
    let mut make = Command::new(python());
    output(make.arg(shared.join("tools/make_bench_gguf.py")).arg(&file).arg(format).args(SHAPE));
    file
}
