//! A line of JSON on standard output. Whoever reads it may be slow: that must not hold up the other channels.

use std::io::Write as _;

use openwatch_store::delivery::Delivery;

use super::{Answered, Refused};
use crate::alerts::TRY_LIMIT;

pub(super) async fn send(it: &Delivery) -> Answered {
    let mut line = serde_json::to_vec(&it.payload).map_err(Refused::new)?;
    line.push(b'\n');
    let written = tokio::task::spawn_blocking(move || {
        let mut out = std::io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush())
    });
    match tokio::time::timeout(TRY_LIMIT, written).await {
        Ok(Ok(Ok(()))) => Ok(None),
        Ok(Ok(Err(error))) => Err(Refused::new(error)),
        Ok(Err(_)) => Err(Refused::new("standard output could not be written to")),
        Err(_) => Err(Refused::new("nobody reads standard output")),
    }
}
