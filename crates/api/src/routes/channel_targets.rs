//! What it takes to reach a channel: read from a request, judged, and what of it may be shown.

use axum::http::Uri;
use openwatch_model::channel::{ChannelKind, MailSecurity, Mailbox, Target};
use openwatch_trust::webhook::WebhookSecret;

use crate::dto::{ChannelTarget, NewMail};
use crate::error::{Code, Failure};
use crate::validate;

/// Where PagerDuty takes events.
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";
/// What every subject of a channel begins with; the alerts stage may publish there and nowhere else.
const SUBJECT: &str = "ow.v1.notify.";
/// Most readers of one channel.
const READERS: usize = 20;

/// What a request wants.
pub(super) struct Wanted {
    pub(super) target: Target,
    /// What may be shown of it.
    pub(super) shown: String,
    /// A signing secret that was made here, to be shown once.
    pub(super) made: Option<String>,
}

/// Judges the fields of a kind, and refuses those of others. Moves the secrets out.
pub(super) fn wanted(kind: ChannelKind, new: &mut ChannelTarget) -> Result<Wanted, Failure> {
    only_its_own(kind, new)?;
    let plain = |target, shown: &str| Ok(Wanted { target, shown: shown.to_owned(), made: None });
    let private = new.allow_private;
    match kind {
        ChannelKind::Webhook => {
            let url = address(new.url.take(), private)?;
            let shown = host(&url);
            let (secret, made) = match new.secret.take() {
                Some(text) => (text, None),
                None => {
                    let made = WebhookSecret::generate().expose();
                    (made.to_string(), Some(made.to_string()))
                }
            };
            WebhookSecret::parse(&secret)
                .map_err(|error| Failure::field(Code::FieldFormat, "/secret", error.to_string()))?;
            Ok(Wanted { target: Target::Webhook { url, secret }, shown, made })
        }
        ChannelKind::Slack => {
            let url = address(new.url.take(), private)?;
            let shown = host(&url);
            plain(Target::Slack { url }, &shown)
        }
        ChannelKind::Pagerduty => {
            let url = address(Some(new.url.take().unwrap_or_else(|| PAGERDUTY.to_owned())), private)?;
            let shown = host(&url);
            let routing_key = new.routing_key.take().unwrap_or_default().trim().to_owned();
            if routing_key.len() != 32 || !routing_key.bytes().all(|b| b.is_ascii_alphanumeric()) {
                let detail = "must be the 32 letters and digits of an integration of the Events API v2";
                return Err(Failure::field(Code::FieldFormat, "/routing_key", detail));
            }
            plain(Target::Pagerduty { url, routing_key }, &shown)
        }
        ChannelKind::Email => {
            let mail = new
                .mail
                .take()
                .ok_or_else(|| required("/mail", "a mail channel needs a server and readers"))?;
            let (mailbox, shown) = mailbox(mail, private)?;
            plain(Target::Email(mailbox), &shown)
        }
        ChannelKind::Nats => {
            let rest =
                new.subject.take().ok_or_else(|| required("/subject", "a NATS channel needs a subject"))?;
            let rest = rest.strip_prefix(SUBJECT).unwrap_or(&rest);
            let token = |token: &str| {
                !token.is_empty() && token.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            };
            if rest.len() > 128 || !rest.split('.').all(token) {
                let detail =
                    "must be words of letters, digits, `_` and `-` with dots between, at most 128 characters";
                return Err(Failure::field(Code::FieldFormat, "/subject", detail));
            }
            let subject = format!("{SUBJECT}{rest}");
            plain(Target::Nats { subject: subject.clone() }, &subject)
        }
        ChannelKind::Stdout => plain(Target::Stdout {}, ""),
    }
}

fn only_its_own(kind: ChannelKind, new: &ChannelTarget) -> Result<(), Failure> {
    use ChannelKind::{Email, Nats, Pagerduty, Slack, Webhook};
    let fields: [(&str, bool, &[ChannelKind]); 5] = [
        ("/url", new.url.is_some(), &[Webhook, Slack, Pagerduty]),
        ("/secret", new.secret.is_some(), &[Webhook]),
        ("/routing_key", new.routing_key.is_some(), &[Pagerduty]),
        ("/mail", new.mail.is_some(), &[Email]),
        ("/subject", new.subject.is_some(), &[Nats]),
    ];
    match fields.into_iter().find(|(_, given, kinds)| *given && !kinds.contains(&kind)) {
        None => Ok(()),
        Some((pointer, ..)) => {
            let detail = format!("a {} channel does not have it", kind.as_str());
            Err(Failure::field(Code::FieldUnknown, pointer, detail))
        }
    }
}

fn required(pointer: &str, detail: &str) -> Failure {
    Failure::field(Code::FieldRequired, pointer, detail)
}

fn address(url: Option<String>, private: bool) -> Result<String, Failure> {
    let url = url.ok_or_else(|| required("/url", "this kind of channel needs an address"))?.trim().to_owned();
    validate::webhook("/url", &url, private)?;
    Ok(url)
}

