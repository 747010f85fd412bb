//! Keyset paging: a page begins after the last row of the one before, whatever was inserted meanwhile.

use openwatch_model::Timestamp;
use uuid::Uuid;

/// Place in a list ordered by time, newest first, ids breaking ties. Written as text for API clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Time of the last row seen.
    pub at: Timestamp,
    /// Its id.
    pub id: Uuid,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{}", self.at.unix_timestamp_nanos() / 1000, self.id.simple())
    }
}

/// A cursor that was not made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the cursor; use the one of the page before, unchanged")]
pub struct BadCursor;

impl std::str::FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let (micros, id) = text.split_once('-').ok_or(BadCursor)?;
        let micros = i64::from_str_radix(micros, 16).map_err(|_| BadCursor)?;
        let at = Timestamp::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(|_| BadCursor)?;
        Ok(Self { at, id: id.parse().map_err(|_| BadCursor)? })
    }
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// After this row; `None` is the beginning.
    pub cursor: Option<Cursor>,
    /// Most rows.
    pub limit: u32,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Paged<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

impl Page {
    /// The first rows.
    pub fn first(limit: u32) -> Self {
        Self { cursor: None, limit }
    }

    pub(crate) fn after(&self) -> (Option<Timestamp>, Option<Uuid>) {
        (self.cursor.map(|c| c.at), self.cursor.map(|c| c.id))
    }

    /// One row more than wanted tells whether there is a next page.
    pub(crate) fn fetch(&self) -> i64 {
        i64::from(self.limit.max(1)) + 1
    }

    pub(crate) fn cut<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> (Timestamp, Uuid)) -> Paged<T> {
        let limit = self.limit.max(1) as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(key).map(|(at, id)| Cursor { at, id }) } else { None };
        Paged { rows, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_written() {
        let cursor = Cursor {
            at: Timestamp::from_unix_timestamp_nanos(1_800_000_000_123_456_000).unwrap(),
            id: Uuid::from_u128(7),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert_eq!("nonsense".parse::<Cursor>(), Err(BadCursor));
    }

    #[test]
    fn the_last_page_has_no_next() {
        let key = |row: &u128| (Timestamp::UNIX_EPOCH, Uuid::from_u128(*row));
        let page = Page::first(2);
        assert_eq!(page.cut(vec![1, 2], key).next, None);
        let cut = page.cut(vec![1, 2, 3], key);
        assert_eq!((cut.rows, cut.next.map(|c| c.id)), (vec![1, 2], Some(Uuid::from_u128(2))));
    }
}
