//! The harness: everything that a test with real servers needs.
//!
//! Knows: all our crates, how to run private servers, hostile networks and the built program. Must never know: what a
//! test expects. Every server is a child on a loopback port of its own, and dies with the test process.
//!
//! Start reading at [`World`]; [`Program`] runs the built `openwatch`; [`Proxy`], [`Lossy`], [`Catcher`] and [`eventually`] are the
//! tools for bad weather.

pub mod catcher;
pub mod database;
pub mod lossy;
pub mod mailbox;
pub mod nats;
pub mod program;
pub mod proxy;
pub mod quick;
pub mod scripted;
pub mod sshd;
pub mod stack;
pub mod stages;
pub mod wait;
pub mod world;

pub use catcher::{Catcher, Caught};
pub use database::Database;
pub use lossy::Lossy;
pub use mailbox::MailServer;
pub use nats::Nats;
pub use program::{Program, Running, openwatch};
pub use proxy::Proxy;
pub use stack::Stack;
pub use stages::Stages;
pub use wait::{eventually, eventually_within};
pub use world::World;
