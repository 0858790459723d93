//! Which files of a repository make up the model a name asks for.
//!
//! One rule serves both sides, the listing of a hub (`pull`) and the files already there (`-m`), so that
//! what was pulled is what is found. GGUF files are told apart by the quantization in their names, the
//! convention all tools share: `model-Q4_K_M.gguf`, `model.q8_0.gguf`, `model-f16-00001-of-00002.gguf`.

use puyu_tensor::{Error, Result};

/// The quantization taken when a repository has only GGUF files and the name does not say which.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// The files of one model, as indices into the list they were chosen from.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection {
    /// Indices of the chosen files; for a split GGUF file in the order of its parts.
    pub files: Vec<usize>,
    /// The quantization, when the model is a GGUF file.
    pub gguf: Option<String>,
    /// Whether the quantization was chosen here and not by the user.
    pub by_default: bool,
}

/// One GGUF model of a repository: a file, or the parts of a split one.
#[derive(Debug, PartialEq, Eq)]
pub struct GgufModel {
    /// The quantization its name states, upper case; the file's name when it states none.
    pub quant: String,
    /// Indices of its files, in the order of the parts.
    pub files: Vec<usize>,
    /// How many parts the names promise.
    pub parts: usize,
    /// What the names of all parts begin with.
    stem: String,
}

impl GgufModel {
    /// Whether `pick` means this model: its quantization, or one of its files among `paths`, in any case.
    pub(super) fn is(&self, pick: &str, paths: &[&str]) -> bool {
        self.quant.eq_ignore_ascii_case(&canonical(pick))
            || self.files.iter().any(|&i| paths[i].eq_ignore_ascii_case(pick))
    }
}

/// Chooses among `paths` (relative, with `/`) what `pick` asks for: with a quantization or a `.gguf`
/// file name that model, without one the safetensors (else PyTorch) weights with their configuration
/// and tokenizer, and in a repository of GGUF files alone `Q4_K_M` or the only one there is.
///
/// # Errors
/// Nothing fits, more than one model fits, or a part of a split file is missing; the message lists
/// what there is.
pub fn select(paths: &[&str], pick: Option<&str>) -> Result<Selection> {
    let models = gguf_models(paths);
    if let Some(pick) = pick {
        return choose_gguf(paths, &models, pick, false);
    }
    let weights = weights(paths);
    if weights.is_empty() {
        return match models.as_slice() {
            [] => Err(Error::not_found(
                "there are no weights: no .safetensors, .bin or .gguf file at the top of the repository",
            )),
            [only] => choose_gguf(paths, &models, &only.quant, true),
            _ if models.iter().any(|m| m.quant == DEFAULT_QUANT) => {
                choose_gguf(paths, &models, DEFAULT_QUANT, true)
            }
            _ => Err(Error::invalid(format!(
                "there are only GGUF files; put the one you want after the name, as in :{}; there are {}",
                models[0].quant,
                quants(&models)
            ))),
        };
    }
    let files =
        (0..paths.len()).filter(|&i| weights.contains(&i) || is_description(paths[i])).collect();
    Ok(Selection { files, gguf: None, by_default: false })
}

/// All GGUF models among `paths`, in order of appearance; projector and importance-matrix files, which
/// are no language models, are left out.
pub fn gguf_models(paths: &[&str]) -> Vec<GgufModel> {
    let mut found: Vec<GgufModel> = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let file = path.rsplit('/').next().unwrap_or(path);
        let lower = file.to_ascii_lowercase();
        if !lower.ends_with(".gguf") || lower.starts_with("mmproj") || lower.contains("imatrix") {
            continue;
        }
        let (stem, parts) = split_part(&path[..path.len() - ".gguf".len()]);
        if let Some(model) = found.iter_mut().find(|m| m.stem == stem && m.parts == parts) {
            model.files.push(index);
            continue;
        }
        let quant = quant_of(stem.rsplit('/').next().unwrap_or(stem));
        found.push(GgufModel {
            quant: quant.unwrap_or_else(|| file.to_string()),
            files: vec![index],
            parts,
            stem: stem.to_string(),
        });
    }
    for model in &mut found {
        // Part numbers have five digits, so the order of names is the order of parts.
        model.files.sort_by_key(|&index| paths[index]);
    }
    found
}

