//! The model that comes with puyu, in the program itself: small, trained by puyu on a world of its own
//! (`docs/world.md`, `docs/puyu.md`), so that there is one to talk to before any is pulled.

use super::env::cache_home;
use puyu_models::format::atomic::AtomicFile;
use puyu_tensor::{Context, Result};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// What it is called where a model is named.
pub const NAME: &str = "puyu";

const FILE: &[u8] = include_bytes!("../../assets/puyu.gguf");

/// The model as a file, so that it is mapped like any other: in the user's cache, written there when it
/// is asked for first. Its name holds its hash, and another version of puyu writes another.
///
/// # Errors
/// If the cache cannot be written to.
pub(super) fn path() -> Result<PathBuf> {
    let hash: String = Sha256::digest(FILE).iter().take(6).map(|b| format!("{b:02x}")).collect();
    let folder = cache_home()?.join("puyu");
    let path = folder.join(format!("puyu-{hash}.gguf"));
    if path.metadata().is_ok_and(|m| m.len() == FILE.len() as u64) {
        return Ok(path);
    }
    let kept = || -> Result<()> {
        std::fs::create_dir_all(&folder)?;
        let mut file = AtomicFile::create(&path)?;
        file.write(FILE)?;
        file.finish()
    };
    kept().context(format_args!(
        "cannot keep the model that comes with puyu in {}; set XDG_CACHE_HOME to a folder that can be written to",
        folder.display()
    ))?;
    Ok(path)
}
