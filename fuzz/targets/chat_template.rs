//! Any text as a chat template: it renders or fails, within its budget.
#![no_main]

use puyu_models::chat_template::{ChatTemplate, Message, Part, RenderOptions};

libfuzzer_sys::fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source) else { return };
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "What is <|im_end|>?"),
        Message::new("assistant", "A {{ token }}."),
    ];
    let mut options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    options.control_tokens = vec!["<|im_end|>".into()];
    options.variables.insert("bos_token".into(), "<s>".into());
    if let (Ok(text), Ok(parts)) =
        (template.render_text(&messages, &options), template.render(&messages, &options))
    {
        let joined: String = parts.iter().map(Part::text).collect();
        assert_eq!(joined, text, "the parts are not the text");
    }
});
