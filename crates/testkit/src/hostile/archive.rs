//! A tar archive that takes any name and any header.

use tar::Header;

/// A header's fields; tests change what they are about.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// The type flag.
    pub kind: u8,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Overrides the size of the content.
    pub size: Option<u64>,
}

/// A regular file of root's.
pub const FILE: Fields =
    Fields { kind: b'0', mode: 0o644, uid: 0, gid: 0, mtime: 1_000, size: None };
/// A directory of root's.
pub const DIR: Fields = Fields { kind: b'5', mode: 0o755, ..FILE };

/// Bytes of a header, and of what content is padded to.
const BLOCK: usize = 512;

/// An archive that is being built.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; `name` and `link` have at most 100 bytes, which are written as they are.
    #[must_use]
    pub fn entry(self, fields: Fields, name: &str, link: &str, content: &[u8]) -> Self {
        self.forged(fields, name, link, content, |_| ())
    }

    /// Adds an entry whose header `forge` changes before its checksum is set.
    #[must_use]
    pub fn forged(
        mut self,
        fields: Fields,
        name: &str,
        link: &str,
        content: &[u8],
        forge: impl FnOnce(&mut [u8; BLOCK]),
    ) -> Self {
        let length = u64::try_from(content.len()).expect("sizes fit");
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        write_name(&mut old.name, name);
        write_name(&mut old.linkname, link);
        old.linkflag = [fields.kind];
        header.set_mode(fields.mode);
        header.set_uid(fields.uid);
        header.set_gid(fields.gid);
        header.set_mtime(fields.mtime);
        header.set_size(fields.size.unwrap_or(length));
        forge(header.as_mut_bytes());
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, name: &str, content: &str) -> Self {
        self.entry(FILE, name, "", content.as_bytes())
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, name: &str) -> Self {
        self.entry(DIR, name, "", b"")
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(Fields { kind: b'2', ..FILE }, name, target, b"")
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(Fields { kind: b'1', ..FILE }, name, target, b"")
    }

    /// Adds PAX records for the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.entry(Fields { kind: b'x', ..FILE }, "pax", "", &pax_records(records))
    }

    /// Adds PAX records for all following entries.
    #[must_use]
    pub fn global_pax(self, records: &[(&str, &[u8])]) -> Self {
        self.entry(Fields { kind: b'g', ..FILE }, "pax", "", &pax_records(records))
    }

    /// Adds a GNU long name for the next entry.
    #[must_use]
    pub fn long_name(self, name: &str) -> Self {
        let content = [name.as_bytes(), b"\0"].concat();
        self.entry(Fields { kind: b'L', ..FILE }, "././@LongLink", "", &content)
    }

    /// Adds bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// The archive without its end.
    #[must_use]
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    /// The archive.
    #[must_use]
    pub fn build(mut self) -> Vec<u8> {
        self.bytes.extend([0; 2 * BLOCK]);
        self.bytes
    }
}

fn write_name(field: &mut [u8], name: &str) {
    let target = field.get_mut(..name.len());
    target.expect("names in headers are short").copy_from_slice(name.as_bytes());
}

fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    records.iter().flat_map(|(key, value)| pax_record(key, value)).collect()
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &body].concat()
}
