//! The project's own rules, held by reading its files: sizes, headers, nothing unfinished, which crate
//! may depend on what, where `unsafe` may be, and documents that agree with each other and with the
//! tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root is above").to_path_buf()
}

/// A text file of the project.
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn is_test(&self) -> bool {
        ["tests/", "benches/", "fuzz/"].iter().any(|folder| self.path.starts_with(folder))
    }

    /// Numbered lines of code and comments before the unit tests, which are at a file's end.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let tested = self.text.find("\n#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        (1..).zip(self.text[..tested].lines())
    }
}

/// Folders that hold what is built, fetched or made elsewhere.
const NOT_OURS: [&str; 6] = ["target", "build", "fixtures", ".git", "corpus", "artifacts"];

/// Every file of the project with one of these endings, in order.
fn files(endings: &[&str]) -> Vec<File> {
    let root = root();
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry of a folder").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if path.is_dir() && !NOT_OURS.contains(&name) {
                folders.push(path);
            } else if path.is_file() && endings.iter().any(|e| name.ends_with(e)) {
                let text = std::fs::read_to_string(&path).expect("a text file");
                let inside = path.strip_prefix(&root).expect("a path below the root");
                let path = inside.to_string_lossy().replace('\\', "/");
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no files end in {endings:?}");
    found
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Fails with all complaints at once.
#[track_caller]
fn none(complaints: impl IntoIterator<Item = String>) {
    let all: Vec<String> = complaints.into_iter().collect();
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn files_are_short() {
    let long = |most: usize| {
        move |f: File| {
            let lines = f.text.lines().count();
            (lines > most).then(|| format!("{} has {lines} lines, more than {most}", f.path))
        }
    };
    none(files(&[".rs", ".wgsl"]).into_iter().filter_map(long(500)));
    none(files(&["ARCHITECTURE.md"]).into_iter().filter_map(long(150)));
    none(files(&["one_token.md", "one_step.md"]).into_iter().filter_map(long(500)));
    none(files(&["plain.rs"]).into_iter().filter_map(long(250)));
}

/// The first lines say what a file is, in a line to eight; what crates are for is said there too.
#[test]
fn files_say_what_they_are() {
    let header = |f: &File, mark: &str| f.text.lines().take_while(|l| l.starts_with(mark)).count();
    let bad = |mark: &'static str| {
        move |f: File| {
            let n = header(&f, mark);
            let fits = (1..=8).contains(&n);
            (!fits).then(|| format!("{} begins with {n} lines of {mark}, not 1 to 8", f.path))
        }
    };
    none(files(&[".rs"]).into_iter().filter_map(bad("//!")));
    none(files(&[".wgsl"]).into_iter().filter_map(bad("//")));
}

/// Marks of unfinished work, spelled in two parts so that this file has none of them.
const UNFINISHED: [&str; 9] = [
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("place", "holder"),
    concat!("for", " now"),
    concat!("not implemented", " yet"),
];

#[test]
fn nothing_is_unfinished() {
    none(files(&[".rs", ".wgsl", ".toml"]).iter().flat_map(|f| {
        (1..).zip(f.text.lines()).filter_map(|(n, line)| {
            let mark = UNFINISHED.iter().find(|mark| line.contains(**mark))?;
            Some(format!("{}:{n}: {mark}", f.path))
        })
    }));
}

/// A formula of several lines, with its · and δ, is no code.
#[test]
fn comments_hold_no_code() {
    none(files(&[".rs", ".wgsl"]).iter().flat_map(|f| {
        (1..).zip(f.text.lines()).filter_map(|(n, line)| {
            let comment = line.trim_start().strip_prefix("// ")?;
            let code = comment.ends_with(';') || comment.ends_with(" {") || comment == "}";
            (code && comment.is_ascii())
                .then(|| format!("{}:{n}: code in a comment: {comment}", f.path))
        })
    }));
}

/// Outside tests, an error of the world is returned, and an invariant says why it holds.
#[test]
fn nothing_is_unwrapped() {
    let code = files(&[".rs"]).into_iter().filter(|f| !f.is_test()).collect::<Vec<_>>();
    none(code.iter().flat_map(|f| {
        f.lines().filter_map(|(n, line)| {
            let line = line.trim_start();
            let bad = !line.starts_with("//")
                && [".unwrap()", ".unwrap_err()", ".expect(\"\")"].iter().any(|m| line.contains(m));
            bad.then(|| format!("{}:{n}: {line}", f.path))
        })
    }));
}

#[test]
fn ignored_tests_say_why() {
    none(files(&[".rs"]).iter().flat_map(|f| {
        (1..).zip(f.text.lines()).filter_map(|(n, line)| {
            let bad = line.trim() == concat!("#[ig", "nore]");
            bad.then(|| format!("{}:{n}: an ignored test without a reason", f.path))
        })
    }));
}

/// Where `unsafe` may be: files, and folders ending in `/`.
const UNSAFE: [(&str, &str); 10] = [
    ("tensor/src/cpu/", "SIMD, and the pool that runs kernels on threads"),
    ("tensor/src/gpu/", "byte casts of what a GPU reads and writes"),
    ("tensor/src/storage.rs", "aligned memory and memory maps"),
    ("tensor/src/ops/attention.rs", "jobs write disjoint parts of one output"),
    ("tensor/src/ops/attention_grad.rs", "jobs write disjoint parts of one output"),
    ("tensor/src/ops/kv_write.rs", "jobs write disjoint parts of one output"),
    ("tensor/src/ops/paged_attention.rs", "jobs write disjoint parts of one output"),
    ("tensor/src/ops/copy.rs", "jobs write disjoint parts of one output"),
    ("tests/src/memory.rs", "an allocator that counts"),
    ("benches/", "measures what is unsafe"),
];

#[test]
fn unsafe_is_where_it_may_be() {
    none(files(&[".rs"]).into_iter().filter_map(|f| {
        let marks = [concat!("unsafe", " {"), concat!("unsafe", " fn"), concat!("unsafe", " impl")];
        let found = marks.iter().any(|m| f.text.contains(m));
        let may = UNSAFE.iter().any(|(place, _)| f.path.starts_with(place));
        (found && !may).then(|| format!("{} is unsafe, and is not on the list", f.path))
    }));
    let safe = ["shaders", "autograd", "nn", "models", "pipeline"];
    none(safe.iter().filter_map(|c| {
        let forbids = read(&format!("{c}/src/lib.rs")).contains("#![forbid(unsafe_code)]");
        (!forbids).then(|| format!("{c} does not forbid unsafe code"))
    }));
}

/// Names of the dependencies in each section of a Cargo.toml, the section's last word being the key.
fn dependencies(path: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in read(path).lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_matches(['[', ']']);
            section = name.rsplit('.').next().unwrap_or_default().to_owned();
        } else if section.ends_with("dependencies") && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                found.entry(section.clone()).or_default().insert(name.to_owned());
            }
        }
    }
    found
}

