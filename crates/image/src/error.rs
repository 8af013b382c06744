//! Why an image could not be imported, found or removed.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use sys::beneath::BeneathError;

use crate::digest::Digest;
use crate::platform;

/// What is wrong with an image reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceFault {
    /// No name before the tag or digest.
    #[error("the name is empty")]
    Empty,
    /// Domain and path exceed 255 bytes.
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// 64 hex digits would be taken for an image id.
    #[error("a name of 64 hex digits would be an image id")]
    LooksLikeId,
    /// The registry is no host with an optional port.
    #[error("the registry is not a host with an optional port")]
    Domain,
    /// A repository path has upper-case letters.
    #[error("the repository name has upper-case letters")]
    Uppercase,
    /// A repository path breaks the grammar.
    #[error("the repository name is malformed")]
    Path,
    /// The tag breaks the grammar.
    #[error("the tag is malformed")]
    Tag,
    /// The digest is not `sha256:` with 64 lower-case hex digits.
    #[error("the digest is not sha256 with 64 lower-case hex digits")]
    Digest,
}

/// What is wrong with an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// An environment entry without name or `=`, or with NUL.
    #[error("Env has the entry {entry:?}")]
    Env {
        /// The entry as the image has it.
        entry: String,
    },
    /// NUL where the kernel takes C strings.
    #[error("{property} contains NUL")]
    Nul {
        /// The property's name in the OCI configuration.
        property: &'static str,
    },
    /// A user with control characters.
    #[error("User is {user:?}")]
    User {
        /// The user as the image has it.
        user: String,
    },
    /// A stop signal with control characters.
    #[error("StopSignal is {signal:?}")]
    StopSignal {
        /// The signal as the image has it.
        signal: String,
    },
    /// A working directory that is relative or has NUL.
    #[error("WorkingDir is {path:?}")]
    WorkingDir {
        /// The path as the image has it.
        path: String,
    },
    /// A volume path that is relative, has `..` or NUL.
    #[error("Volumes has the path {path:?}")]
    Volume {
        /// The path as the image has it.
        path: String,
    },
}

/// Why a layer's entry is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// `..` in the entry's name or its hard link's target.
    #[error("it leaves the layer's root")]
    Escapes,
    /// A parent directory is a symbolic link or no directory.
    #[error("a parent is not a directory of this layer")]
    Parent,
    /// An empty name, NUL, or a name longer than 255 bytes.
    #[error("the name is malformed")]
    Name,
    /// The root of the layer can only be a directory.
    #[error("the layer's root is not a directory")]
    Root,
    /// A whiteout of nothing, of `.` or of `..`, or a whiteout used as a directory.
    #[error("the whiteout is malformed")]
    Whiteout,
    /// A hard link without a target, to itself, or to what this layer does not have as a file.
    #[error("the hard link's target is not a file of this layer")]
    LinkTarget,
    /// A symbolic link without a target or one that is too long.
    #[error("the symbolic link's target is malformed")]
    SymlinkTarget,
    /// An owner beyond the ids that are mapped for containers.
    #[error("the owner is not mapped in the user namespace")]
    Owner,
    /// A sparse file, a multi-volume part or another type that layers do not have.
    #[error("the entry type is not supported")]
    Type,
    /// Readers of this archive would disagree about what it contains.
    #[error("the header is ambiguous")]
    Ambiguous,
}

