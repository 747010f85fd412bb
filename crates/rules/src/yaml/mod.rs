//! YAML as the rule format reads it: the first document of a file as a tree of nodes that remember where they stood
//! and how they were written, because quoting decides what a value is.

mod parse;
mod scalar;

pub(crate) use parse::parse;
pub(crate) use scalar::Scalar;

/// A value and the byte offset it was read at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) at: usize,
}

/// What a node is. Scalars stay text until someone asks for a type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Text as written; `plain` when unquoted, so that it may be a number, a bool or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// Something a file says that cannot be read; `at` is a byte offset.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl Node {
    /// The typed value of a scalar; `None` for lists and maps.
    pub(crate) fn scalar(&self) -> Option<Scalar> {
        match &self.kind {
            Kind::Scalar { text, plain: true } => Some(scalar::resolve(text)),
            Kind::Scalar { text, plain: false } => Some(Scalar::Text(text.clone())),
            _ => None,
        }
    }

    /// A scalar's text whatever its type; null is empty.
    pub(crate) fn text(&self) -> Option<String> {
        match (&self.kind, self.scalar()) {
            (_, Some(Scalar::Null)) => Some(String::new()),
            (Kind::Scalar { text, .. }, _) => Some(text.clone()),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }

    /// What to call it in a message.
    pub(crate) fn noun(&self) -> &'static str {
        match (&self.kind, self.scalar()) {
            (Kind::List(_), _) => "a list",
            (Kind::Map(_), _) => "a map",
            (_, Some(Scalar::Null)) => "nothing",
            (_, Some(Scalar::Bool(_))) => "a truth value",
            (_, Some(Scalar::Int(_))) => "a whole number",
            (_, Some(Scalar::Float(_))) => "a number",
            (_, Some(Scalar::Timestamp)) => "a date",
            _ => "text",
        }
    }
}
