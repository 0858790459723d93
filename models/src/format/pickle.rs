//! Reading PyTorch `.bin` checkpoints: a zip of raw storages and a pickle that says which tensor is
//! which view of which storage. A pickle is a program; this machine knows only the steps that build a
//! state dict, and refuses everything else by name, so that no file can run code.
//! Opcodes: CPython's `pickletools`; the tensor calls: PyTorch's `torch/_utils.py`.

use super::OpenOptions;
use super::cursor::{Cursor, quote};
use super::safetensors::open_index;
use super::table::{Entry, Stored, Table, checked_shape};
use super::zip::{self, Member};
use puyu_tensor::{Context, DType, Dims, Error, Result, Spec};
use std::collections::HashMap;
use std::path::Path;

/// The tensors of one `.bin` file.
///
/// # Errors
/// If the file cannot be read, breaks the format, or its pickle does anything but build a state dict.
pub fn open(path: &Path, options: OpenOptions) -> Result<Table> {
    let file = options.bytes(path)?;
    let entries = parse(file.as_slice(), 0).context(path.display())?;
    Table::new(vec![file], entries).context(path.display())
}

/// The tensors of a checkpoint split over several files, listed in `pytorch_model.bin.index.json`.
///
/// # Errors
/// As [`open`], or if the index is wrong.
pub fn open_sharded(index: &Path, options: OpenOptions) -> Result<Table> {
    open_index(index, options, parse)
}

/// Reads the state dict of a `.bin` file; `file` is its index in the table to be.
///
/// # Errors
/// As [`open`].
pub fn parse(bytes: &[u8], file: usize) -> Result<Vec<Entry>> {
    let members = zip::members(bytes)?;
    let pickle = members.iter().find(|m| m.name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or_else(|| Error::format("the zip file has no data.pkl"))?;
    let folder = pickle.name.strip_suffix("data.pkl").expect("it was found by this ending");
    let by_name: HashMap<&str, &Member> =
        members.iter().filter_map(|m| Some((m.name.strip_prefix(folder)?, m))).collect();
    if let Some(order) = by_name.get("byteorder")
        && &bytes[order.range.clone()] != b"little"
    {
        return Err(Error::unsupported("the checkpoint was saved on a big-endian machine"));
    }
    let mut machine = Machine::default();
    let top = machine.run(&bytes[pickle.range.clone()]).context("data.pkl")?;
    let Node::Dict(items) = &machine.nodes[top] else {
        return Err(Error::unsupported("data.pkl holds no state dict (a dict of tensors)"));
    };
    let mut entries = Vec::with_capacity(items.len());
    for (key, value) in items {
        let name = machine.text(*key).context("a key of the state dict")?;
        let entry = machine.tensor(name, *value, &by_name, file);
        entries.push(entry.context(format_args!("tensor {}", quote(name)))?);
    }
    Ok(entries)
}

/// What a pickle may name. The text is `module name`, as in the file.
#[derive(Clone, Copy)]
enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(Stored),
}

const GLOBALS: [(&str, Global); 8] = [
    ("torch._utils _rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils _rebuild_parameter", Global::RebuildParameter),
    ("collections OrderedDict", Global::OrderedDict),
    ("torch FloatStorage", Global::Storage(Stored::Plain(DType::F32))),
    ("torch HalfStorage", Global::Storage(Stored::Plain(DType::F16))),
    ("torch BFloat16Storage", Global::Storage(Stored::Plain(DType::BF16))),
    ("torch LongStorage", Global::Storage(Stored::Other("I64"))),
    ("torch IntStorage", Global::Storage(Stored::Other("I32"))),
];

/// A value of the pickle, referring to others by their place in [`Machine::nodes`]: a deep or
/// self-containing pickle is then no deep or endless structure of ours.
enum Node<'a> {
    None,
    Int(i64),
    Text(&'a str),
    Tuple(Vec<usize>),
    List,
    Dict(Vec<(usize, usize)>),
    Global(Global),
    /// Elements of a kind in the zip member `data/<key>`.
    Storage {
        stored: Stored,
        key: &'a str,
    },
    Tensor {
        storage: usize,
        offset: i64,
        shape: usize,
        strides: usize,
    },
}

/// The pickle machine: a stack, a memo, and every value made so far.
#[derive(Default)]
struct Machine<'a> {
    nodes: Vec<Node<'a>>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: HashMap<u32, usize>,
}

