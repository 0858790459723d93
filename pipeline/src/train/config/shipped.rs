//! The configs that come with puyu, in the program itself: every published InternLM shape, small ones that train on
//! a laptop, and ways of fine-tuning. `puyu train NAME` and `puyu finetune NAME` take them; `puyu copy-cfg NAME
//! FOLDER` gives the file.

/// A config that comes with puyu.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// What it is called.
    pub name: &'static str,
    /// Its TOML.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// All of them: shapes, the small ones first, then ways of fine-tuning.
        pub const SHIPPED: &[Shipped] = &[$(Shipped {
            name: $name,
            text: include_str!(concat!("../../../configs/", $name, ".toml")),
        }),*];
    };
}
shipped!(
    "tour",
    "tour-lora",
    "puyu-base",
    "puyu-chat",
    "nano",
    "tiny",
    "small",
    "medium",
    "internlm-7b",
    "internlm-7b-8k",
    "internlm-20b",
    "internlm-104b",
    "internlm2-1_8b",
    "internlm2-7b",
    "internlm2-20b",
    "internlm2_5-1_8b",
    "internlm2_5-7b",
    "internlm2_5-7b-1m",
    "internlm2_5-20b",
    "internlm3-8b",
    "smollm2-135m-lora",
    "internlm2_5-1_8b-chat-full",
    "internlm2_5-1_8b-chat-dpo",
    "internlm2_5-1_8b-chat-orpo",
    "internlm2_5-1_8b-chat-reward",
    "internlm2_5-7b-chat-lora",
    "internlm2_5-7b-chat-qlora",
    "internlm3-8b-instruct-qlora",
    "all-fields",
);

impl Shipped {
    /// The config called `name`, with or without `.toml`.
    pub fn find(name: &str) -> Option<Self> {
        let name = name.strip_suffix(".toml").unwrap_or(name);
        SHIPPED.iter().find(|s| s.name == name).copied()
    }

    /// What it is, in a line.
    pub fn about(&self) -> &'static str {
        let line = self.text.lines().next().unwrap_or_default();
        line.trim_start_matches("# ").trim_end_matches('.')
    }
}
