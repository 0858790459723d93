//! Getting models, against a local server that speaks both hubs and fails in every way a hub does.
//!
//! What needs its own environment or its own death runs as a child: this program again, with one test.

use std::fs;
use std::path::Path;
use std::time::Duration;

use puyu::hub::{self, Hub, HubKind, ModelName};

#[path = "hub/faults.rs"]
mod faults;
#[path = "hub/server.rs"]
mod server;
#[path = "hub/setup.rs"]
mod setup;
use server::COMMIT;
use setup::{CHILD, REPO, Setup, contains, said};

/// Not a test by itself: the command line that a test runs in a process of its own.
#[test]
fn child() {
    use clap::{Args as _, FromArgMatches as _};
    use puyu::hub::cli::{ListArgs, PullArgs, RmArgs};
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let matches = clap::Command::new("puyu")
        .subcommand(PullArgs::augment_args(clap::Command::new("pull")))
        .subcommand(ListArgs::augment_args(clap::Command::new("list")))
        .subcommand(RmArgs::augment_args(clap::Command::new("rm")))
        .get_matches_from(std::iter::once("puyu").chain(arguments.split('\n')));
    let result = match matches.subcommand().unwrap() {
        ("pull", m) => PullArgs::from_arg_matches(m).unwrap().run(),
        ("list", m) => ListArgs::from_arg_matches(m).unwrap().run(),
        (_, m) => RmArgs::from_arg_matches(m).unwrap().run(),
    };
    if let Err(error) = result {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

#[test]
fn files_lie_as_other_tools_lay_them() {
    let s = Setup::folder();
    let snapshot = s.pull(REPO).unwrap();
    assert_eq!(snapshot, s.repo().join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(s.repo().join("refs/main")).unwrap(), COMMIT);
    for file in &s.server.state().files {
        let place = snapshot.join(&file.path);
        if file.path == "README.md" {
            assert!(!place.exists(), "files that no model needs stay where they are");
            continue;
        }
        assert_eq!(fs::read(&place).unwrap(), file.bytes, "{}", file.path);
        if cfg!(unix) {
            let target = Path::new("../../blobs").join(file.blob());
            assert_eq!(fs::read_link(&place).unwrap(), target, "{}", file.path);
        }
    }
    let blobs = fs::read_dir(s.repo().join("blobs")).unwrap().count();
    assert_eq!(blobs, 7, "no partial file is left");
    let name = ModelName::parse(REPO).unwrap();
    assert_eq!(hub::resolve_in(&s.hub.cache, &name, None).unwrap(), snapshot);
}

#[test]
fn nothing_is_fetched_twice() {
    let s = Setup::folder();
    s.pull(REPO).unwrap();
    s.server.log();
    s.pull(REPO).unwrap();
    assert!(s.server.log().iter().all(|r| r.path.starts_with("/api/")), "listings only");
    // Another hub has the same large files, and names them by the same hash.
    let hub = Hub { kind: HubKind::ModelScope, ..s.hub.clone() };
    let path = hub::pull(&hub, &ModelName::parse(REPO).unwrap(), None).unwrap();
    assert_ne!(path.file_name().unwrap(), COMMIT);
    let log = s.server.log();
    assert!(!log.iter().any(|r| r.network), "{log:?}");
    assert!(
        log.iter()
            .any(|r| r.path.contains("Shanghai_AI_Laboratory/tiny/resolve/master/config.json"))
    );
}

#[test]
fn modelscope_alone() {
    let mut s = Setup::folder();
    s.hub.kind = HubKind::ModelScope;
    s.hub.token = Some("ms-secret".to_string());
    let path = s.pull(REPO).unwrap();
    assert_eq!(fs::read(path.join("tokenizer.model")).unwrap(), s.server.state().files[5].bytes);
    for request in s.server.log() {
        assert_eq!(request.token.is_some(), !request.network, "{request:?}");
    }
    let name = ModelName::parse(REPO).unwrap();
    assert_eq!(hub::resolve_in(&s.hub.cache, &name, None).unwrap(), path);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let mut s = Setup::folder();
    s.hub.token = Some("hf_secret".to_string());
    s.pull(REPO).unwrap();
    let log = s.server.log();
    assert!(log.iter().any(|r| r.network) && log.iter().any(|r| !r.network));
    for request in log {
        let expected = (!request.network).then(|| "Bearer hf_secret".to_string());
        assert_eq!(request.token, expected, "{request:?}");
    }
}

#[test]
fn a_revision_is_kept_apart() {
    let s = Setup::folder();
    let name = ModelName::parse(REPO).unwrap();
    let path = hub::pull(&s.hub, &name, Some("refs/pr/1")).unwrap();
    assert_eq!(fs::read_to_string(s.repo().join("refs/refs/pr/1")).unwrap(), COMMIT);
    assert_eq!(hub::resolve_in(&s.hub.cache, &name, Some("refs/pr/1")).unwrap(), path);
    assert!(!s.repo().join("refs/main").exists());
    for bad in ["../x", "/x", "a b", ""] {
        contains(
            &hub::pull(&s.hub, &name, Some(bad)).unwrap_err().to_string(),
            &["is no revision"],
        );
    }
}

#[test]
fn two_at_once_fetch_one_file_once() {
    let s = Setup::one(300_000);
    s.server.state().slow = Some(Duration::from_millis(5));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| s.pull(REPO).unwrap());
        }
    });
    assert_eq!(s.ranges(), [None]);
}