/// The crates from the bottom up; each may depend on those before it.
const CRATES: [&str; 6] = ["shaders", "tensor", "autograd", "nn", "models", "pipeline"];

/// What each crate may use without a line in ARCHITECTURE.md; those above may use it too.
const THIRD_PARTY: [(&str, &[&str]); 3] = [
    ("shaders", &[]),
    ("tensor", &["wgpu", "bytemuck", "rayon", "memmap2", "half", "rand"]),
    ("models", &["serde", "serde_json", "safetensors", "minijinja", "fancy-regex"]),
];

/// What pipeline may use besides.
const PIPELINE: [&str; 11] = [
    "clap",
    "indicatif",
    "tracing",
    "axum",
    "tokio",
    "llguidance",
    "hf-hub",
    "ureq",
    "tempfile",
    "toml",
    "mpi",
];

#[test]
fn crates_depend_only_downwards() {
    let architecture = read("ARCHITECTURE.md");
    let explained = |name: &str| architecture.contains(&format!("- `{name}`"));
    let mut allowed: BTreeSet<String> = BTreeSet::new();
    let mut complaints = Vec::new();
    for name in CRATES {
        let own = THIRD_PARTY.iter().filter(|(c, _)| *c == name).flat_map(|(_, names)| *names);
        allowed.extend(own.map(|n| n.to_string()));
        if name == "pipeline" {
            allowed.extend(PIPELINE.map(str::to_owned));
        }
        let used = dependencies(&format!("{name}/Cargo.toml"));
        for dependency in used.get("dependencies").into_iter().flatten() {
            let ours = dependency.starts_with("puyu");
            if !allowed.contains(dependency) && (ours || !explained(dependency)) {
                complaints.push(format!(
                    "{name} uses {dependency}, which is above it or has no line in ARCHITECTURE.md"
                ));
            }
        }
        allowed.insert(format!("puyu-{name}"));
    }
    none(complaints);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let crates = CRATES.iter().chain(&["tests", "benches"]);
    none(crates.filter_map(|name| {
        let takes = read(&format!("{name}/Cargo.toml")).contains("[lints]\nworkspace = true");
        (!takes).then(|| format!("{name}/Cargo.toml does not take the workspace's lints"))
    }));
}