/// Which limit a layer exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitFault {
    /// Unpacked bytes.
    #[error("unpacked bytes")]
    Bytes,
    /// Unpacked bytes per compressed byte.
    #[error("compression ratio")]
    Ratio,
    /// Number of entries.
    #[error("entries")]
    Entries,
    /// Directories above an entry.
    #[error("directory depth")]
    Depth,
    /// Bytes in a path.
    #[error("path length")]
    PathLength,
    /// Bytes of one entry's extended header.
    #[error("header size")]
    Header,
    /// Time spent on one layer.
    #[error("time")]
    Time,
}

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Text that should be a digest is not `sha256:` with 64 lower-case hex digits.
    #[error("invalid digest {text:?}")]
    InvalidDigest {
        /// The text.
        text: String,
    },
    /// Text that should be an image reference is none.
    #[error("invalid image reference {text:?}")]
    InvalidReference {
        /// The text, shortened.
        text: String,
        /// What is wrong with it.
        #[source]
        source: ReferenceFault,
    },
    /// An id prefix that several images have.
    #[error("image id prefix {prefix} is ambiguous: {}", candidates.join(", "))]
    AmbiguousId {
        /// The prefix.
        prefix: String,
        /// The ids that begin with it.
        candidates: Vec<String>,
    },
    /// The image's configuration has content that is refused.
    #[error("image configuration refused")]
    Config {
        /// What is wrong with it.
        #[source]
        source: ConfigFault,
    },
    /// A file operation failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file operation below a directory failed.
    #[error("file operation below a directory failed")]
    Beneath(
        /// Operation, path and errno.
        #[from]
        BeneathError,
    ),
    /// A JSON document cannot be parsed.
    #[error("parse {document}")]
    Json {
        /// Which document.
        document: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The source is neither an OCI layout nor a docker-archive.
    #[error("{} is neither an OCI layout nor a docker-archive", path.display())]
    UnknownFormat {
        /// The file or directory.
        path: PathBuf,
    },
    /// The source lacks a file that it refers to.
    #[error("{name} is missing in the image source")]
    Missing {
        /// The file's path in the source.
        name: String,
    },
    /// The outer archive or a layout is malformed.
    #[error("malformed image source: {name}")]
    MalformedSource {
        /// The document or entry.
        name: String,
    },
    /// A JSON document is larger than such documents may be.
    #[error("{name} has {bytes} bytes, the limit is {limit}")]
    DocumentTooLarge {
        /// The document.
        name: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A document is both manifest and index, or its media types contradict each other.
    #[error("{digest} is ambiguous: manifest or index")]
    AmbiguousManifest {
        /// The document.
        digest: Digest,
    },
    /// A media type that is not supported at this place.
    #[error("unsupported media type {media_type:?}")]
    MediaType {
        /// The media type.
        media_type: String,
    },
    /// No image for this machine in the source.
    #[error("no image for {platform} in the source")]
    Platform {
        /// The wanted `os/architecture`.
        platform: String,
    },
    /// One name was given for a source with several images.
    #[error("the source has {images} images, so they cannot all be named {reference}")]
    SeveralImages {
        /// The name.
        reference: String,
        /// How many images there are.
        images: usize,
    },
    /// The manifest and the configuration disagree about the number of layers.
    #[error("the manifest has {layers} layers, the configuration {diff_ids}")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Diff ids of the configuration.
        diff_ids: usize,
    },
    /// More layers than overlayfs stacks.
    #[error("the image has {layers} layers, the limit is {limit}")]
    TooManyLayers {
        /// Layers of the image.
        layers: usize,
        /// The limit.
        limit: usize,
    },
    /// A blob has another digest than said.
    #[error("blob {expected} has the digest {actual}")]
    DigestMismatch {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A blob has another size than said.
    #[error("blob {name} has {actual} bytes instead of {expected}")]
    SizeMismatch {
        /// The blob's digest or path.
        name: String,
        /// What it should be.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// An unpacked layer has another diff id than the configuration says.
    #[error("layer {expected} unpacks to {actual}")]
    DiffIdMismatch {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A layer cannot be read: truncated, corrupt or not an archive.
    #[error("read layer")]
    LayerRead {
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A layer is no well-formed tar archive.
    #[error("malformed layer archive at byte {offset}")]
    LayerArchive {
        /// Where the bad block begins, in the uncompressed archive.
        offset: u64,
    },
    /// A layer's entry is refused.
    #[error("layer entry {path:?} refused")]
    Entry {
        /// The entry's name.
        path: String,
        /// Why.
        #[source]
        source: EntryFault,
    },
    /// A layer's entry cannot be made.
    #[error("{operation} layer entry {path:?}")]
    Unpack {
        /// What was tried.
        operation: &'static str,
        /// The entry's name.
        path: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// A layer exceeds a limit.
    #[error("layer exceeds the limit at entry {path:?}")]
    Limit {
        /// The entry at which it did.
        path: String,
        /// Which limit.
        #[source]
        source: LimitFault,
    },
    /// A layer was unpacked without a transcript of its archive.
    #[error("layer {diff_id} cannot be exported: remove its images and pull them again")]
    NoTranscript {
        /// The layer.
        diff_id: Digest,
    },
    /// The transcript of a layer's archive cannot be read.
    #[error("read the transcript of layer {diff_id}")]
    Transcript {
        /// The layer.
        diff_id: Digest,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A layer has more content than is kept that its own later entries replace.
    #[error("layer {diff_id} cannot be exported: its archive has {path:?} several times")]
    ContentLost {
        /// The layer.
        diff_id: Digest,
        /// The path whose first content is gone.
        path: String,
    },
    /// A file of a layer is not what was unpacked.
    #[error("file {path:?} of layer {diff_id} was changed or removed")]
    LayerChanged {
        /// The layer.
        diff_id: Digest,
        /// The file.
        path: String,
    },
    /// The process that unpacks layers failed.
    #[error("unpack a layer in a process of its own")]
    Unpacker {
        /// What it said, or how it ended.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer was removed again and again while it was needed for an image.
    #[error("layer {diff_id} was removed meanwhile")]
    LayerVanished {
        /// The layer.
        diff_id: Digest,
    },
    /// A record has a version or content that this program does not know.
    #[error("record {} is not usable", path.display())]
    Record {
        /// The record's file.
        path: PathBuf,
    },
}

impl ImageError {
    /// No image for this machine.
    #[must_use]
    pub fn no_platform() -> Self {
        Self::Platform { platform: platform::host() }
    }

    /// Whether a layer wants what the kernel does not do for anybody: a name or an attribute that
    /// is too long, say. Then the layer is at fault, not the disk.
    #[must_use]
    pub fn is_impossible_entry(&self) -> bool {
        let Self::Unpack { path, source, .. } = self else { return false };
        let refusals = [Errno::E2BIG, Errno::EINVAL, Errno::ENAMETOOLONG, Errno::ERANGE];
        !path.is_empty() && refusals.contains(source)
    }

    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        let errno = match self {
            Self::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Beneath(error) => Some(error.source),
            Self::Unpack { source, .. } => Some(*source),
            _ => None,
        };
        matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT))
    }
}
