//! `puyu chat`: a conversation.
//!
//! Ctrl-C stops the answer, Ctrl-D leaves. Input from a pipe is one turn. A full context stops with
//! both numbers: history is never silently cut.

use super::args::ModelArgs;
use super::generate::{AnswerArgs, report};
use super::{interrupt, output};
use crate::engine::{Engine, Finish, Sampling, Session, generate};
use clap::Args;
use puyu_models::chat_template::Message;
use puyu_tensor::{Context, Error, Result};
use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

/// Talk to a model, by default to the one that comes with puyu
#[derive(Args, Clone, Debug)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    answer: AnswerArgs,
    /// The system message
    #[arg(long, visible_alias = "system-prompt", env = "PUYU_SYSTEM")]
    system: Option<String>,
    /// Say this first; then leave, unless standard input is a terminal
    #[arg(short, long)]
    prompt: Option<String>,
    /// Leave the summary of speed and memory out
    #[arg(long)]
    no_stats: bool,
}

const HELP: &str = "\
/help            this list
/clear           forget the conversation
/regen           answer the last message again
/undo            take the last message and its answer back
/save FILE       write the conversation as JSON
/load FILE       read one
/set NAME VALUE  change a setting: temp, top-k, top-p, min-p, repeat-penalty, seed, system
/show            show settings and context use
/bye             leave (also Ctrl-D)
\"\"\"              begins and ends a message of several lines
Ctrl-C           stops an answer
";

/// The conversation and what may change while it goes on.
struct Chat<'e> {
    session: Session<'e>,
    messages: Vec<Message>,
    system: Option<String>,
    sampling: Sampling,
    args: &'e ChatArgs,
}

impl ChatArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the model cannot be loaded or has no chat template; with piped input, if the turn fails.
    pub fn run(&self) -> Result<()> {
        let engine = self.model.open()?;
        engine.encode_chat(&[Message::new("user", "")])?;
        let sampling = self.answer.sampling.resolve(&engine.generation)?;
        let session = Session::new(&engine, self.answer.context(&engine)?)?;
        let system = self.system.clone();
        let mut chat = Chat { session, messages: Vec::new(), system, sampling, args: self };
        let terminal = std::io::stdin().is_terminal();
        if let Some(prompt) = &self.prompt {
            chat.turn(prompt)?;
        } else if !terminal {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            return chat.turn(text.trim_end_matches('\n'));
        }
        if !terminal {
            return Ok(());
        }
        eprintln!("{}; /help lists the commands, Ctrl-D leaves", describe(&engine));
        chat.talk()
    }
}

fn describe(engine: &Engine) -> String {
    let c = engine.config();
    format!("{} ({}, {} layers)", engine.path.display(), c.model_type, c.layers)
}

