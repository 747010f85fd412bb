//! What an implementation looks at: one check, or several that must all hold.

use std::collections::BTreeMap;

use super::Value;

/// A check block.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// One method with its parameters.
    One(Leaf),
    /// All of them, in order; may nest.
    All(Vec<Check>),
}

/// One method with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// As written; an alias stays one.
    pub method: String,
    /// Every other key of the block.
    pub params: BTreeMap<String, Value>,
    pub(crate) at: usize,
    pub(crate) places: BTreeMap<String, usize>,
}

impl Check {
    /// The methods it comes down to, in order.
    pub fn leaves(&self) -> Box<dyn Iterator<Item = &Leaf> + '_> {
        match self {
            Self::One(leaf) => Box::new(std::iter::once(leaf)),
            Self::All(checks) => Box::new(checks.iter().flat_map(Check::leaves)),
        }
    }
}

impl Leaf {
    /// A text parameter that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.params.get(name).and_then(Value::filled_text)
    }

    /// Where a parameter stands, or else the block.
    pub(crate) fn place(&self, name: &str) -> usize {
        self.places.get(name).copied().unwrap_or(self.at)
    }
}
