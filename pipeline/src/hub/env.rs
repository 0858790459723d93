//! What the environment says about caches, mirrors, tokens and proxies.
//!
//! The variables and their order are huggingface_hub's, so that one setting serves all tools.

use std::path::PathBuf;

use puyu_tensor::{Error, Result};

/// The first of `names` that is set to something, with its value.
pub(super) fn first(names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|&name| {
        std::env::var(name).ok().filter(|value| !value.trim().is_empty()).map(|value| (name, value))
    })
}

/// The folder of the hub cache: `HF_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME/huggingface/hub`, or
/// `~/.cache/huggingface/hub`.
///
/// # Errors
/// None of them is set and the user has no home folder.
pub fn cache_dir() -> Result<PathBuf> {
    match first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]) {
        Some((_, path)) => expand(&path),
        None => Ok(hf_home()?.join("hub")),
    }
}

/// The token for Hugging Face: `HF_TOKEN`, or the file that logging in with any tool leaves.
pub(super) fn hugging_face_token() -> Option<String> {
    if let Some((_, token)) = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
        return Some(token.trim().to_string());
    }
    let file = match first(&["HF_TOKEN_PATH"]) {
        Some((_, path)) => expand(&path).ok()?,
        None => hf_home().ok()?.join("token"),
    };
    let token = std::fs::read_to_string(file).ok()?.trim().to_string();
    (!token.is_empty()).then_some(token)
}

/// Whether `NO_PROXY` names `host`: itself, a domain above it, or `*`.
pub(super) fn bypasses_proxy(host: &str) -> bool {
    first(&["no_proxy", "NO_PROXY"]).is_some_and(|(_, list)| listed(&list, host))
}

fn listed(list: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        entry == "*"
            || (!domain.is_empty() && (host == domain || host.ends_with(&format!(".{domain}"))))
    })
}

fn hf_home() -> Result<PathBuf> {
    if let Some((_, path)) = first(&["HF_HOME"]) {
        return expand(&path);
    }
    Ok(cache_home()?.join("huggingface"))
}

/// Where programs keep what they can make again: `XDG_CACHE_HOME` or `~/.cache`.
pub(super) fn cache_home() -> Result<PathBuf> {
    match first(&["XDG_CACHE_HOME"]) {
        Some((_, path)) => expand(&path),
        None => Ok(home()?.join(".cache")),
    }
}

fn expand(path: &str) -> Result<PathBuf> {
    Ok(match path.strip_prefix('~') {
        Some("") => home()?,
        Some(rest) if rest.starts_with(['/', '\\']) => home()?.join(&rest[1..]),
        _ => PathBuf::from(path),
    })
}

fn home() -> Result<PathBuf> {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).ok_or_else(|| {
        Error::not_found("there is no home folder to keep models in; set HF_HUB_CACHE to a folder")
    })
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn no_proxy_names_hosts_and_domains() {
        for (list, host, expected) in [
            ("localhost, 127.0.0.1", "127.0.0.1", true),
            ("example.com", "cdn.example.com", true),
            (".example.com", "example.com", true),
            ("*.example.com", "a.Example.com", true),
            ("example.com", "notexample.com", false),
            ("*", "anything", true),
            ("", "anything", false),
        ] {
            assert_eq!(listed(list, host), expected, "{list} {host}");
        }
    }
}
