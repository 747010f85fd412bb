//! What a request can end with besides success: the registry of codes, and their problem+json form (RFC 9457).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::dto::{FieldProblem, Problem};

/// Whose move it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request must change.
    Client,
    /// The server must recover.
    Server,
}

impl Fault {
    /// The wire value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

macro_rules! codes {
    ($($name:ident $code:literal $status:ident $fault:ident $retryable:literal $title:literal)*) => {
        /// Every code an answer can carry. Codes are promised: clients match on them, never on the text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $name),*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The wire value.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The HTTP status it travels with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),* }
            }

            /// Whose move it is.
            pub fn fault(self) -> Fault {
                match self { $(Self::$name => Fault::$fault),* }
            }

            /// Whether the same request may succeed later.
            pub fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable),* }
            }

            /// What it means, the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }
        }
    };
}

codes! {
    AuthRequired "auth.required" UNAUTHORIZED Client false "a valid bearer token is required"
    PermissionDenied "authz.permission_denied" FORBIDDEN Client false "the token's role lacks the permission"
    InvalidBody "validation.invalid_body" BAD_REQUEST Client false "the body is not the JSON that was expected"
    FieldRequired "validation.field_required" BAD_REQUEST Client false "a required field is missing"
    FieldUnknown "validation.field_unknown" BAD_REQUEST Client false "a field is not known here"
    FieldFormat "validation.field_format" BAD_REQUEST Client false "a value is not in the expected form"
    FieldRange "validation.field_range" BAD_REQUEST Client false "a value is out of range"
    BodyTooLarge "validation.body_too_large" PAYLOAD_TOO_LARGE Client false "the body is larger than accepted"
    LimitExceeded "pagination.limit_exceeded" BAD_REQUEST Client false "the page limit is out of range"
    CursorInvalid "pagination.cursor_invalid" BAD_REQUEST Client false "the cursor was not made by this endpoint"
    IdempotencyKeyRequired "idempotency.key_required" BAD_REQUEST Client false "an Idempotency-Key header is required"
    IdempotencyKeyReused "idempotency.key_reused" CONFLICT Client false "the Idempotency-Key was used for another request"
    IdempotencyInProgress "idempotency.in_progress" CONFLICT Client true "the same request is still being worked on"
    NotFound "resource.not_found" NOT_FOUND Client false "there is nothing at this path"
    MethodNotAllowed "request.method_not_allowed" METHOD_NOT_ALLOWED Client false "the path does not take this method"
    HostNotFound "host.not_found" NOT_FOUND Client false "no such host"
    HostDuplicate "host.duplicate" CONFLICT Client false "a host of that name exists"
    HostInUse "host.in_use" CONFLICT Client false "other hosts are reached through this one"
    HostJump "host.jump_refused" CONFLICT Client false "the host cannot be reached that way"
    HostKeyNotShown "host_key.not_shown" NOT_FOUND Client false "no scan was shown a host key with this fingerprint"
    CredentialNotFound "credential.not_found" NOT_FOUND Client false "no such credential"
    CredentialDuplicate "credential.duplicate" CONFLICT Client false "a credential of that name exists"
    CredentialInUse "credential.in_use" CONFLICT Client false "hosts still log in with this credential"
    RotationActive "keys.rotation_active" CONFLICT Client true "a rotation of the data-encryption key is under way"
    ScanNotFound "scan.not_found" NOT_FOUND Client false "no such scan"
    ScanActive "conflict.scan_active" CONFLICT Client true "the host is being scanned"
    EvidenceNotFound "scan.evidence_not_found" NOT_FOUND Client false "the scan kept no evidence for this rule"
    AlertNotFound "alerts.not_found" NOT_FOUND Client false "no such alert"
    AlertTransition "alerts.invalid_transition" CONFLICT Client false "the alert cannot go there from where it is"
    ChannelNotFound "channel.not_found" NOT_FOUND Client false "no such channel"
    ChannelDuplicate "channel.duplicate" CONFLICT Client false "a channel of that name exists"
    ChannelDisabled "channel.disabled" CONFLICT Client false "the channel is turned off"
    DeliveryNotFound "delivery.not_found" NOT_FOUND Client false "no such delivery"
    TokenNotFound "token.not_found" NOT_FOUND Client false "no such token"
    TokenDuplicate "token.duplicate" CONFLICT Client false "a token of that name exists"
    DeadLetterNotFound "dead_letter.not_found" NOT_FOUND Client false "no such dead letter"
    DeadLetterClipped "dead_letter.clipped" CONFLICT Client false "the letter was not kept whole"
    RateLimited "rate_limit.exceeded" TOO_MANY_REQUESTS Client true "too many requests without a valid token"
    AuditQueryInvalid "audit.query_invalid" BAD_REQUEST Client false "the audit log cannot be asked that"
    Internal "server.internal" INTERNAL_SERVER_ERROR Server false "the server failed"
    Unavailable "server.unavailable" SERVICE_UNAVAILABLE Server true "the server cannot answer now"
    Timeout "server.timeout" GATEWAY_TIMEOUT Server true "the server took too long"
}

/// A request that ends without success. Its response carries only the status; the outermost layer writes the body, for
/// it alone knows the correlation id.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What happened.
    pub code: Code,
    /// To what, and what to do about it.
    pub detail: String,
    /// Members at fault.
    pub fields: Vec<FieldProblem>,
    /// The scan that is in the way.
    pub scan: Option<Uuid>,
}

impl Failure {
    /// Of this code.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), fields: Vec::new(), scan: None }
    }

    /// One member of the request is at fault; `pointer` is a JSON pointer or the name of a parameter.
    pub(crate) fn field(code: Code, pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let field = FieldProblem { pointer: pointer.to_owned(), detail: detail.clone() };
        Self { code, detail, fields: vec![field], scan: None }
    }

    /// The same, naming a scan.
    pub(crate) fn with_scan(mut self, scan: Uuid) -> Self {
        self.scan = Some(scan);
        self
    }

    /// As it goes over the wire.
    pub(crate) fn problem(&self, correlation_id: &str, path: &str) -> Problem {
        Problem {
            kind: format!("urn:openwatch:problem:{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone(),
            instance: path.to_owned(),
            code: self.code.as_str().to_owned(),
            fault: self.code.fault().as_str().to_owned(),
            retryable: self.code.retryable(),
            correlation_id: correlation_id.to_owned(),
            errors: self.fields.clone(),
            scan_id: self.scan,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_dotted_and_agree_with_their_status() {
        let mut seen = BTreeSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} twice");
            assert!(
                text.contains('.') && text.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '_'),
                "{text}"
            );
            assert_eq!(code.status().is_server_error(), code.fault() == Fault::Server, "{text}");
        }
    }

    #[test]
    fn a_problem_names_its_members_as_the_standard_does() {
        let failure = Failure::field(Code::FieldRange, "/port", "must be 1 to 65535");
        let json = serde_json::to_value(failure.problem("req-1", "/api/v1/hosts")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "urn:openwatch:problem:validation.field_range",
                "title": "a value is out of range",
                "status": 400,
                "detail": "must be 1 to 65535",
                "instance": "/api/v1/hosts",
                "code": "validation.field_range",
                "fault": "client",
                "retryable": false,
                "correlation_id": "req-1",
                "errors": [{"pointer": "/port", "detail": "must be 1 to 65535"}],
            })
        );
    }
}