#[test]
fn a_quantization_picks_its_files() {
    let s = Setup::quants();
    let path = s.pull("internlm/tiny:Q8_0").unwrap();
    assert_eq!(path.file_name().unwrap(), "tiny-q8_0-00001-of-00002.gguf");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    contains(
        &s.refused("internlm/tiny:Q5_0"),
        &["several files", "tiny-q5_0.gguf, other-q5_0.gguf"],
    );
    s.pull("internlm/tiny:other-q5_0.gguf").unwrap();
    contains(
        &s.refused("internlm/tiny:Q2_K"),
        &["internlm/tiny: there is no `Q2_K`; there are Q8_0, Q4_K_M, Q5_0"],
    );
    let (good, text) = s.run(&["pull", REPO]);
    assert!(good, "{text}");
    contains(&text, &["taking Q4_K_M", "tiny-q4_k_m.gguf\n"]);
    let name = ModelName::parse("internlm/tiny:q4_K_m").unwrap();
    assert!(hub::resolve_in(&s.hub.cache, &name, None).unwrap().ends_with("tiny-q4_k_m.gguf"));
}

#[test]
fn a_model_of_which_a_part_is_missing_is_not_found() {
    let s = Setup::folder();
    let snapshot = s.pull(REPO).unwrap();
    fs::remove_file(snapshot.join("model-00002-of-00002.safetensors")).unwrap();
    let name = ModelName::parse(REPO).unwrap();
    let text = hub::resolve_in(&s.hub.cache, &name, None).unwrap_err().to_string();
    contains(&text, &["model-00002-of-00002.safetensors", "missing", "puyu pull internlm/tiny"]);
    s.pull(REPO).unwrap();
    hub::resolve_in(&s.hub.cache, &name, None).unwrap();
}

#[test]
fn list_shows_what_is_there() {
    let s = Setup::quants();
    contains(&s.run(&["list"]).1, &["no models in"]);
    s.pull("internlm/tiny:Q8_0").unwrap();
    s.pull("internlm/tiny:Q4_K_M").unwrap();
    let (_, text) = s.run(&["list"]);
    contains(
        &text,
        &[
            "NAME",
            "internlm/tiny  Q4_K_M  main      700 B",
            "internlm/tiny  Q8_0    main      1.10 kB",
            "ago",
        ],
    );
    let (_, text) = s.run(&["list", "--json"]);
    let json: serde_json::Value =
        serde_json::from_str(&text[text.find("[\n").unwrap()..=text.rfind(']').unwrap()]).unwrap();
    assert_eq!((&json[0]["quant"], &json[0]["size"]), (&"Q4_K_M".into(), &700.into()));
    assert!(Path::new(json[1]["path"].as_str().unwrap()).exists());
}

