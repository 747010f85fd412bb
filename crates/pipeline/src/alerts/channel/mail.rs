//! Mail over SMTP. The server's name is resolved and judged here, its certificate by the name.

use std::io;
use std::net::IpAddr;

use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::{AsyncSmtpTransport, Error};
use lettre::{AsyncTransport, Message, Tokio1Executor};
use openwatch_model::alert::Notification;
use openwatch_model::channel::{MailSecurity, Mailbox, Target};

use super::{Answered, Refused, details, headline};
use crate::alerts::TRY_LIMIT;
use crate::alerts::guard::Guard;

pub(super) async fn send(target: &Target, allow_private: bool, id: &str, told: &Notification) -> Answered {
    let Target::Email(mailbox) = target else { return Err(Refused::new("it is no mail channel")) };
    let message = message(mailbox, id, told).map_err(Refused::new)?;
    match tokio::time::timeout(TRY_LIMIT, deliver(mailbox, allow_private, message)).await {
        Ok(answered) => answered,
        Err(_) => Err(Refused::new(format!("no answer within {} s", TRY_LIMIT.as_secs()))),
    }
}

async fn deliver(mailbox: &Mailbox, allow_private: bool, message: Message) -> Answered {
    let guard = match mailbox.security {
        MailSecurity::None => Guard::plain(allow_private),
        MailSecurity::Starttls | MailSecurity::Tls => Guard::encrypted(allow_private),
    };
    let addresses = guard.resolve(&mailbox.server, mailbox.port).await.map_err(Refused::new)?;
    let mut missed = Refused::new("the host has no address");
    for address in addresses {
        match transport(mailbox, address.ip())?.send(message.clone()).await {
            Ok(answer) => return Ok(Some(u16::from(answer.code()))),
            // Whoever answered has decided, were it with a certificate that is not believed; the others are asked only
            // where nobody is.
            Err(error) if !nobody_there(&error) => return Err(refused(&error)),
            Err(error) => missed = refused(&error),
        }
    }
    Err(missed)
}

/// The address is the judged one; the certificate must be the name's.
fn transport(mailbox: &Mailbox, address: IpAddr) -> Result<AsyncSmtpTransport<Tokio1Executor>, Refused> {
    if mailbox.security == MailSecurity::None && mailbox.password.is_some() && !address.is_loopback() {
        return Err(Refused::new("a password is not sent in the clear to another machine"));
    }
    let parameters = || TlsParameters::new(mailbox.server.clone()).map_err(|error| refused(&error));
    let tls = match mailbox.security {
        MailSecurity::None => Tls::None,
        MailSecurity::Starttls => Tls::Required(parameters()?),
        MailSecurity::Tls => Tls::Wrapper(parameters()?),
    };
    // Dangerous is what it is called for having no TLS yet.
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.to_string())
        .port(mailbox.port)
        .tls(tls)
        .timeout(Some(TRY_LIMIT));
    if let (Some(user), Some(password)) = (&mailbox.username, &mailbox.password) {
        builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
    }
    Ok(builder.build())
}

fn nobody_there(error: &Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(it) = cause {
        if let Some(io) = it.downcast_ref::<io::Error>() {
            return matches!(
                io.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
                    | io::ErrorKind::TimedOut
            );
        }
        cause = it.source();
    }
    error.is_timeout()
}

fn refused(error: &Error) -> Refused {
    let status = error.status().map(u16::from);
    // What a server says is its own: one line, and not much of it.
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let said: String =
        cause.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    let error =
        status.map_or_else(|| said.clone(), |status| format!("the mail server answered {status}: {said}"));
    Refused { status, ..Refused::new(error) }
}

fn message(mailbox: &Mailbox, id: &str, told: &Notification) -> Result<Message, String> {
    let wrong = |what: &str| format!("{what} is no mail address");
    let mut message = Message::builder()
        .from(mailbox.from.parse().map_err(|_| wrong("the sender"))?)
        // One line: nothing in a title becomes a header.
        .subject(headline(told).replace(['\r', '\n'], " "))
        .message_id(Some(format!("<{id}@openwatch>")))
        .header(ContentType::TEXT_PLAIN);
    for reader in &mailbox.to {
        message = message.to(reader.parse().map_err(|_| wrong("a reader"))?);
    }
    // Later transitions of an alert are shown below its opening.
    if let (Some(alert), 2..) = (told.alert_id, told.transition) {
        message = message
            .in_reply_to(format!("<{alert}-1@openwatch>"))
            .references(format!("<{alert}-1@openwatch>"));
    }
    let mut lines = vec![headline(told), String::new()];
    lines.extend(details(told));
    message.body(lines.join("\n") + "\n").map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;
    use super::*;

    fn mailbox() -> Mailbox {
        Mailbox {
            server: "mail.example.org".into(),
            port: 587,
            security: MailSecurity::Starttls,
            username: None,
            password: None,
            from: "OpenWatch <openwatch@example.org>".into(),
            to: vec!["ops@example.org".into(), "sec@example.org".into()],
        }
    }

    #[test]
    fn a_mail_has_one_subject_and_belongs_to_its_alert() {
        let mut told = told("alert.resolved");
        told.transition = 2;
        told.title = "a\r\nBcc: everybody@example.org".to_owned();
        let text = String::from_utf8(message(&mailbox(), "x-2", &told).unwrap().formatted()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(head.contains("Message-ID: <x-2@openwatch>"), "{head}");
        assert!(head.contains("In-Reply-To: <00000000-0000-0000-0000-000000000000-1@openwatch>"), "{head}");
        assert!(head.contains("ops@example.org") && head.contains("sec@example.org"), "{head}");
        assert!(body.contains("now failing"), "{body}");
    }

    #[test]
    fn what_is_no_address_is_said() {
        let mut wrong = mailbox();
        wrong.from = "nobody".into();
        assert_eq!(message(&wrong, "x", &told("alert.opened")).unwrap_err(), "the sender is no mail address");
    }
}