/// The part of an address that holds no secret.
fn host(url: &str) -> String {
    url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default()
}

fn mailbox(mut mail: NewMail, private: bool) -> Result<(Mailbox, String), Failure> {
    validate::address("/mail/server", &mail.server)?;
    validate::outside("/mail/server", &mail.server, private)?;
    mail.port.map_or(Ok(()), |port| validate::port("/mail/port", port))?;
    if mail.security == MailSecurity::None && !private {
        let detail = "mail in the clear goes to servers inside the network only; use `starttls` or `tls`";
        return Err(Failure::field(Code::FieldFormat, "/mail/security", detail));
    }
    if mail.password.is_some() != mail.username.is_some() {
        return Err(required("/mail/password", "a user name and a password go together"));
    }
    validate::secret("/mail/password", mail.password.as_deref())?;
    mail.username.as_deref().map_or(Ok(()), |user| validate::user("/mail/username", user))?;
    validate::mail("/mail/from", &mail.from)?;
    if mail.to.is_empty() || mail.to.len() > READERS {
        return Err(Failure::field(
            Code::FieldRange,
            "/mail/to",
            format!("must be 1 to {READERS} addresses"),
        ));
    }
    mail.to.iter().try_for_each(|reader| validate::mail("/mail/to", reader))?;
    let port = mail.port.unwrap_or_else(|| mail.security.port());
    let shown: String =
        format!("{}:{port} to {}", mail.server, mail.to.join(", ")).chars().take(512).collect();
    let mailbox = Mailbox {
        server: std::mem::take(&mut mail.server),
        port,
        security: mail.security,
        username: mail.username.take(),
        password: mail.password.take(),
        from: std::mem::take(&mut mail.from),
        to: std::mem::take(&mut mail.to),
    };
    Ok((mailbox, shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(mut json: serde_json::Value) -> Result<Wanted, Failure> {
        let fields = json.as_object_mut().unwrap();
        fields.remove("name");
        let kind = serde_json::from_value(fields.remove("kind").unwrap()).unwrap();
        wanted(kind, &mut serde_json::from_value(json).unwrap())
    }

    fn refused(json: serde_json::Value) -> String {
        channel(json).err().unwrap().fields[0].pointer.clone()
    }

    #[test]
    fn what_is_shown_holds_no_secret() {
        use serde_json::json;
        let slack =
            channel(json!({"name": "s", "kind": "slack", "url": "https://hooks.example.org/T0/s3cret"}))
                .unwrap();
        assert_eq!((slack.shown.as_str(), slack.made), ("hooks.example.org", None));
        let hook = channel(json!({"name": "h", "kind": "webhook", "url": "https://x.example.org/"})).unwrap();
        assert!(hook.made.unwrap().starts_with("whsec_"));
        let mail = json!({"server": "mail.example.org", "from": "a@example.org", "to": ["b@example.org"],
            "username": "u", "password": "s3cret"});
        let mail = channel(json!({"name": "m", "kind": "email", "mail": mail})).unwrap();
        assert_eq!(mail.shown, "mail.example.org:587 to b@example.org");
        let nats = channel(json!({"name": "n", "kind": "nats", "subject": "ops.critical"})).unwrap();
        assert_eq!(nats.shown, "ow.v1.notify.ops.critical");
    }

    #[test]
    fn each_kind_takes_its_own_fields() {
        use serde_json::json;
        assert_eq!(refused(json!({"name": "s", "kind": "stdout", "url": "https://x.example.org/"})), "/url");
        assert_eq!(refused(json!({"name": "s", "kind": "webhook"})), "/url");
        assert_eq!(refused(json!({"name": "s", "kind": "webhook", "url": "https://10.0.0.1/"})), "/url");
        let short =
            json!({"name": "s", "kind": "webhook", "url": "https://x.example.org/", "secret": "whsec_eA=="});
        assert_eq!(refused(short), "/secret");
        assert_eq!(
            refused(json!({"name": "p", "kind": "pagerduty", "routing_key": "short"})),
            "/routing_key"
        );
        assert_eq!(refused(json!({"name": "n", "kind": "nats", "subject": "a.>"})), "/subject");
        let plain = json!({"server": "mail.example.org", "security": "none", "from": "a@example.org", "to": ["b@example.org"]});
        assert_eq!(refused(json!({"name": "m", "kind": "email", "mail": plain})), "/mail/security");
        let inside = json!({"server": "127.0.0.1", "from": "a@example.org", "to": ["b@example.org"]});
        assert_eq!(refused(json!({"name": "m", "kind": "email", "mail": inside})), "/mail/server");
        let nobody =
            json!({"server": "mail.example.org", "from": "a@example.org\nBcc: x@y", "to": ["b@example.org"]});
        assert_eq!(refused(json!({"name": "m", "kind": "email", "mail": nobody})), "/mail/from");
    }
}
