//! The rule engine as a person meets it: `openwatch check` on a real SSH server whose system is what a test says it is.

mod answers;
mod choice;
mod corpus;
mod host;
mod methods;
mod shells;
