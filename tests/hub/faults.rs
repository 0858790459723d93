//! What a hub, a network and a disk do wrong, one test each: how it ends, and what the user is told.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use puyu::hub::{self, ModelName};

use crate::server::Served;
use crate::setup::{REPO, Setup, contains};

#[test]
fn gated_says_how_to_get_a_token() {
    let mut s = Setup::folder();
    s.server.state().refuse_files = Some((401, "GatedRepo"));
    let text = s.refused(REPO);
    contains(
        &text,
        &["internlm/tiny is gated", "401", "ask for access at", "/settings/tokens", "HF_TOKEN"],
    );
    s.hub.token = Some("hf_secret".to_string());
    s.server.state().refuse_files = Some((403, "GatedRepo"));
    contains(&s.refused(REPO), &["gated", "403", "the token of HF_TOKEN has no access yet"]);
    assert!(!s.refused(REPO).contains("hf_secret"));
    s.server.state().refuse_listing = Some((401, "RepoNotFound"));
    contains(&s.refused(REPO), &["refused internlm/tiny with the token of HF_TOKEN", "401"]);
    s.hub.token = None;
    contains(&s.refused(REPO), &["no public model internlm/tiny", "HF_TOKEN"]);
}

#[test]
fn what_is_not_there_is_named() {
    let s = Setup::folder();
    let text = s.refused("internlm/absent");
    contains(&text, &["no model internlm/absent", "404", "check the name"]);
    let name = ModelName::parse(REPO).unwrap();
    let text = hub::pull(&s.hub, &name, Some("v9")).unwrap_err().to_string();
    contains(&text, &["internlm/tiny has no such revision", "404", "main"]);
    contains(&s.refused("tiny"), &["lacks the organization", "internlm/tiny"]);
    let text = hub::resolve_in(&s.hub.cache, &name, None).unwrap_err().to_string();
    contains(&text, &["puyu pull internlm/tiny"]);
    contains(
        &hub::resolve("./absent.gguf").unwrap_err().to_string(),
        &["no file or folder `./absent.gguf`"],
    );
}

#[test]
fn a_cut_link_is_taken_up_again() {
    let s = Setup::one(200_000);
    s.server.state().cut = [50_000, 0, 100_000].into();
    let path = s.pull(REPO).unwrap();
    assert_eq!(fs::read(path).unwrap(), s.server.state().files[0].bytes);
    let from = |at: &str| Some(format!("bytes={at}-"));
    assert_eq!(s.ranges(), [None, from("50000"), from("50000"), from("150000")]);
}

#[test]
fn a_link_cut_for_good_says_how_to_go_on() {
    let s = Setup::one(200_000);
    s.server.state().cut = [50_000, 0, 0].into();
    let text = s.refused(REPO);
    contains(
        &text,
        &["tiny-q8_0.gguf", "50.00 kB of 200.00 kB", "tried 3 times", "run the same command again"],
    );
    assert_eq!(fs::metadata(s.partial(0)).unwrap().len(), 50_000);
    s.ranges();
    s.pull(REPO).unwrap();
    assert_eq!(s.ranges(), [Some("bytes=50000-".to_string())]);
}

#[test]
fn a_silent_server_is_given_up() {
    let mut s = Setup::one(100_000);
    s.hub.stall = Duration::from_millis(200);
    s.server.state().stalls = true;
    s.pull(REPO).unwrap();
    assert_eq!(s.ranges(), [None, Some("bytes=16384-".to_string())]);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let s = Setup::one(1_000);
    s.server.state().next = [503, 429].into();
    s.pull(REPO).unwrap();
    s.server.state().next = [503; 9].into();
    contains(&s.refused(REPO), &["503", "tried 3 times"]);
}

#[test]
fn a_refused_range_starts_from_zero() {
    let s = Setup::one(100_000);
    s.server.state().cut = [40_000, 0, 0].into();
    s.refused(REPO);
    s.ranges();
    s.server.state().refuses_range = true;
    let path = s.pull(REPO).unwrap();
    assert_eq!(s.ranges(), [Some("bytes=40000-".to_string()), None]);
    assert_eq!(fs::read(path).unwrap(), s.server.state().files[0].bytes);
}

#[test]
fn an_ignored_range_starts_from_zero() {
    let s = Setup::one(100_000);
    s.server.state().cut = [40_000].into();
    s.server.state().ignores_range = true;
    let path = s.pull(REPO).unwrap();
    assert_eq!(fs::read(path).unwrap(), s.server.state().files[0].bytes);
}

