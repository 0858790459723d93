//! Whole models from one layout to another: weights, configuration and tokenizer together. Converting
//! keeps every number unless a dtype is asked for.

use super::atomic::AtomicFile;
use super::gguf_export::{self, Export};
use super::hugging_face::{self, write_json};
use super::json::read_config;
use super::recode::fitting;
use super::{Checkpoint, Merged, Metadata, Source};
use super::{gguf_config, gguf_vocab, sampling, tokenizer_files};
use crate::Config;
use crate::tokenizer::{GgufVocab, Tokenizer};
use puyu_tensor::{Context, DType, Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::path::Path;

const GENERATION: &str = "generation_config.json";

/// Writes a checkpoint as one GGUF file; gives warnings. With a dtype, matrices become that, or what
/// fits their rows instead; without, floats stay what they are.
///
/// # Errors
/// If the checkpoint is no model that puyu runs, or the file cannot be written; an old file of that
/// name is then left as it was.
pub fn to_gguf(from: &Checkpoint, path: &Path, dtype: Option<DType>) -> Result<Vec<String>> {
    to_gguf_with(from, from.source(), &from.config()?, path, dtype, &Metadata::default())
}

/// [`to_gguf`] with all matrices in `dtype`, and with metadata that replaces what would be written.
///
/// # Errors
/// As [`to_gguf`].
pub fn quantize(
    from: &Checkpoint,
    path: &Path,
    dtype: DType,
    overrides: &Metadata,
) -> Result<Vec<String>> {
    to_gguf_with(from, from.source(), &from.config()?, path, Some(dtype), overrides)
}

/// [`to_gguf`] with the tensors of `source`, its config.json, and the metadata of `overrides`.
fn to_gguf_with(
    from: &Checkpoint,
    source: &dyn Source,
    config: &Value,
    path: &Path,
    dtype: Option<DType>,
    overrides: &Metadata,
) -> Result<Vec<String>> {
    let config = Config::from_json(config).context(from.path.display())?;
    let (mut metadata, mut warnings) = tokenizer_metadata(from, &config)?;
    if let Some(folder) = from.folder().filter(|f| f.join(GENERATION).exists()) {
        sampling::write(&read_config(&folder.join(GENERATION))?, &mut metadata);
    }
    overrides.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    let stem = from.path.file_stem().unwrap_or_default().to_string_lossy();
    let name = from.metadata().map(|m| m.get_str("general.name")).transpose()?.flatten();
    let export = Export {
        config: &config,
        name: name.unwrap_or(&stem),
        metadata: &metadata,
        rule: &|_, spec| fitting(dtype.unwrap_or(spec.dtype), spec.last()),
    };
    warnings.extend(gguf_export::save(path, source, &export)?);
    Ok(warnings)
}

/// The metadata of tokenizer and sampling: as the GGUF file has them, or the tokenizer's made from the folder's
/// files.
fn tokenizer_metadata(from: &Checkpoint, config: &Config) -> Result<(Metadata, Vec<String>)> {
    let mut metadata = Metadata::default();
    if let Some(meta) = from.metadata() {
        for (key, value) in meta.iter() {
            let kept = ["tokenizer.", "general.sampling."];
            if kept.iter().any(|k| key.starts_with(k)) || key == gguf_vocab::TEXT_END {
                metadata.set(key, value.clone());
            }
        }
        return Ok((metadata, Vec::new()));
    }
    let folder = from.folder().unwrap_or(Path::new(""));
    let mut vocab = match Tokenizer::load(folder).and_then(|t| t.to_gguf()) {
        Ok(vocab) => vocab,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Ok((metadata, vec![format!("written without a tokenizer: {e}")]));
        }
        Err(e) => return Err(e),
    };
    gguf_vocab::pad(&mut vocab, config.vocab_size).context(folder.display())?;
    if config.model_type != "llama" {
        gguf_vocab::end_at_turns(&mut vocab, &mut metadata);
    }
    vocab.write(&mut metadata);
    Ok((metadata, Vec::new()))
}