impl<'a> Machine<'a> {
    /// Runs the program and gives the value it leaves.
    fn run(&mut self, program: &'a [u8]) -> Result<usize> {
        let mut c = Cursor::new(program);
        loop {
            let at = c.position();
            let op = c.u8()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op, &mut c).context(format_args!("opcode {op:#04x} at {at}"))?;
        }
    }

    /// Runs one opcode.
    fn step(&mut self, op: u8, c: &mut Cursor<'a>) -> Result<()> {
        match op {
            // PROTO, FRAME: nothing to do.
            0x80 => c.take(1).map(drop),
            0x95 => c.take(8).map(drop),
            // MARK and what it delimits.
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items))
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set_items(&items)
            }
            b'e' => self.since_mark().map(drop),
            // Constants.
            b'N' | 0x88 | 0x89 => self.push(Node::None),
            b'K' => {
                let n = c.u8()?;
                self.push(Node::Int(n.into()))
            }
            b'M' => {
                let n = c.u16()?;
                self.push(Node::Int(n.into()))
            }
            b'J' => {
                let n = c.u32()? as i32;
                self.push(Node::Int(n.into()))
            }
            0x8a => {
                let n = long(c)?;
                self.push(Node::Int(n))
            }
            b'X' => {
                let n = c.u32()?;
                self.push_text(c, n as usize)
            }
            0x8c => {
                let n = c.u8()?;
                self.push_text(c, n.into())
            }
            // Containers.
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let items = self.stack.split_off(self.depth(n)?);
                self.push(Node::Tuple(items))
            }
            b']' => self.push(Node::List),
            b'}' => self.push(Node::Dict(Vec::new())),
            b'a' => self.pop().map(drop),
            b's' => {
                let items = self.stack.split_off(self.depth(2)?);
                self.set_items(&items)
            }
            // The memo.
            b'q' => {
                let n = c.u8()?;
                self.remember(n.into())
            }
            b'r' => {
                let n = c.u32()?;
                self.remember(n)
            }
            0x94 => self.remember(self.memo.len() as u32),
            b'h' => {
                let n = c.u8()?;
                self.recall(n.into())
            }
            b'j' => {
                let n = c.u32()?;
                self.recall(n)
            }
            // Names, storages and the two allowed calls.
            b'c' => {
                let (module, name) = (line(c)?, line(c)?);
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                self.global(self.text(module)?, self.text(name)?)
            }
            b'Q' => self.persistent(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            _ => Err(Error::unsupported("a state dict does not need this opcode; it is refused")),
        }
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn push_text(&mut self, c: &mut Cursor<'a>, n: usize) -> Result<()> {
        let text = std::str::from_utf8(c.take(n)?);
        self.push(Node::Text(text.map_err(|e| Error::format(format!("text is not UTF-8: {e}")))?))
    }

    /// Where the last `n` values begin; a mark may not lie between them.
    fn depth(&self, n: usize) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let at = self.stack.len().checked_sub(n).filter(|at| *at >= floor);
        at.ok_or_else(|| Error::format("the pickle takes more values than it has made"))
    }

    fn pop(&mut self) -> Result<usize> {
        let at = self.depth(1)?;
        Ok(self.stack.remove(at))
    }

    fn top(&self) -> Result<usize> {
        Ok(self.stack[self.depth(1)?])
    }

    fn since_mark(&mut self) -> Result<Vec<usize>> {
        let mark = self.marks.pop().ok_or_else(|| Error::format("the pickle has no mark here"))?;
        Ok(self.stack.split_off(mark))
    }

    fn set_items(&mut self, items: &[usize]) -> Result<()> {
        let dict = self.top()?;
        let Node::Dict(pairs) = &mut self.nodes[dict] else {
            return Err(Error::format("items are set on something that is no dict"));
        };
        pairs.extend(items.chunks_exact(2).map(|kv| (kv[0], kv[1])));
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        self.memo.insert(slot, self.top()?);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        let found = self.memo.get(&slot).copied();
        self.stack.push(found.ok_or_else(|| Error::format(format!("memo {slot} is empty")))?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let path = format!("{module} {name}");
        match GLOBALS.into_iter().find(|(known, _)| *known == path) {
            Some((_, global)) => self.push(Node::Global(global)),
            None => Err(Error::unsupported(format!(
                "the file asks for {}, which loading weights does not need; it is refused",
                quote(&path.replace(' ', "."))
            ))),
        }
    }

    /// BINPERSID: the tuple ("storage", kind, key, device, count) becomes a storage.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        if let [_, kind, key, _, _] = self.tuple(id)?
            && let Node::Global(Global::Storage(stored)) = self.nodes[*kind]
        {
            let key = self.text(*key)?;
            return self.push(Node::Storage { stored, key });
        }
        Err(Error::format("a persistent id that names no storage"))
    }

    /// REDUCE: calls one of the allowed functions with a tuple of arguments.
    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        match (&self.nodes[function], arguments) {
            (Node::Global(Global::OrderedDict), []) => self.push(Node::Dict(Vec::new())),
            (Node::Global(Global::RebuildParameter), [tensor, ..]) => {
                self.stack.push(*tensor);
                Ok(())
            }
            (Node::Global(Global::RebuildTensor), [storage, offset, shape, strides, ..]) => {
                let node = Node::Tensor {
                    storage: *storage,
                    offset: self.int(*offset)?,
                    shape: *shape,
                    strides: *strides,
                };
                self.push(node)
            }
            _ => Err(Error::unsupported("a call that builds no state dict; it is refused")),
        }
    }

    /// BUILD: attributes set on a dict (PyTorch keeps versions of modules there) are dropped.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.nodes[self.top()?] {
            Node::Dict(_) => Ok(()),
            _ => Err(Error::unsupported("attributes set on something that is no dict")),
        }
    }

    fn text(&self, node: usize) -> Result<&'a str> {
        match self.nodes[node] {
            Node::Text(text) => Ok(text),
            _ => Err(Error::format("a text was expected")),
        }
    }

    fn int(&self, node: usize) -> Result<i64> {
        match self.nodes[node] {
            Node::Int(n) => Ok(n),
            _ => Err(Error::format("a number was expected")),
        }
    }

    fn tuple(&self, node: usize) -> Result<&[usize]> {
        match &self.nodes[node] {
            Node::Tuple(items) => Ok(items),
            _ => Err(Error::format("a tuple was expected")),
        }
    }

    /// A tuple of sizes or strides.
    fn sizes(&self, node: usize) -> Result<Vec<u64>> {
        let wrong = |n| Error::format(format!("{n} is no size"));
        let sizes = self.tuple(node)?.iter().map(|n| {
            let n = self.int(*n)?;
            u64::try_from(n).map_err(|_| wrong(n))
        });
        sizes.collect()
    }

    /// The tensor at `node` as an entry, checked to lie within its storage.
    fn tensor(
        &self,
        name: &str,
        node: usize,
        members: &HashMap<&str, &Member>,
        file: usize,
    ) -> Result<Entry> {
        let Node::Tensor { storage, offset, shape, strides } = self.nodes[node] else {
            return Err(Error::unsupported("its value is no tensor"));
        };
        let Node::Storage { stored, key } = self.nodes[storage] else {
            return Err(Error::format("it is built on something that is no storage"));
        };
        let member = members.get(format!("data/{key}").as_str());
        let member = member.ok_or_else(|| {
            Error::format(format!("its storage {} is not in the file", quote(key)))
        })?;
        let element = element_bytes(stored);
        let shape = checked_shape(&self.sizes(shape)?)?;
        let strides = self.sizes(strides)?;
        let extent = extent(&shape, &strides)?;
        let begin = u64::try_from(offset).ok().and_then(|o| o.checked_mul(element));
        let end = begin.and_then(|b| b.checked_add(extent.checked_mul(element)?));
        let (Some(begin), Some(end)) = (begin, end) else {
            return Err(Error::format(format!("its offset {offset} lies beyond any file")));
        };
        if end > member.range.len() as u64 {
            return Err(Error::format(format!(
                "it reaches to byte {end} of its storage, which has {} (is the file cut off?)",
                member.range.len()
            )));
        }
        // A view that repeats elements could be larger than any file; no checkpoint holds one.
        if shape.numel() as u64 > extent {
            return Err(Error::unsupported(format!(
                "its strides {strides:?} repeat elements of shape {shape}"
            )));
        }
        let strides: Dims = strides.iter().map(|s| *s as usize).collect();
        let plain = Spec { strides, ..Spec::new(shape, DType::F32) }.is_contiguous();
        Ok(Entry {
            name: name.into(),
            file,
            offset: member.range.start + begin as usize,
            len: (end - begin) as usize,
            shape,
            strides: (!plain).then_some(strides),
            stored,
        })
    }
}

