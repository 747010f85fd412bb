//! Blobs too large for a message, in object-store buckets that stock clients read too.
//!
//! Spoken by hand for two reasons: a worker needs no more than the right to publish chunks, and reads go to the
//! stream's leader, so that a blob whose message has arrived is never "not there yet" on a replica.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use openwatch_model::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Bus, BusError, Outgoing};

/// Chunk size of stock clients.
const CHUNK: usize = 128 * 1024;
/// Chunks on their way at once.
const WINDOW: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    name: String,
    bucket: String,
    #[serde(default)]
    nuid: String,
    #[serde(default)]
    size: usize,
    #[serde(default)]
    chunks: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    mtime: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    options: Option<MetaOptions>,
}

#[derive(Debug, Serialize, Deserialize)]
struct MetaOptions {
    #[serde(default)]
    max_chunk_size: usize,
}

impl Bus {
    /// Puts a blob and waits until all of it is stored. Names are used once: putting another blob under a name that is
    /// in use is for buckets that allow it (corpora, whose names are their digests).
    ///
    /// # Errors
    /// Outages, refusals, a full bucket.
    pub async fn put_object(&self, bucket: &str, name: &str, bytes: Bytes) -> Result<(), BusError> {
        let nuid = uuid::Uuid::new_v4().simple().to_string();
        let chunks = bytes.len().div_ceil(CHUNK);
        let publish = |at: usize| {
            let message = Outgoing {
                subject: format!("$O.{bucket}.C.{nuid}"),
                message_id: format!("{nuid}.{at}"),
                headers: Vec::new(),
                payload: bytes.slice(at * CHUNK..((at + 1) * CHUNK).min(bytes.len())),
            };
            async move { self.publish(&message).await.map(drop) }
        };
        // In order: a reader puts the chunks together as they lie in the stream.
        futures::stream::iter(0..chunks).map(publish).buffered(WINDOW).try_collect::<()>().await?;
        let meta = Meta {
            name: name.to_owned(),
            bucket: bucket.to_owned(),
            size: bytes.len(),
            chunks,
            digest: Some(digest(&bytes)),
            mtime: Timestamp::from_unix_timestamp(now()).unwrap_or(Timestamp::UNIX_EPOCH),
            deleted: false,
            options: Some(MetaOptions { max_chunk_size: CHUNK }),
            nuid: nuid.clone(),
        };
        let subject = meta_subject(bucket, name);
        let payload = serde_json::to_vec(&meta)
            .map_err(|error| BusError::Garbled { subject: subject.clone(), reason: error.to_string() })?;
        let message = Outgoing { subject, message_id: nuid, headers: Vec::new(), payload: payload.into() };
        self.publish(&message).await.map(drop)
    }

    /// Reads a blob and checks it against its digest. `None` when there is none of that name.
    ///
    /// # Errors
    /// [`BusError::TooLarge`] over `max_bytes` (before anything is read), [`BusError::Corrupt`], outages.
    pub async fn get_object(
        &self,
        bucket: &str,
        name: &str,
        max_bytes: usize,
    ) -> Result<Option<Bytes>, BusError> {
        let Some(meta) = self.object_meta(bucket, name).await? else { return Ok(None) };
        if meta.size > max_bytes {
            let what = format!("object `{name}` of `{bucket}`");
            return Err(BusError::TooLarge { what, bytes: meta.size, limit: max_bytes });
        }
        let corrupt = |reason: &str| BusError::Corrupt {
            bucket: bucket.to_owned(),
            name: name.to_owned(),
            reason: reason.to_owned(),
        };
        let (stream, chunk) = (stream(bucket), format!("$O.{bucket}.C.{}", meta.nuid));
        let mut bytes = BytesMut::with_capacity(meta.size);
        let mut from = 1;
        for _ in 0..meta.chunks {
            let Some(part) = self.next_message(&stream, from, &chunk).await? else {
                return Err(corrupt("a chunk is missing"));
            };
            from = part.sequence + 1;
            if bytes.len() + part.payload.len() > meta.size {
                return Err(corrupt("it is longer than it says"));
            }
            bytes.extend_from_slice(&part.payload);
        }
        if bytes.len() != meta.size || meta.digest.as_deref() != Some(digest(&bytes).as_str()) {
            return Err(corrupt("its digest does not match"));
        }
        Ok(Some(bytes.freeze()))
    }

    /// Removes a blob for good. Removing one that is gone is harmless.
    ///
    /// # Errors
    /// Outages and refusals.
    pub async fn delete_object(&self, bucket: &str, name: &str) -> Result<(), BusError> {
        let Some(meta) = self.object_meta(bucket, name).await? else { return Ok(()) };
        // The name first: a blob without a name is garbage, a name without a blob would be a lie.
        self.purge(&stream(bucket), &meta_subject(bucket, name)).await?;
        self.purge(&stream(bucket), &format!("$O.{bucket}.C.{}", meta.nuid)).await
    }

    /// Names of the blobs in a bucket.
    ///
    /// # Errors
    /// Outages and refusals.
    pub async fn list_objects(&self, bucket: &str) -> Result<Vec<String>, BusError> {
        let prefix = format!("$O.{bucket}.M.");
        let subjects = self.subjects(&stream(bucket), &format!("{prefix}>")).await?;
        let name = |subject: &String| {
            let name = URL_SAFE.decode(subject.strip_prefix(&prefix)?).ok()?;
            String::from_utf8(name).ok()
        };
        Ok(subjects.keys().filter_map(name).collect())
    }

    async fn object_meta(&self, bucket: &str, name: &str) -> Result<Option<Meta>, BusError> {
        let subject = meta_subject(bucket, name);
        let Some(stored) = self.last_message(&stream(bucket), &subject).await? else { return Ok(None) };
        let meta: Meta = serde_json::from_slice(&stored.payload).map_err(|error| BusError::Corrupt {
            bucket: bucket.to_owned(),
            name: name.to_owned(),
            reason: error.to_string(),
        })?;
        // The chunk subject is built from this: it must be one token.
        let plain = meta.nuid.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !plain {
            let (bucket, name) = (bucket.to_owned(), name.to_owned());
            return Err(BusError::Corrupt { bucket, name, reason: "its chunk id is no token".into() });
        }
        Ok(Some(meta).filter(|meta| !meta.deleted))
    }
}

fn stream(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

fn meta_subject(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", URL_SAFE.encode(name))
}

fn digest(bytes: &[u8]) -> String {
    format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(bytes)))
}

/// Shown by clients as the time of the upload; decides nothing.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}