fn choose_gguf(
    paths: &[&str],
    models: &[GgufModel],
    pick: &str,
    by_default: bool,
) -> Result<Selection> {
    let fitting: Vec<&GgufModel> = models.iter().filter(|model| model.is(pick, paths)).collect();
    match fitting.as_slice() {
        [] if models.is_empty() => Err(Error::not_found(format!(
            "there is no GGUF file, so nothing to choose by `:{pick}`; leave it out"
        ))),
        [] => Err(Error::not_found(format!("there is no `{pick}`; there are {}", quants(models)))),
        [model] if model.files.len() != model.parts => Err(Error::not_found(format!(
            "{} of the {} parts of {} are missing",
            model.parts.saturating_sub(model.files.len()),
            model.parts,
            paths[model.files[0]]
        ))),
        [model] => Ok(Selection {
            files: model.files.clone(),
            gguf: Some(model.quant.clone()),
            by_default,
        }),
        several => {
            let files: Vec<&str> = several.iter().map(|m| paths[m.files[0]]).collect();
            Err(Error::invalid(format!(
                "`{pick}` fits several files; put the file's name after the colon instead: {}",
                files.join(", ")
            )))
        }
    }
}

fn quants(models: &[GgufModel]) -> String {
    let mut names: Vec<&str> = models.iter().map(|m| m.quant.as_str()).collect();
    names.dedup();
    names.join(", ")
}

/// Weight files at the top of the repository: safetensors before PyTorch, the model's own names
/// (`model.safetensors`, `model-00001-of-00004.safetensors`) before copies under other names.
fn weights(paths: &[&str]) -> Vec<usize> {
    let matching = |name: Option<&str>, suffix: &str| -> Vec<usize> {
        (0..paths.len())
            .filter(|&i| {
                paths[i].strip_suffix(suffix).is_some_and(|stem| {
                    !stem.contains('/')
                        && stem != "training_args"
                        && name.is_none_or(|name| split_part(stem).0 == name)
                })
            })
            .collect()
    };
    [
        (Some("model"), ".safetensors"),
        (None, ".safetensors"),
        (Some("pytorch_model"), ".bin"),
        (None, ".bin"),
    ]
    .into_iter()
    .map(|(name, suffix)| matching(name, suffix))
    .find(|found| !found.is_empty())
    .unwrap_or_default()
}

/// Configuration, tokenizer and chat template files at the top of a repository.
fn is_description(path: &str) -> bool {
    !path.contains('/')
        && [".json", ".model", ".txt", ".jinja"].iter().any(|suffix| path.ends_with(suffix))
}

/// Takes `-00002-of-00003` off the end of `stem`: what is left, and how many parts there are.
fn split_part(stem: &str) -> (&str, usize) {
    let is_number = |digits: &str| digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
    let parse = || {
        let (front, parts) = stem.rsplit_once("-of-")?;
        let (front, part) = front.rsplit_once('-')?;
        (is_number(part) && is_number(parts)).then_some((front, parts.parse().ok()?))
    };
    parse().unwrap_or((stem, 1))
}

/// The quantization that a file's stem states, the last if there are several.
fn quant_of(stem: &str) -> Option<String> {
    let starts = std::iter::once(0)
        .chain(stem.match_indices(['-', '.', '_']).map(|(at, _)| at + 1))
        .collect::<Vec<_>>();
    let (start, quant) = starts.into_iter().rev().find_map(|start| {
        let word = stem[start..].split(['-', '.']).next()?.to_ascii_uppercase();
        is_quant(&word).then_some((start, word))
    })?;
    // Unsloth's dynamic mixes carry this mark before the type, and are other files than the plain ones.
    let dynamic = stem[..start].to_ascii_uppercase().ends_with("UD-");
    Some(canonical(&if dynamic { format!("UD-{quant}") } else { quant }))
}

