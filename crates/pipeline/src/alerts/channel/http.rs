//! Posting: to judged addresses only, without proxies, and without following anybody elsewhere.

use std::time::Duration;

use openwatch_model::Timestamp;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url, redirect};
use time::format_description::well_known::Rfc2822;

use super::{Answered, Refused};
use crate::alerts::TRY_LIMIT;
use crate::alerts::guard::Guard;

/// Most bytes of an answer that are read so that its connection can be used again.
const ANSWER_MOST: usize = 16 * 1024;

/// One address to post to.
pub(in crate::alerts) struct Http {
    client: Client,
    url: Url,
}

impl Http {
    pub(super) fn new(url: Url, allow_private: bool) -> Result<Self, String> {
        let guard = Guard::of(&url, allow_private).map_err(|refusal| refusal.to_string())?;
        let client = Client::builder()
            .dns_resolver(guard)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TRY_LIMIT)
            .user_agent(concat!("openwatch/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| cause(&error))?;
        Ok(Self { client, url })
    }

    /// Posts JSON. Every 2xx is success; everything else is not, a redirect included.
    pub(super) async fn post(&self, headers: &[(&'static str, String)], body: Vec<u8>) -> Answered {
        let request =
            self.client.post(self.url.clone()).header("content-type", "application/json").body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        let mut answer = request.send().await.map_err(|error| Refused::new(cause(&error)))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Refused {
                error: format!("the receiver answered {status}"),
                status: Some(status.as_u16()),
                after: retry_after(answer.headers()),
                gone: status == StatusCode::GONE,
            });
        }
        let mut read = 0;
        while let Ok(Some(chunk)) = answer.chunk().await {
            read += chunk.len();
            if read > ANSWER_MOST {
                break;
            }
        }
        Ok(Some(status.as_u16()))
    }
}

/// Seconds, or a date by the receiver's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let after = text(RETRY_AFTER)?;
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text| Timestamp::parse(text, &Rfc2822).ok();
    Some((date(after)? - date(text(DATE)?)?).try_into().unwrap_or(Duration::ZERO))
}

/// The innermost reason; the outer ones hold the address.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TRY_LIMIT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if std::ptr::addr_eq(cause, error) {
        "the request could not be made".to_owned()
    } else {
        cause.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_says_when_it_wants_to_be_asked_again() {
        let after = |value: &'static str| {
            let date = "Sun, 06 Nov 1994 08:48:20 GMT";
            retry_after(&HeaderMap::from_iter([
                (RETRY_AFTER, value.parse().unwrap()),
                (DATE, date.parse().unwrap()),
            ]))
        };
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(77)));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!((after("soon"), after("-5")), (None, None));
    }
}