/// An unlisted test never runs, and all is green.
#[test]
fn tests_and_benches_are_listed() {
    for folder in ["tests", "benches"] {
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let mut listed: BTreeSet<String> = manifest
            .lines()
            .filter_map(|l| l.strip_prefix("path = \"")?.strip_suffix(".rs\""))
            .filter(|path| *path != "src/lib")
            .map(|path| format!("{folder}/{path}.rs"))
            .collect();
        // Tests of the command are listed by its own package, which alone finds the binary, and those of
        // kernels by theirs.
        let others = read("pipeline/Cargo.toml") + &read("tensor/Cargo.toml");
        let paths =
            others.lines().filter_map(|l| l.strip_prefix("path = \"../")?.strip_suffix('"'));
        listed.extend(paths.filter(|p| p.starts_with(folder)).map(str::to_owned));
        let inside = |f: File| {
            let name = f.path.strip_prefix(&format!("{folder}/"))?;
            (!name.contains('/')).then_some(f.path.clone())
        };
        let found: BTreeSet<String> = files(&[".rs"]).into_iter().filter_map(inside).collect();
        assert_eq!(found, listed, "files of {folder} and the list in its Cargo.toml");
    }
}

/// The headings' levels, and the lines of code that are commands.
fn outline(text: &str) -> (Vec<usize>, Vec<&str>) {
    let (mut levels, mut commands, mut fence) = (Vec::new(), Vec::new(), None);
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(kind) };
        } else if fence == Some("sh") {
            commands.push(line);
        } else if fence.is_none() && line.starts_with('#') {
            levels.push(line.bytes().take_while(|b| *b == b'#').count());
        }
    }
    (levels, commands)
}

#[test]
fn both_readmes_say_the_same() {
    let (english, chinese) = (read("README.md"), read("README.zh-CN.md"));
    let ((levels, commands), (levels_zh, commands_zh)) = (outline(&english), outline(&chinese));
    assert_eq!(levels, levels_zh, "levels of the headings");
    assert_eq!(commands, commands_zh, "commands");
    assert!(!commands.is_empty(), "the README has no commands");
    let rows = |text: &str| text.lines().filter(|l| l.starts_with('|')).count();
    assert_eq!(rows(&english), rows(&chinese), "rows of tables");
    let links = |text: &str| text.matches("](").count();
    assert_eq!(links(&english), links(&chinese), "links");
}

/// Files that the documents name in code quotes, with a folder, exist.
#[test]
fn documents_name_files_that_exist() {
    let endings = [".rs", ".wgsl", ".md", ".toml", "/"];
    none(files(&[".md"]).into_iter().flat_map(|f| {
        let odd = f.text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        odd.into_iter().filter_map(move |quoted| {
            let path = quoted.contains('/')
                && endings.iter().any(|e| quoted.ends_with(e))
                && !quoted.contains(['<', '>', '{', '*', ' ', '~', '$', '\n', '[']);
            let gone = path && !root().join(&quoted).exists();
            gone.then(|| format!("{} names {quoted}, which is not there", f.path))
        })
    }));
}

#[test]
fn the_tour_is_short_and_true() {
    ["docs/one_token.md", "docs/one_step.md"].iter().for_each(|tour| check_tour(tour));
}

/// A tour's stops, lines of "Read: `file`, `function`, ...", are in the tree, and together short.
fn check_tour(tour: &str) {
    let mut total = 0;
    let text = read(tour);
    for line in text.lines().filter_map(|l| l.strip_prefix("Read: ")) {
        let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let (path, functions) = quoted.split_first().expect("a stop names a file");
        let source = read(path);
        for function in functions {
            total += length_of(&source, function)
                .unwrap_or_else(|| panic!("{path} has no function {function}"));
        }
        if functions.is_empty() {
            total += source.lines().count();
        }
    }
    assert!(total > 0, "{tour} has no stops");
    assert!(total <= 500, "{tour} is {total} lines, more than 500");
}

/// Lines of a function, `name` or `Type::name`, from its first line to the brace that closes it.
fn length_of(source: &str, function: &str) -> Option<usize> {
    let (owner, name) = function.split_once("::").unwrap_or(("", function));
    let inside = |line: &&str| {
        let heads = ["impl", "trait", "pub trait"].iter().any(|head| line.starts_with(head));
        heads && line.split(|c: char| !c.is_alphanumeric()).any(|word| word == owner)
    };
    let heads = [format!("fn {name}("), format!("fn {name}<")];
    let named = |line: &&str| heads.iter().any(|head| line.contains(head));
    let mut lines = source.lines().skip_while(|l| !owner.is_empty() && !inside(l));
    let first = lines.find(named)?;
    let indent = &first[..first.len() - first.trim_start().len()];
    let end = format!("{indent}}}");
    Some(2 + lines.take_while(|l| *l != end).count())
}
