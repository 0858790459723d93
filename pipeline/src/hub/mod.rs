//! Getting models: `pull`, `list`, `rm`, and finding what was pulled when `-m` names it.
//!
//! Files lie in the Hugging Face hub cache exactly as huggingface_hub lays them, so nothing is fetched
//! twice and other tools see them: `models--org--name/{blobs,refs,snapshots}`, blobs named by their
//! hash, snapshots of relative links. A snapshot appears when all of its files are there and checked.

use std::path::PathBuf;
use std::time::Duration;

use puyu_tensor::{Error, Result};

mod cache;
pub mod cli;
mod client;
mod download;
mod env;
mod inventory;
mod listing;
mod name;
mod pull;
mod select;
mod shipped;

pub use cache::{resolve, resolve_in};
pub use env::cache_dir;
pub use inventory::{Entry, Removed, list, remove};
pub use name::ModelName;
pub use pull::pull;
pub use select::{GgufModel, Selection, gguf_models, select};
pub use shipped::NAME as SHIPPED;

/// Which hub's interface a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HubKind {
    /// huggingface.co and its mirrors.
    #[default]
    #[value(name = "huggingface", alias = "hf")]
    HuggingFace,
    /// modelscope.cn.
    #[value(name = "modelscope", alias = "ms")]
    ModelScope,
}

impl HubKind {
    /// The revision meant when none is named.
    pub fn default_revision(self) -> &'static str {
        match self {
            HubKind::HuggingFace => "main",
            HubKind::ModelScope => "master",
        }
    }

    fn token_variable(self) -> &'static str {
        match self {
            HubKind::HuggingFace => "HF_TOKEN",
            HubKind::ModelScope => "MODELSCOPE_API_TOKEN",
        }
    }

    /// The page where a user of the hub at `endpoint` makes a token.
    fn tokens_page(self, endpoint: &str) -> String {
        match self {
            HubKind::HuggingFace => format!("{endpoint}/settings/tokens"),
            HubKind::ModelScope => format!("{endpoint}/my/myaccesstoken"),
        }
    }
}

/// A hub to pull from, the cache to pull into, and how patient to be.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Which interface the server speaks.
    pub kind: HubKind,
    /// Scheme, host and port of the server, without a `/` at the end.
    pub endpoint: String,
    /// The secret that opens gated and private models; sent to `endpoint` alone.
    pub token: Option<String>,
    /// The folder that holds `models--org--name`.
    pub cache: PathBuf,
    /// How many failures in a row, with nothing gained in between, are tried again.
    pub retries: u32,
    /// The wait before the first new attempt; it doubles with each.
    pub first_wait: Duration,
    /// How long a server may be silent.
    pub stall: Duration,
}

impl Hub {
    /// The hub of `kind` as the environment describes it: `HF_ENDPOINT`, `HF_TOKEN` or the token file,
    /// and the cache of [`cache_dir`]; for ModelScope `MODELSCOPE_ENDPOINT` and `MODELSCOPE_API_TOKEN`.
    ///
    /// # Errors
    /// There is no folder for the cache, or the endpoint is no address.
    pub fn from_env(kind: HubKind) -> Result<Self> {
        let (variable, standard) = match kind {
            HubKind::HuggingFace => ("HF_ENDPOINT", "https://huggingface.co"),
            HubKind::ModelScope => ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
        };
        let endpoint = env::first(&[variable]).map_or(standard.to_string(), |(_, value)| value);
        let endpoint = endpoint.trim().trim_end_matches('/').to_string();
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(Error::invalid(format!(
                "{variable}={endpoint} is no address; it begins with https:// as in {standard}"
            )));
        }
        let token = match kind {
            HubKind::HuggingFace => env::hugging_face_token(),
            HubKind::ModelScope => env::first(&["MODELSCOPE_API_TOKEN"]).map(|(_, token)| token),
        };
        Ok(Self {
            kind,
            endpoint,
            token,
            cache: cache_dir()?,
            retries: 5,
            first_wait: Duration::from_secs(1),
            stall: Duration::from_secs(30),
        })
    }
}