fn is_quant(word: &str) -> bool {
    let rest = word
        .strip_prefix("IQ")
        .or_else(|| word.strip_prefix("TQ"))
        .or_else(|| word.strip_prefix('Q'));
    let digits_first = rest.is_some_and(|r| {
        r.starts_with(|c: char| c.is_ascii_digit())
            && r.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    digits_first
        || matches!(word, "F16" | "FP16" | "BF16" | "F32" | "FP32")
        || word.starts_with("MXFP4")
        || word.starts_with("NVFP4")
}

fn canonical(quant: &str) -> String {
    match quant.to_ascii_uppercase().as_str() {
        "FP16" => "F16".to_string(),
        "FP32" => "F32".to_string(),
        upper => upper.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizations_are_read_from_names() {
        for (stem, quant) in [
            ("internlm2_5-7b-chat-q4_k_m", Some("Q4_K_M")),
            ("internlm2_5-7b-chat-fp16", Some("F16")),
            ("SmolLM2-135M-Instruct-Q4_1", Some("Q4_1")),
            ("Model.IQ4_XS", Some("IQ4_XS")),
            ("model_q5_0", Some("Q5_0")),
            ("model-UD-Q4_K_XL", Some("UD-Q4_K_XL")),
            ("ggml-model-bf16", Some("BF16")),
            ("Qwen3-4B", None),
            ("model", None),
        ] {
            assert_eq!(quant_of(stem).as_deref(), quant, "{stem}");
        }
    }

    #[test]
    fn split_files_are_one_model_and_must_be_whole() {
        let paths = [
            "a-q8_0-00002-of-00002.gguf",
            "a-q4_0.gguf",
            "a-q8_0-00001-of-00002.gguf",
            "mmproj-f16.gguf",
        ];
        let chosen = select(&paths, Some("q8_0")).unwrap();
        assert_eq!((chosen.files, chosen.gguf.as_deref()), (vec![2, 0], Some("Q8_0")));
        let error = select(&paths[1..], Some("Q8_0")).unwrap_err().to_string();
        assert_eq!(error, "1 of the 2 parts of a-q8_0-00001-of-00002.gguf are missing");
    }

    #[test]
    fn ambiguous_and_absent_list_what_there_is() {
        let paths = ["a-q4_0.gguf", "b-q4_0.gguf", "a-q5_0.gguf"];
        let error = select(&paths, Some("Q4_0")).unwrap_err().to_string();
        assert!(error.contains("several") && error.contains("a-q4_0.gguf, b-q4_0.gguf"), "{error}");
        assert_eq!(select(&paths, Some("b-Q4_0.gguf")).unwrap().files, [1]);
        let error = select(&paths, Some("Q6_K")).unwrap_err().to_string();
        assert_eq!(error, "there is no `Q6_K`; there are Q4_0, Q5_0");
        let error =
            select(&["config.json", "model.safetensors"], Some("Q6_K")).unwrap_err().to_string();
        assert!(error.contains("no GGUF file"), "{error}");
    }

    #[test]
    fn without_a_quantization_the_folder_is_taken() {
        let paths = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "tokenizer.model",
            "README.md",
            "onnx/model.safetensors",
            "consolidated.safetensors",
            "modeling_internlm2.py",
        ];
        assert_eq!(select(&paths, None).unwrap().files, [0, 1, 2, 3, 5]);
        let torch = [
            "config.json",
            "pytorch_model-00001-of-00001.bin",
            "training_args.bin",
            "tokenizer.json",
        ];
        assert_eq!(select(&torch, None).unwrap().files, [0, 1, 3]);
        assert!(select(&["config.json"], None).unwrap_err().to_string().contains("no weights"));
    }

    #[test]
    fn only_gguf_takes_the_usual_one() {
        let chosen = select(&["a-q8_0.gguf", "a-q4_k_m.gguf"], None).unwrap();
        assert_eq!((chosen.files, chosen.by_default), (vec![1], true));
        assert_eq!(select(&["config.json", "model.gguf"], None).unwrap().files, [1]);
        let error = select(&["a-q8_0.gguf", "a-q4_0.gguf"], None).unwrap_err().to_string();
        assert!(error.contains(":Q8_0") && error.contains("Q8_0, Q4_0"), "{error}");
    }
}