#[test]
fn rm_takes_only_what_nothing_else_uses() {
    let s = Setup::quants();
    s.pull("internlm/tiny:Q8_0").unwrap();
    s.pull("internlm/tiny:Q4_K_M").unwrap();
    // A second snapshot, as another commit would leave it, shares the Q4_K_M blob.
    let second = s.repo().join("snapshots/second");
    fs::create_dir(&second).unwrap();
    let first = s.repo().join("snapshots").join(COMMIT).join("tiny-q4_k_m.gguf");
    #[cfg(unix)]
    std::os::unix::fs::symlink(fs::read_link(&first).unwrap(), second.join("tiny-q4_k_m.gguf"))
        .unwrap();
    let name = |text: &str| ModelName::parse(text).unwrap();
    let removed = hub::remove(&s.hub.cache, &name("internlm/tiny:q4_k_m"), Some("main")).unwrap();
    assert_eq!((removed.files, removed.bytes), (1, 0));
    assert!(s.blob(2).exists() && !first.exists());
    let (_, text) = s.run(&["rm", "internlm/tiny:Q4_K_M"]);
    contains(&text, &["removed internlm/tiny:Q4_K_M: 1 file, 700 B freed"]);
    assert!(!s.blob(2).exists() && s.blob(0).exists());
    let (_, text) = s.run(&["rm", REPO]);
    // 1100 bytes of weights and the 40 of the ref.
    contains(&text, &["removed internlm/tiny: 2 files, 1.14 kB freed"]);
    assert!(!s.repo().exists());
    let (good, text) = s.run(&["rm", REPO]);
    contains(&text, &["internlm/tiny is not among the models in", "puyu list"]);
    assert!(!good);
    assert!(!s.run(&["rm", "../tiny"]).0);
}

#[test]
#[cfg(unix)]
fn rm_never_leaves_the_cache() {
    use std::os::unix::fs::symlink;
    let s = Setup::quants();
    let path = s.pull("internlm/tiny:Q8_0").unwrap();
    let outside = s.hub.cache.parent().unwrap().join("outside");
    fs::create_dir_all(outside.join("blobs")).unwrap();
    fs::write(outside.join("blobs/mine-q4_0.gguf"), b"mine").unwrap();
    symlink(outside.join("blobs/mine-q4_0.gguf"), path.with_file_name("mine-q4_0.gguf")).unwrap();
    symlink(&outside, path.with_file_name("folder")).unwrap();
    let name = |text: &str| ModelName::parse(text).unwrap();
    hub::remove(&s.hub.cache, &name("internlm/tiny:Q4_0"), None).unwrap();
    hub::remove(&s.hub.cache, &name(REPO), None).unwrap();
    assert!(outside.join("blobs/mine-q4_0.gguf").exists());
    symlink(&outside, s.repo()).unwrap();
    let text = hub::remove(&s.hub.cache, &name(REPO), None).unwrap_err().to_string();
    contains(&text, &["link to another place"]);
}

#[test]
fn offline_uses_no_network() {
    let s = Setup::one(100);
    let (good, text) = s.run(&["pull", REPO, "--offline"]);
    contains(&text, &["offline", "puyu pull internlm/tiny"]);
    assert!(!good && s.server.log().is_empty());
    s.pull(REPO).unwrap();
    s.server.log();
    let (good, text) =
        said(&s.command(&["pull", REPO]).env("HF_HUB_OFFLINE", "1").output().unwrap());
    contains(&text, &["tiny-q8_0.gguf"]);
    assert!(good && s.server.log().is_empty());
}

#[test]
fn the_environment_is_that_of_other_tools() {
    let s = Setup::one(100);
    let home = s.hub.cache.parent().unwrap();
    for (name, value, under) in [
        ("HF_HOME", "a", "a/hub"),
        ("XDG_CACHE_HOME", "b", "b/huggingface/hub"),
        ("UNRELATED", "c", ".cache/huggingface/hub"),
    ] {
        let mut command = s.command(&["pull", REPO, "--hub", "modelscope"]);
        command.env_remove("HF_HUB_CACHE").env(name, home.join(value));
        let (good, text) = said(&command.output().unwrap());
        assert!(
            good && home.join(under).join("models--internlm--tiny/refs/main").exists(),
            "{text}"
        );
    }
    s.server.log();
    fs::write(home.join(".cache/huggingface/token"), "hf_file\n").unwrap();
    s.run(&["pull", REPO]);
    assert_eq!(s.server.log()[0].token.as_deref(), Some("Bearer hf_file"));
}

#[test]
fn proxies_are_used_and_bypassed() {
    let s = Setup::one(100);
    let mut command = s.command(&["pull", REPO]);
    command.env("HF_ENDPOINT", "http://hub.invalid").env("HTTP_PROXY", &s.server.url);
    command.env("NO_PROXY", "127.0.0.1");
    let (good, text) = said(&command.output().unwrap());
    let log = s.server.log();
    assert!(
        good && log.iter().any(|r| r.path.starts_with("CONNECT hub.invalid")),
        "{text} {log:?}"
    );
    assert!(!log.iter().any(|r| r.path.starts_with("CONNECT 127")), "{log:?}");
}