/// Bytes of one element of a storage.
fn element_bytes(stored: Stored) -> u64 {
    match stored {
        Stored::Plain(d) => d.block_bytes() as u64,
        Stored::Other("I64") => 8,
        _ => 4,
    }
}

/// Elements from the first to just past the last of a strided view.
fn extent(shape: &Dims, strides: &[u64]) -> Result<u64> {
    if shape.len() != strides.len() {
        return Err(Error::format(format!("it has {shape} sizes and {strides:?} strides")));
    }
    if shape.numel() == 0 {
        return Ok(0);
    }
    let far = shape
        .iter()
        .zip(strides)
        .try_fold(1u64, |sum, (n, s)| sum.checked_add((*n as u64 - 1).checked_mul(*s)?));
    far.ok_or_else(|| Error::format(format!("its strides {strides:?} overflow")))
}

/// LONG1: a little-endian integer of a length in bytes.
fn long(c: &mut Cursor<'_>) -> Result<i64> {
    let n = usize::from(c.u8()?);
    let bytes = c.take(n)?;
    if n > 8 {
        return Err(Error::format(format!("an integer of {n} bytes")));
    }
    let negative = bytes.last().is_some_and(|b| *b >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..n].copy_from_slice(bytes);
    Ok(i64::from_le_bytes(wide))
}

/// The text up to the next line feed.
fn line<'a>(c: &mut Cursor<'a>) -> Result<&'a str> {
    let mut rest = c.clone();
    let mut n = 0;
    while rest.u8()? != b'\n' {
        n += 1;
    }
    let text = std::str::from_utf8(c.take(n)?);
    c.take(1)?;
    text.map_err(|e| Error::format(format!("a name is not UTF-8: {e}")))
}