impl Chat<'_> {
    /// Reads and answers until the user leaves.
    fn talk(&mut self) -> Result<()> {
        while let Some(line) = read_message()? {
            let line = line.trim_end();
            let done = match line.split_once(' ').unwrap_or((line, "")) {
                ("", _) => Ok(()),
                ("/bye" | "/exit" | "/quit", _) => break,
                (command, rest) if command.starts_with('/') => self.command(command, rest.trim()),
                _ => self.turn(line),
            };
            if let Err(e) = done {
                if output::is_closed_pipe(&e) {
                    return Err(e);
                }
                eprintln!("error: {e}");
            }
        }
        eprintln!();
        Ok(())
    }

    /// Says `text` and streams the answer. A turn that fails leaves the conversation as it was.
    fn turn(&mut self, text: &str) -> Result<()> {
        self.messages.push(Message::new("user", text));
        let answered = self.answer();
        if answered.is_err() {
            self.messages.pop();
        }
        answered
    }

    /// Answers the last message.
    fn answer(&mut self) -> Result<()> {
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        let all: Vec<_> = system.chain(self.messages.iter().cloned()).collect();
        let ids = self.session.engine().encode_chat(&all)?;
        let limits = self.args.answer.limits(usize::MAX);
        let mut closed = None;
        interrupt::start();
        let mut show = |text: &str| {
            if !text.is_empty() {
                closed = output::print(text).err();
            }
            closed.is_none() && !interrupt::asked()
        };
        let result = generate(&mut self.session, &ids, &self.sampling, &limits, &mut show);
        interrupt::finish();
        if let Some(e) = closed {
            return Err(e);
        }
        let answer = result?;
        output::print("\n")?;
        self.messages.push(Message::new("assistant", answer.text.as_str()));
        // Another seed for the next answer, so that /regen gives another one.
        self.sampling.seed = self.sampling.seed.wrapping_add(1);
        if answer.finish == Finish::Context {
            eprintln!(
                "the context of {} tokens is full ({} used), so the answer ends here; /clear starts \
                 over, -c gives more room",
                self.session.context(),
                self.session.tokens().len()
            );
        }
        if !self.args.no_stats {
            report(&answer);
        }
        Ok(())
    }

    fn command(&mut self, command: &str, rest: &str) -> Result<()> {
        match command {
            "/help" | "/?" => output::print(HELP),
            "/clear" => {
                self.messages.clear();
                self.session.truncate(0);
                Ok(())
            }
            "/regen" => {
                let Some(asked) = self.messages.iter().rposition(|m| m.role == "user") else {
                    return Err(Error::invalid("there is no message to answer again"));
                };
                let answers = self.messages.split_off(asked + 1);
                let answered = self.answer();
                if answered.is_err() {
                    self.messages.extend(answers);
                }
                answered
            }
            "/undo" => {
                let last = self.messages.iter().rposition(|m| m.role == "user");
                self.messages.truncate(last.unwrap_or(0));
                Ok(())
            }
            "/save" => self.save(Path::new(file_name(rest)?)),
            "/load" => self.load(Path::new(file_name(rest)?)),
            "/set" => self.set(rest),
            "/show" => self.show(),
            _ => Err(Error::invalid(format!("{command} is no command; /help lists them"))),
        }
    }

    fn save(&self, path: &Path) -> Result<()> {
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        let all: Vec<_> = system.chain(self.messages.iter().cloned()).collect();
        let text = serde_json::to_string_pretty(&all)
            .map_err(|e| Error::invalid(format!("cannot write the conversation: {e}")))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = || format!("cannot write {}", path.display());
        let mut file = tempfile::NamedTempFile::new_in(folder).context(place())?;
        std::io::Write::write_all(&mut file, text.as_bytes()).context(place())?;
        file.persist(path).map_err(|e| Error::from(e.error).context(place()))?;
        eprintln!("saved {} messages", all.len());
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).context(path.display())?;
        let mut all: Vec<Message> = serde_json::from_str(&text)
            .map_err(|e| Error::format(format!("{} is no conversation: {e}", path.display())))?;
        if all.first().is_some_and(|m| m.role == "system") {
            self.system = Some(all.remove(0).content);
        }
        eprintln!("loaded {} messages", all.len());
        self.messages = all;
        Ok(())
    }

    fn set(&mut self, rest: &str) -> Result<()> {
        let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
        if name == "system" {
            self.system = (!value.is_empty()).then(|| value.to_owned());
            return Ok(());
        }
        let number = |low: f64, high: f64| {
            let n = value.parse::<f64>().ok().filter(|n| (low..=high).contains(n));
            n.ok_or_else(|| {
                Error::invalid(format!("{name} is {value:?}, expected {low} to {high}"))
            })
        };
        let s = &mut self.sampling;
        match name {
            "temp" | "temperature" => s.temperature = number(0.0, 100.0)? as f32,
            "top-k" | "top_k" => s.top_k = number(0.0, 1e9)? as usize,
            "top-p" | "top_p" => s.top_p = number(1e-6, 1.0)? as f32,
            "min-p" | "min_p" => s.min_p = number(0.0, 1.0)? as f32,
            "repeat-penalty" => s.repetition_penalty = number(1e-6, 100.0)? as f32,
            "seed" => s.seed = number(0.0, 1e15)? as u64,
            _ => return Err(Error::invalid(format!("there is no setting {name:?}; see /help"))),
        }
        Ok(())
    }

    fn show(&self) -> Result<()> {
        let s = &self.sampling;
        output::print(&format!(
            "temp {}, top-k {}, top-p {}, min-p {}, repeat-penalty {}, seed {}\nsystem: {}\n{} \
             messages, {} of {} tokens of context\n",
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.repetition_penalty,
            s.seed,
            self.system.as_deref().unwrap_or("none"),
            self.messages.len(),
            self.session.tokens().len(),
            self.session.context(),
        ))
    }
}

fn file_name(rest: &str) -> Result<&str> {
    if rest.is_empty() { Err(Error::invalid("which file?")) } else { Ok(rest) }
}

/// One message from the terminal: a line, or several between `"""`. `None` at the end of input.
fn read_message() -> Result<Option<String>> {
    eprint!(">>> ");
    let mut lines = std::io::stdin().lock().lines();
    let mut next = || lines.next().transpose().context("standard input");
    let Some(first) = next()? else { return Ok(None) };
    let Some(start) = first.trim_start().strip_prefix("\"\"\"") else { return Ok(Some(first)) };
    let mut text = start.to_owned();
    while !text.trim_end().ends_with("\"\"\"") {
        eprint!("... ");
        let Some(line) = next()? else { return Ok(Some(text)) };
        text.push('\n');
        text.push_str(&line);
    }
    Ok(Some(text.trim_end().trim_end_matches("\"\"\"").trim_matches('\n').to_owned()))
}
