//! Values of check parameters, and how checks read them.

use std::collections::BTreeMap;

use crate::yaml::{Kind, Node, Scalar};

/// A parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing was written.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number; `0644` is 420.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// An unquoted date; never a text.
    Timestamp,
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A map.
    Map(BTreeMap<String, Value>),
}

impl Value {
    pub(crate) fn of(node: &Node) -> Self {
        match &node.kind {
            Kind::List(items) => Self::List(items.iter().map(Self::of).collect()),
            Kind::Map(entries) => {
                Self::Map(entries.iter().map(|(k, v)| (k.text().unwrap_or_default(), Self::of(v))).collect())
            }
            Kind::Scalar { .. } => match node.scalar() {
                Some(Scalar::Bool(b)) => Self::Bool(b),
                Some(Scalar::Int(i)) => Self::Int(i),
                Some(Scalar::Float(f)) => Self::Float(f),
                Some(Scalar::Timestamp) => Self::Timestamp,
                Some(Scalar::Text(text)) => Self::Text(text),
                Some(Scalar::Null) | None => Self::Null,
            },
        }
    }

    /// Text that is not empty; anything else counts as not given.
    pub(crate) fn filled_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A number, cut to a whole one; anything else counts as not given.
    pub(crate) fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Float(number) if number.is_finite() => Some(*number as i64),
            _ => None,
        }
    }

    /// What to call it in a message.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Timestamp => "a date",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}
