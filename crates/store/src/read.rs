//! Looking: what people ask for through the API. Begin with [`crate::Store::begin_read`], so that several statements see
//! one moment.
//!
//! The past is told from history alone: the ledger says which scan was the newest at a time, the transactions up to that
//! scan say what each rule was, and the gaps say which rules the corpus had.

mod fleet;
mod rules;
mod scans;
mod transactions;

pub use fleet::{Fleet, HostAt, Oldest, fleet, hosts_at};
pub use rules::{EvidenceRow, Point, RuleRow, evidence, point, rules, verdicts};
pub use scans::{Ledger, ScanFilter, ScanRow, scan, scans, timings};
pub use transactions::{TransactionFilter, TransactionRow, transactions};
