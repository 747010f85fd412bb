//! Commands that prepare and author: they work on files, or straight on PostgreSQL and NATS, without the API.

pub mod check;
pub mod events;
pub mod keys;
mod known_hosts;
pub mod policy;
pub mod prepare;
pub mod rules;
