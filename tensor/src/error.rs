//! The one error type of the workspace.
//!
//! Everything the world can cause (files, weights, config, tokenizers, requests, memory, devices) is
//! an [`Error`]; a mistake of the calling code is a panic. An error says what is wrong, where, and
//! what to do, in one sentence that a user can act on; callers add the place with `context`.

use std::fmt;

/// What kind of thing went wrong; decides exit codes and HTTP statuses, never the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or stream could not be read or written.
    Io,
    /// Bytes that do not follow their format.
    Format,
    /// Well-formed input that puyu does not run: an unknown architecture, dtype, rope type.
    Unsupported,
    /// A configuration, flag, prompt or request that contradicts itself or the model.
    Invalid,
    /// Something named does not exist.
    NotFound,
    /// A network peer failed or refused.
    Network,
    /// Not enough memory, disk or context.
    Resource,
    /// The accelerator failed.
    Device,
    /// The user stopped the work.
    Interrupted,
}

/// An error with its kind and the places it passed through, outermost first.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// `Result` with the workspace's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error with the place it happened put in front: `place: message`.
    #[must_use]
    pub fn context(self, place: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{place}: {}", self.message) }
    }
}

/// Shorthand constructors, one per common kind.
macro_rules! constructors {
    ($($name:ident => $kind:ident),*) => {
        impl Error {
            $(
                #[doc = concat!("An [`ErrorKind::", stringify!($kind), "`] error.")]
                pub fn $name(message: impl Into<String>) -> Self {
                    Self::new(ErrorKind::$kind, message)
                }
            )*
        }
    };
}
constructors!(format => Format, unsupported => Unsupported, invalid => Invalid,
    not_found => NotFound, network => Network, resource => Resource, device => Device);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::OutOfMemory => {
                ErrorKind::Resource
            }
            _ => ErrorKind::Io,
        };
        Self::new(kind, e.to_string())
    }
}

/// Adds the place to an error on its way up.
pub trait Context<T> {
    /// Puts `place` in front of the error's message.
    ///
    /// # Errors
    /// The same error, with its place.
    fn context(self, place: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.into().context(place))
    }
}
