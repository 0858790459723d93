//! TensorBoard event files, written by hand: a record is a length and bytes with checksums, and the
//! bytes are a protobuf message of which four kinds are needed. The crates for it are unmaintained or
//! bring a protobuf compiler. Formats: tensorflow's record_writer.h, event.proto and summary.proto.

use super::Record;
use puyu_tensor::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder in a run's folder; TensorBoard is given the run's folder or any above it.
const FOLDER: &str = "tensorboard";

/// In the names of our event files.
const OURS: &str = ".puyu.";

/// An event file, open for appending.
pub(super) struct Board {
    file: File,
    name: String,
}

impl Board {
    /// Begins an event file below `dir`. A new run removes those of an earlier one; a resumed run says
    /// that steps after `resumed_at` are void, and TensorBoard forgets what other files hold of them.
    pub fn open(dir: &Path, config: &str, resumed_at: Option<u64>) -> Result<Self> {
        let folder = dir.join(FOLDER);
        std::fs::create_dir_all(&folder).context(folder.display())?;
        if resumed_at.is_none() {
            remove_ours(&folder)?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, id) = (now.as_secs(), std::process::id());
        let name = format!("events.out.tfevents.{seconds:010}{OURS}{id}.{}", now.subsec_nanos());
        let path = folder.join(name);
        let name = path.display().to_string();
        let file = File::create(&path).context(format_args!("cannot write {name}"))?;
        let mut board = Self { file, name };
        board.write(&event(0, &Message::default().bytes(3, b"brain.Event:2")))?;
        if let Some(step) = resumed_at {
            let start = Message::default().number(1, 1);
            board.write(&event(step + 1, &Message::default().message(7, &start)))?;
        }
        if !config.is_empty() {
            let fenced = format!("```toml\n{config}\n```");
            board.summary(resumed_at.unwrap_or(0), &[text("config", &fenced)])?;
        }
        Ok(board)
    }

    /// Adds what `record` says.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        let metrics = |part: &str, all: &std::collections::BTreeMap<String, f64>| {
            all.iter().map(|(k, v)| scalar(&format!("{part}/{k}"), *v)).collect::<Vec<_>>()
        };
        let values = match record {
            Record::Step(s) => {
                let mut all = vec![
                    scalar("train/loss", s.loss),
                    scalar("train/lr", s.lr),
                    scalar("train/grad_norm", s.grad_norm),
                    scalar("speed/tgs", s.tokens_per_s),
                    scalar("speed/tflops", s.flops_per_s / 1e12),
                ];
                all.extend(metrics("train", &s.metrics));
                all
            }
            Record::Valid { loss, perplexity, metrics: more, .. } => {
                let mut all =
                    vec![scalar("valid/loss", *loss), scalar("valid/perplexity", *perplexity)];
                all.extend(metrics("valid", more));
                all
            }
            Record::Sample { prompt, text: said, .. } => {
                vec![text("sample", &format!("**{prompt}**{said}"))]
            }
            Record::Event { text: said, .. } => vec![text("event", said)],
        };
        self.summary(record.step(), &values)
    }

    fn summary(&mut self, step: u64, values: &[Message]) -> Result<()> {
        let all = values.iter().fold(Message::default(), |m, v| m.message(1, v));
        self.write(&event(step, &Message::default().message(5, &all)))
    }

    /// One record, in one write: a killed process leaves whole records and at most part of one, which
    /// readers pass over.
    fn write(&mut self, event: &Message) -> Result<()> {
        let length = (event.0.len() as u64).to_le_bytes();
        let mut out = length.to_vec();
        out.extend(masked_crc(&length).to_le_bytes());
        out.extend(&event.0);
        out.extend(masked_crc(&event.0).to_le_bytes());
        self.file.write_all(&out).context(format_args!("cannot write {}", self.name))
    }
}

fn remove_ours(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).context(folder.display())? {
        let path = entry.context(folder.display())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("events.out.tfevents.") && name.contains(OURS) {
            std::fs::remove_file(&path).context(path.display())?;
        }
    }
    Ok(())
}

/// A protobuf message under construction: fields one after another.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn number(mut self, field: u64, n: u64) -> Self {
        self.varint(field << 3);
        self.varint(n);
        self
    }

    fn double(mut self, field: u64, x: f64) -> Self {
        self.varint(field << 3 | 1);
        self.0.extend(x.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, x: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(x.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(self, field: u64, inner: &Self) -> Self {
        self.bytes(field, &inner.0)
    }
}

/// `Event { wall_time = 1, step = 2, what }`.
fn event(step: u64, what: &Message) -> Message {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut event = Message::default().double(1, now.as_secs_f64()).number(2, step);
    event.0.extend(&what.0);
    event
}

/// `Summary.Value { tag = 1, simple_value = 2 }`.
fn scalar(tag: &str, x: f64) -> Message {
    Message::default().bytes(1, tag.as_bytes()).float(2, x as f32)
}

/// `Summary.Value { tag = 1, tensor = 8, metadata = 9 }` for the text plugin: a string tensor.
fn text(tag: &str, text: &str) -> Message {
    const DT_STRING: u64 = 7;
    let plugin = Message::default().bytes(1, b"text");
    let metadata = Message::default().message(1, &plugin);
    let tensor = Message::default()
        .number(1, DT_STRING)
        .message(2, &Message::default())
        .bytes(8, text.as_bytes());
    Message::default().bytes(1, tag.as_bytes()).message(8, &tensor).message(9, &metadata)
}

/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), rotated and offset as the format asks.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    /// RFC 3720, B.4: the CRC-32C of 32 zero bytes is 0x8A9136AA.
    #[test]
    fn checksum_is_the_published_one() {
        let unmask = |crc: u32| crc.wrapping_sub(0xA282_EAD8).rotate_left(15);
        assert_eq!(unmask(super::masked_crc(&[0; 32])), 0x8A91_36AA);
        assert_eq!(unmask(super::masked_crc(&[0xFF; 32])), 0x62A8_AB43);
    }
}
