//! Where channels may dial: names are resolved, judged, and dialled at the judged addresses. Between the judgement and the
//! connection no name is asked again.

use std::net::{IpAddr, SocketAddr};

use openwatch_model::reach::is_inside;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Which addresses one channel may dial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard {
    inside: bool,
    outside: bool,
}

/// Why an address is not dialled. Never names it: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the address cannot be read")]
    Unreadable,
    #[error("the address is neither https nor http")]
    Scheme,
    #[error("the host has no address")]
    NoAddress,
    #[error(
        "the address lies inside the network, which this channel may not reach; add it with --allow-private"
    )]
    Inside,
    #[error("plain http goes to addresses inside the network only, from channels that may reach them")]
    Outside,
}

impl Guard {
    /// For connections that prove who answers.
    pub(super) fn encrypted(allow_private: bool) -> Self {
        Self { inside: allow_private, outside: true }
    }

    /// For those that prove nothing: inside only.
    pub(super) fn plain(allow_private: bool) -> Self {
        Self { inside: allow_private, outside: false }
    }

    /// For an HTTP address. A literal address is judged here: no name will ever be resolved for it.
    pub(super) fn of(url: &Url, allow_private: bool) -> Result<Self, Refusal> {
        let guard = match url.scheme() {
            "https" => Self::encrypted(allow_private),
            "http" => Self::plain(allow_private),
            _ => return Err(Refusal::Scheme),
        };
        let host = url.host_str().ok_or(Refusal::Unreadable)?.trim_matches(['[', ']']);
        if let Ok(ip) = host.parse() {
            guard.judge(ip)?;
        }
        Ok(guard)
    }

    fn judge(self, ip: IpAddr) -> Result<(), Refusal> {
        match (is_inside(ip), self.inside, self.outside) {
            (true, false, _) => Err(Refusal::Inside),
            (false, _, false) => Err(Refusal::Outside),
            _ => Ok(()),
        }
    }

    /// The addresses of a host. One that may not be dialled refuses them all: whoever mixes them means no good.
    pub(super) async fn resolve(self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let found = tokio::net::lookup_host((host, port)).await.map_err(|_| Refusal::NoAddress)?;
        let found: Vec<SocketAddr> = found.collect();
        found.iter().try_for_each(|address| self.judge(address.ip()))?;
        if found.is_empty() { Err(Refusal::NoAddress) } else { Ok(found) }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            // The client puts the port of its address in the place of 0.
            let addresses: Addrs = Box::new(guard.resolve(name.as_str(), 0).await?.into_iter());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str, allow_private: bool) -> Option<Refusal> {
        Guard::of(&Url::parse(url).unwrap(), allow_private).err()
    }

    #[test]
    fn what_lies_inside_is_refused_unless_it_was_allowed() {
        for url in [
            "https://127.0.0.1/",
            "https://10.0.0.1/x",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/",
        ] {
            assert_eq!((of(url, false), of(url, true)), (Some(Refusal::Inside), None), "{url}");
        }
        // The ways of writing an address that browsers know are the ways this one is read.
        for url in ["https://0x7f.1/", "https://2130706433/", "https://127.1/"] {
            assert_eq!(of(url, false), Some(Refusal::Inside), "{url}");
        }
        assert_eq!(of("https://93.184.215.14/", false), None);
    }

    #[test]
    fn plain_http_stays_inside() {
        assert_eq!(of("http://127.0.0.1:9/x", true), None);
        assert_eq!(of("http://127.0.0.1:9/x", false), Some(Refusal::Inside));
        assert_eq!(of("http://93.184.215.14/", true), Some(Refusal::Outside));
        assert_eq!(of("ftp://127.0.0.1/", true), Some(Refusal::Scheme));
    }

    #[tokio::test]
    async fn names_are_judged_by_what_they_resolve_to() {
        let resolve = async |guard: Guard| Guard::resolve(guard, "localhost", 9).await;
        assert_eq!(resolve(Guard::encrypted(false)).await, Err(Refusal::Inside));
        assert!(resolve(Guard::plain(true)).await.unwrap().iter().all(|it| it.ip().is_loopback()));
    }
}