#[test]
fn a_partial_file_longer_than_the_file_is_dropped() {
    let s = Setup::one(1_000);
    fs::create_dir_all(s.repo().join("blobs")).unwrap();
    fs::write(s.partial(0), vec![9; 2_000]).unwrap();
    s.pull(REPO).unwrap();
    assert_eq!(s.ranges(), [None]);
}

#[test]
fn damage_is_noticed_and_removed() {
    let s = Setup::one(100_000);
    s.server.state().damaged = true;
    let text = s.refused(REPO);
    contains(
        &text,
        &[
            "tiny-q8_0.gguf arrived damaged",
            &s.server.state().files[0].blob(),
            "removed",
            "run the same command again",
        ],
    );
    assert!(!s.partial(0).exists() && !s.blob(0).exists());
    assert!(!s.repo().join("snapshots").exists(), "a model is shown only when it is whole");
    // A partial file of other bytes is as bad.
    s.server.state().damaged = false;
    fs::write(s.partial(0), vec![9; 2_000]).unwrap();
    contains(&s.refused(REPO), &["arrived damaged"]);
    s.pull(REPO).unwrap();
    let small = Setup::folder();
    small.server.state().stated_hash = Some("a".repeat(40));
    small.server.state().files.retain(|file| !file.large || file.path == "tokenizer.model");
    small.server.state().files.push(Served::small("model.safetensors", b"x"));
    small.server.state().files.retain(|file| !file.large);
    contains(&small.refused(REPO), &["config.json arrived damaged", &"a".repeat(40)]);
}

#[test]
fn room_is_compared_before_anything_is_fetched() {
    let s = Setup::one(1_000);
    s.server.state().stated_size = Some(10u64.pow(18));
    let text = s.refused(REPO);
    contains(&text, &["internlm/tiny needs 1.00 EB", "free: free", "HF_HUB_CACHE"]);
    assert!(s.ranges().is_empty());
    s.server.state().files.push(Served::large("tiny-q8_0-2.gguf", 10, 1));
    s.server.state().stated_size = Some(u64::MAX);
    s.server.state().files = Setup::folder().server.state().files.clone();
    contains(&s.refused(REPO), &["larger than any disk"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told_apart() {
    let s = Setup::one(100_000);
    fs::create_dir_all(s.repo().join("blobs")).unwrap();
    std::os::unix::fs::symlink("/dev/full", s.partial(0)).unwrap();
    contains(
        &s.refused(REPO),
        &[
            "the disk is full after 0 B of 100.00 kB of tiny-q8_0.gguf",
            "run the same command again",
        ],
    );
}

#[test]
fn names_that_climb_out_are_refused() {
    for path in [
        "../../evil.json",
        "/etc/evil.json",
        "a/../../evil.json",
        "a\\..\\evil.json",
        "c:evil.json",
    ] {
        let s =
            Setup::new(vec![Served::large("model.safetensors", 10, 1), Served::small(path, b"x")]);
        contains(&s.refused(REPO), &["outside of the model's folder", "refused"]);
        assert!(!s.repo().exists(), "{path}");
    }
    let s = Setup::one(10);
    s.server.state().stated_hash = Some("../../../evil".to_string());
    contains(&s.refused(REPO), &["as hash of tiny-q8_0.gguf, which is none"]);
}

#[test]
fn redirects_in_a_circle_end() {
    let s = Setup::one(10);
    s.server.state().circles = true;
    contains(&s.refused(REPO), &["redirects more than 10 times"]);
}

#[test]
fn a_killed_pull_goes_on_where_it_was() {
    let s = Setup::one(400_000);
    s.server.state().slow = Some(Duration::from_millis(20));
    let mut child =
        s.command(&["pull", REPO]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let partial = s.partial(0);
    while fs::metadata(&partial).map_or(0, |m| m.len()) < 60_000 {
        assert!(child.try_wait().unwrap().is_none(), "the child ended before it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    s.server.state().slow = None;
    s.ranges();
    let have = fs::metadata(&partial).unwrap().len();
    let path = s.pull(REPO).unwrap();
    assert_eq!(s.ranges(), [Some(format!("bytes={have}-"))]);
    assert_eq!(fs::read(path).unwrap(), s.server.state().files[0].bytes);
}