/// Writes a GGUF checkpoint as a folder in Hugging Face layout. With no dtype, floats keep theirs and
/// block formats become F32.
///
/// # Errors
/// If the checkpoint is no GGUF file, or no model that puyu runs, or a file cannot be written.
pub fn to_hugging_face(from: &Checkpoint, folder: &Path, dtype: Option<DType>) -> Result<()> {
    to_hugging_face_with(from, from.source(), from.config()?, folder, dtype)
}

/// [`to_hugging_face`] with the tensors of `source`, and its config.json.
fn to_hugging_face_with(
    from: &Checkpoint,
    source: &dyn Source,
    mut config: Value,
    folder: &Path,
    dtype: Option<DType>,
) -> Result<()> {
    let meta = from
        .metadata()
        .ok_or_else(|| Error::invalid(format!("{} is no GGUF file", from.path.display())))?;
    if let Some(block) = dtype.filter(|d| !d.is_float()) {
        return Err(Error::invalid(format!("a Hugging Face folder cannot hold {block}")));
    }
    let mut vocab = GgufVocab::read(meta)?;
    let ends = gguf_config::eos_ids(meta)?;
    // The end of a text is the tokenizer's, the end of a turn the generation's.
    if let Some(end) = meta.get_u32(gguf_vocab::TEXT_END)? {
        vocab.eos = Some(end);
        config["eos_token_id"] = json!(end);
    }
    hugging_face::save(folder, source, &config, dtype)?;
    let mut generation = generation(&vocab, &ends);
    sampling::read(meta)?.into_iter().for_each(|(key, value)| generation[key] = value);
    write_json(&folder.join(GENERATION), &generation)?;
    let model_type = config["model_type"].as_str().unwrap_or_default();
    tokenizer_files::save(folder, &vocab, model_type)
}

/// Writes a checkpoint with the adapter in `adapter` merged into it: as one GGUF file where `out` ends in
/// .gguf, else as a folder in Hugging Face layout; gives warnings. With no dtype, floats keep theirs, and
/// merged block formats become F32.
///
/// # Errors
/// If the adapter does not fit, `out` is the checkpoint itself, or a file cannot be read or written.
pub fn merge(
    from: &Checkpoint,
    adapter: &Path,
    out: &Path,
    dtype: Option<DType>,
) -> Result<Vec<String>> {
    let same =
        |a: &Path| a.canonicalize().ok().is_some_and(|a| out.canonicalize().is_ok_and(|o| o == a));
    if same(&from.path) || from.folder().is_some_and(same) {
        return Err(Error::invalid(format!(
            "{} is the model to be merged; name another place to write to",
            out.display()
        )));
    }
    let merged = Merged::new(from, adapter)?;
    if out.extension().is_some_and(|e| e == "gguf") {
        return to_gguf_with(from, &merged, &merged.config, out, dtype, &Metadata::default());
    }
    match from.folder() {
        None => to_hugging_face_with(from, &merged, merged.config.clone(), out, dtype)?,
        Some(folder) => {
            hugging_face::save(out, &merged, &merged.config, dtype)?;
            copy_others(folder, out)?;
        }
    }
    Ok(Vec::new())
}

/// Copies what lies beside the weights in a model's folder: tokenizer, template, code, licence.
fn copy_others(folder: &Path, out: &Path) -> Result<()> {
    const ENDINGS: [&str; 6] = ["json", "model", "txt", "jinja", "py", "md"];
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let place = || format!("cannot read {}", folder.display());
    for entry in std::fs::read_dir(folder).context(place())? {
        let path = entry.context(place())?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let others = ENDINGS.contains(&ending) || name == "LICENSE";
        if others && path.is_file() && name != "config.json" && !name.ends_with(".index.json") {
            let mut file = AtomicFile::create(&out.join(name))?;
            file.write(&std::fs::read(&path).context(path.display())?)?;
            file.finish()?;
        }
    }
    Ok(())
}

/// generation_config.json: where texts begin and answers end.
fn generation(vocab: &GgufVocab, ends: &[u32]) -> Value {
    let mut ids: Vec<u32> = vocab.eos.into_iter().chain(ends.iter().copied()).collect();
    ids.dedup();
    json!({
        "bos_token_id": vocab.bos,
        "eos_token_id": ids,
        "pad_token_id": vocab.pad,
    })
}
