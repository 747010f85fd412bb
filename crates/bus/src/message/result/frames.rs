//! The compressed form of a final result: one JSON document, its outcomes in a frame of their own. Any zstd reads it as
//! one text; who only wants to know whether the outcomes are those of the scan before looks at their compressed bytes.

use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use openwatch_model::scan::{ScanResult, Verdict};
use zstd::stream::write::Encoder;
use zstd::zstd_safe;

use super::wire::FinalV1;
use super::{FINAL, RESULT_MOST};
use crate::DecodeError;

/// Level of compression. With the version of the library it decides the bytes: another one costs each host a comparison.
const LEVEL: i32 = 3;
/// How the part before the outcomes ends. No text in it reads so: there its quotes would be escaped.
const BEFORE: &[u8] = br#""outcomes":"#;
/// What stands for the outcomes in the parts around them.
const NONE: &[u8] = b"[]";

/// Writes a result in three frames, or in one when it has no outcomes.
pub(super) fn write(result: &ScanResult) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(&FinalV1::without_outcomes(result))?;
    // One for all: making it takes longer than compressing the small parts.
    let mut context = zstd_safe::CCtx::create();
    let level = zstd_safe::CParameter::CompressionLevel(LEVEL);
    context.set_parameter(level).map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
    let place = memchr::memmem::find(&json, &[BEFORE, NONE].concat());
    let (Some(place), Verdict::Completed(measured)) = (place, &result.verdict) else {
        return frame(&mut context, Vec::new(), &json);
    };
    let (before, after) = json.split_at(place + BEFORE.len());
    let packed = frame(&mut context, Vec::new(), before)?;
    // Straight through: the text of a large result is many times what is kept of it.
    let mut pieces = io::BufWriter::with_capacity(64 << 10, Encoder::with_context(packed, &mut context));
    serde_json::to_writer(&mut pieces, &measured.outcomes)?;
    let packed = pieces.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    frame(&mut context, packed, &after[NONE.len()..])
}

fn frame(context: &mut zstd_safe::CCtx<'static>, packed: Vec<u8>, text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::with_context(packed, context);
    encoder.write_all(text)?;
    encoder.finish()
}

/// The document without its outcomes, and they as they came; `None` when it came in another form.
pub(super) fn apart(compressed: &Bytes) -> Result<Option<(Vec<u8>, Bytes)>, DecodeError> {
    let end = |from: usize| {
        let rest = compressed.get(from..).filter(|rest| !rest.is_empty())?;
        zstd_safe::find_frame_compressed_size(rest).ok().map(|size| from + size)
    };
    let Some((first, second)) = end(0).and_then(|first| Some((first, end(first)?))) else { return Ok(None) };
    if end(second) != Some(compressed.len()) {
        return Ok(None);
    }
    let mut json = decompress(&compressed[..first], RESULT_MOST)?;
    if !json.ends_with(BEFORE) {
        return Ok(None);
    }
    json.extend_from_slice(NONE);
    json.extend(decompress(&compressed[second..], RESULT_MOST)?);
    Ok(Some((json, compressed.slice(first..second))))
}

/// Decompresses all frames, to no more bytes than that.
pub(super) fn decompress(compressed: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let malformed = |error: io::Error| DecodeError::Malformed { what: FINAL, reason: error.to_string() };
    let mut decoder = zstd::Decoder::new(compressed).map_err(malformed)?;
    // A frame may ask for a window of gigabytes; ours never do.
    decoder.window_log_max(27).map_err(malformed)?;
    let mut json = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut json).map_err(malformed)?;
    if json.len() > limit { Err(DecodeError::TooLarge { what: FINAL, limit }) } else { Ok(json) }
}
