//! The names a user types: `org/repo`, `org/repo:QUANT`, `org/repo:FILE.gguf`.
//!
//! Every name becomes a folder below the cache, so what may stand in one is decided here, once, by the
//! rules of the hub: letters, digits, `.`, `_`, `-`, and nothing that could climb out of a folder.

use puyu_tensor::{Error, Result};

/// A model on a hub: its repository and, for GGUF files, which one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    repo: String,
    pick: Option<String>,
}

impl ModelName {
    /// Reads `org/repo[:QUANT]`; a web address of the hub in front is dropped, for it is what users paste.
    ///
    /// # Errors
    /// The name has another form, or characters that no repository has.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::invalid(format!(
                "`{text}` is not a model name: {why}; a name is org/repo or org/repo:QUANT, as in \
                 internlm/internlm2_5-1_8b-chat-gguf:Q4_K_M"
            )))
        };
        let rest = text.strip_prefix("https://").unwrap_or(text);
        let rest = ["huggingface.co/", "hf.co/"]
            .iter()
            .find_map(|host| rest.strip_prefix(host))
            .unwrap_or(rest);
        let (repo, pick) = match rest.split_once(':') {
            Some((repo, pick)) => (repo, Some(pick)),
            None => (rest, None),
        };
        if repo.len() > 96 {
            return refuse("it is longer than 96 characters");
        }
        if repo.split('/').count() > 2 {
            return refuse("it has more than one `/`");
        }
        if !repo.split('/').all(is_repo_part) {
            return refuse("letters, digits and single `.`, `_`, `-` inside are all it may have");
        }
        if pick.is_some_and(|pick| !is_safe_path(pick)) {
            return refuse("what follows the `:` is neither a quantization nor a file");
        }
        Ok(Self { repo: repo.to_string(), pick: pick.map(str::to_string) })
    }

    /// The repository, `org/repo`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// What follows the colon: a quantization such as `Q4_K_M`, or the name of a `.gguf` file.
    pub fn pick(&self) -> Option<&str> {
        self.pick.as_deref()
    }

    /// The folder of this repository in the cache, `models--org--repo`.
    pub fn folder(&self) -> String {
        format!("models--{}", self.repo.replace('/', "--"))
    }

    /// The repository whose cache folder is called `folder`; `None` if that is no model's folder.
    pub fn from_folder(folder: &str) -> Option<Self> {
        Self::parse(&folder.strip_prefix("models--")?.replacen("--", "/", 1)).ok()
    }
}

impl std::fmt::Display for ModelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.pick {
            Some(pick) => write!(f, "{}:{pick}", self.repo),
            None => f.write_str(&self.repo),
        }
    }
}

fn is_repo_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !part.is_empty()
        && part.chars().all(allowed)
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether `path`, which a server or a user wrote, stays inside the folder it is put under, on every
/// platform: parts between single `/`, none of them `.` or `..`, no drive, no backslash, no control.
pub(super) fn is_safe_path(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_bad_ones_refused() {
        let name = ModelName::parse("internlm/internlm2_5-7b-chat-gguf:q4_k_m").unwrap();
        assert_eq!(name.repo(), "internlm/internlm2_5-7b-chat-gguf");
        assert_eq!(name.pick(), Some("q4_k_m"));
        assert_eq!(name.folder(), "models--internlm--internlm2_5-7b-chat-gguf");
        assert_eq!(ModelName::from_folder(&name.folder()).unwrap().repo(), name.repo());
        assert_eq!(ModelName::parse("https://hf.co/a/b").unwrap().repo(), "a/b");
        let long = format!("a/{}", "b".repeat(100));
        for bad in [
            "",
            "/",
            "a/",
            "../b",
            "a/..",
            "a/b/c",
            "a\\b",
            "a/b:",
            "a/b:../c",
            "a/.b",
            "a--b/c",
            "a b/c",
            "C:\\m.gguf",
            &long,
        ] {
            assert!(ModelName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_of_a_server_stay_inside() {
        for good in ["config.json", "Q4_K_M/model-00001-of-00002.gguf", "..a/b..", "模型.json"] {
            assert!(is_safe_path(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/.",
            "C:/x",
            "a\\..\\b",
            "a\0b",
            "a/",
        ] {
            assert!(!is_safe_path(bad), "{bad}");
        }
    }
}
