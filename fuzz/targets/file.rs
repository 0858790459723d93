//! What every checkpoint target does: the bytes become a file, which is opened and loaded as a model's
//! file would be.

use puyu_models::format::{Checkpoint, OpenOptions, check_tensors, open};
use puyu_models::load as load_model;
use std::path::PathBuf;

/// Opens `bytes` as a file; everything that can be asked of it is asked.
pub fn load(bytes: &[u8]) {
    let path = path();
    std::fs::write(&path, bytes).expect("the temporary folder can be written to");
    let options = OpenOptions { mmap: false };
    if let Ok(checkpoint) = open(&path, options) {
        ask(&checkpoint);
    }
    let _ = load_model(&path, options, None);
}

fn ask(checkpoint: &Checkpoint) {
    let _ = (checkpoint.config(), checkpoint.warnings());
    let source = checkpoint.source();
    for name in source.names() {
        if let (Some(spec), Ok(tensor)) = (source.spec(name), source.tensor(name)) {
            assert_eq!(spec, *tensor.spec(), "{name} is not what was announced");
        }
    }
    let _ = check_tensors(source);
}

/// One file a process, so that targets can run side by side.
fn path() -> PathBuf {
    std::env::temp_dir().join(format!("puyu-fuzz-{}", std::process::id()))
}
