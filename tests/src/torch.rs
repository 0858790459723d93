//! Files as `torch.save` writes them, built by hand: a zip of stored members, and a pickle of a state
//! dict.

/// A zip file of stored members under the folder `name`.
pub fn torch_zip(name: &str, members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (member, bytes) in members {
        let path = format!("{name}/{member}");
        let at = out.len() as u32;
        // Version, flags, method, time, date, checksum (nobody checks it), sizes, lengths of names.
        let mut common = vec![0; 16];
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((path.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        // Drop the last two of the zeros: version, flags, method, time, date and checksum are 14 bytes.
        common.drain(..2);
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(path.as_bytes());
        out.extend(*bytes);
        directory.extend(b"PK\x01\x02\0\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(path.as_bytes());
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// One tensor of a state dict.
pub struct TorchTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// The class of its storage, as `FloatStorage`.
    pub storage: &'a str,
    /// The member `data/<key>` that holds the storage.
    pub key: &'a str,
    /// Elements before the first.
    pub offset: u32,
    /// Sizes.
    pub shape: &'a [u32],
    /// Strides in elements.
    pub strides: &'a [u32],
}

/// The pickle (protocol 2) of an `OrderedDict` of tensors.
pub fn torch_pickle(tensors: &[TorchTensor]) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\nq\0)Rq\x01(".to_vec();
    for t in tensors {
        text(&mut out, t.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\nq\x02((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{}\nq\x03", t.storage).bytes());
        text(&mut out, t.key);
        text(&mut out, "cpu");
        int(&mut out, 1000);
        out.extend(b"tQ");
        int(&mut out, t.offset);
        for list in [t.shape, t.strides] {
            out.push(b'(');
            list.iter().for_each(|n| int(&mut out, *n));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    // The versions that PyTorch hangs on the dict.
    out.extend(b"u}q\x04");
    text(&mut out, "_metadata");
    out.extend(b"ccollections\nOrderedDict\n)Rsb.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn int(out: &mut Vec<u8>, n: u32) {
    out.push(b'J');
    out.extend(n.to_le_bytes());
}
