//! The zip files that `torch.save` writes: entries stored without compression, so that a tensor's
//! bytes can be used where they lie. Compressed or encrypted entries are refused.
//! Format: PKWARE APPNOTE 6.3, sections 4.3.7 to 4.3.16 and 4.5.3 (64-bit sizes).

use super::cursor::{Cursor, quote};
use puyu_tensor::{Context, Error, Result};
use std::ops::Range;

/// What a file begins with when its first member follows.
pub(crate) const MAGIC: [u8; 4] = *b"PK\x03\x04";

const CENTRAL: u32 = 0x0201_4b50;
const END: [u8; 4] = *b"PK\x05\x06";
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;

/// One member: its name and where its bytes lie in the file.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) range: Range<usize>,
}

/// The members of a zip file.
///
/// # Errors
/// If it is cut off or damaged, or a member is compressed or encrypted.
pub(crate) fn members(bytes: &[u8]) -> Result<Vec<Member>> {
    let (count, start) = directory(bytes)?;
    let mut c = Cursor::at(bytes, start);
    // A directory entry takes 46 bytes, so the count cannot exceed what the file can hold.
    if count > (c.left() / 46) as u64 {
        return Err(Error::format(format!("the zip directory counts {count} members")));
    }
    let mut members = Vec::with_capacity(count as usize);
    for i in 0..count {
        members.push(member(&mut c, bytes).context(format_args!("zip member {i}"))?);
    }
    Ok(members)
}

/// How many members there are, and where the list of them begins.
fn directory(bytes: &[u8]) -> Result<(u64, usize)> {
    // The end record is 22 bytes and a comment of at most 65,535.
    let tail = bytes.len().saturating_sub(22 + 65_535);
    let found = bytes[tail..].windows(4).rposition(|w| w == END);
    let end =
        tail + found.ok_or_else(|| Error::format("the zip file is cut off: no end record"))?;
    let mut c = Cursor::at(bytes, end + 10);
    let count = c.u16()?;
    c.take(4)?;
    let start = c.u32()?;
    let comment = c.u16()?;
    c.take(comment.into())?;
    if count != u16::MAX && start != u32::MAX {
        return Ok((count.into(), start as usize));
    }
    let mut c = Cursor::at(bytes, end.saturating_sub(20));
    signature(&mut c, LOCATOR64)?;
    c.take(4)?;
    let at = c.u64()?;
    let mut c = Cursor::at(bytes, usize::try_from(at).unwrap_or(usize::MAX));
    signature(&mut c, END64)?;
    c.take(28)?;
    let count = c.u64()?;
    c.take(8)?;
    Ok((count, usize::try_from(c.u64()?).unwrap_or(usize::MAX)))
}

fn signature(c: &mut Cursor<'_>, wanted: u32) -> Result<()> {
    match c.u32()? {
        found if found == wanted => Ok(()),
        found => Err(Error::format(format!("zip signature {found:08x}, expected {wanted:08x}"))),
    }
}

/// Reads one entry of the directory and finds its bytes through its local header.
fn member(c: &mut Cursor<'_>, bytes: &[u8]) -> Result<Member> {
    signature(c, CENTRAL)?;
    c.take(4)?;
    let flags = c.u16()?;
    let method = c.u16()?;
    c.take(8)?;
    let (packed, size) = (u64::from(c.u32()?), u64::from(c.u32()?));
    let (name, extra, comment) = (c.u16()?, c.u16()?, c.u16()?);
    c.take(8)?;
    let header = u64::from(c.u32()?);
    let name = String::from_utf8_lossy(c.take(name.into())?).into_owned();
    let mut wide = [size, packed, header];
    widen(c.take(extra.into())?, &mut wide).context(quote(&name))?;
    let [size, packed, header] = wide;
    c.take(comment.into())?;
    if flags & 1 != 0 || method != 0 || packed != size {
        return Err(Error::unsupported(format!(
            "{} is compressed or encrypted, which torch.save never does",
            quote(&name)
        )));
    }
    let mut local = Cursor::at(bytes, usize::try_from(header).unwrap_or(usize::MAX));
    local.take(26).context(quote(&name))?;
    let skip = usize::from(local.u16()?) + usize::from(local.u16()?);
    local.take(skip).context(quote(&name))?;
    let start = local.position();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    local.take(size).context(quote(&name))?;
    Ok(Member { name, range: start..start + size })
}

/// Replaces the values of `fields` that are all ones by those of the 64-bit extra field, in order.
fn widen(extra: &[u8], fields: &mut [u64; 3]) -> Result<()> {
    let mut c = Cursor::new(extra);
    while c.left() >= 4 {
        let (id, len) = (c.u16()?, c.u16()?);
        let mut field = Cursor::new(c.take(len.into())?);
        if id == 1 {
            for f in fields.iter_mut().filter(|f| **f == u64::from(u32::MAX)) {
                *f = field.u64()?;
            }
        }
    }
    Ok(())
}
