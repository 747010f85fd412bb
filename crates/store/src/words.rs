//! Column values to words of the model. A word that the model does not know is an error, never a guess.

use openwatch_model::alert::{AlertSeverity, AlertState, AlertType};
use openwatch_model::channel::ChannelKind;
use openwatch_model::credential::{AuthMethod, SudoMode};
use openwatch_model::drift::DriftKind;
use openwatch_model::scan::{FailureReason, Lane, ScanState};
use openwatch_model::score::ComplianceState;
use openwatch_model::transaction::ChangeKind;
use openwatch_model::{Severity, Status};

use crate::StoreError;

type Word<T> = Result<T, StoreError>;

fn known<T>(what: &'static str, text: &str, word: Option<T>) -> Word<T> {
    word.ok_or_else(|| StoreError::unknown_word(what, text))
}

pub(crate) fn compliance_state(text: &str) -> Word<ComplianceState> {
    known("compliance state", text, ComplianceState::parse(text))
}

pub(crate) fn scan_state(text: &str) -> Word<ScanState> {
    known("scan state", text, ScanState::parse(text))
}

pub(crate) fn lane(text: &str) -> Word<Lane> {
    known("lane", text, Lane::parse(text))
}

pub(crate) fn failure_reason(text: &str) -> Word<FailureReason> {
    known("failure reason", text, FailureReason::parse(text))
}

pub(crate) fn change_kind(text: &str) -> Word<ChangeKind> {
    known("change kind", text, ChangeKind::parse(text))
}

pub(crate) fn drift_kind(text: &str) -> Word<DriftKind> {
    known("drift kind", text, DriftKind::parse(text))
}

pub(crate) fn alert_type(text: &str) -> Word<AlertType> {
    known("alert type", text, AlertType::parse(text))
}

pub(crate) fn alert_severity(text: &str) -> Word<AlertSeverity> {
    known("alert severity", text, AlertSeverity::parse(text))
}

pub(crate) fn channel_kind(text: &str) -> Word<ChannelKind> {
    known("channel kind", text, ChannelKind::parse(text))
}

pub(crate) fn alert_state(text: &str) -> Word<AlertState> {
    known("alert state", text, AlertState::parse(text))
}

/// CHECKs keep everything but the four words out of the column; anything else would read as an error, never a pass.
pub(crate) fn status(text: &str) -> Status {
    Status::parse(text)
}

pub(crate) fn severity(text: Option<&str>) -> Option<Severity> {
    text.and_then(Severity::parse)
}

pub(crate) fn sudo_mode(text: &str) -> Word<SudoMode> {
    known("sudo mode", text, [SudoMode::None, SudoMode::Sudo].into_iter().find(|mode| mode.as_str() == text))
}

pub(crate) fn auth_method(text: &str) -> Word<AuthMethod> {
    let all = [AuthMethod::SshKey, AuthMethod::Password, AuthMethod::Both];
    known("auth method", text, all.into_iter().find(|method| method.as_str() == text))
}
