//! What one rule said about one host.

use std::collections::BTreeMap;
use std::fmt::{self, Formatter};

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The four ways a rule can end. Unknown words become `Error`, never `Pass` (EXE-30).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The host is in the desired state.
    Pass,
    /// The host is not in the desired state.
    Fail,
    /// The rule does not apply or cannot be assessed here; nothing broke.
    Skipped,
    /// No verdict: something broke.
    Error,
}

impl Status {
    /// All four, in the order tables show them.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Fail, Self::Skipped, Self::Error];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
            Self::Error => "error",
        }
    }

    /// Reads a wire or column value; anything unknown is [`Status::Error`].
    pub fn parse(text: &str) -> Self {
        match text {
            "pass" => Self::Pass,
            "fail" => Self::Fail,
            "skipped" => Self::Skipped,
            _ => Self::Error,
        }
    }
}

/// How much a rule matters. Ordered: `Low < Critical`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
}

impl Severity {
    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Reads a wire, column or rule file value, ignoring case; anything else is `None` (severity absent).
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "low" => Some(Self::Low),
            "medium" => Some(Self::Medium),
            "high" => Some(Self::High),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }
}

/// Framework id (`cis_rhel9`, `nist_800_53`) to the controls that the rule speaks to, both sorted.
pub type FrameworkRefs = BTreeMap<String, Vec<String>>;

/// One rule's result. `E` is its evidence: [`Evidence`], or its text where nobody has to look into it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome<E = Evidence> {
    /// Rule id.
    pub rule: String,
    /// Verdict.
    pub status: Status,
    /// From the rule; absent where the rule has none or could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// One line for a person: what was wanted and what was found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Why it was skipped; present only when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_reason: Option<String>,
    /// Framework references; may be empty, never absent from storage.
    #[serde(default)]
    pub framework_refs: FrameworkRefs,
    /// What was run and what it said.
    #[serde(default)]
    pub evidence: E,
}

/// Proof of an outcome. Holds nothing that differs between two equal measurements: no times, no lanes.
/// Published as `specs/schemas/evidence.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evidence {
    /// One entry per logical command, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckEvidence>,
}

/// Evidence is an object (TLW-14): a derived reader would take a list for its fields in order as well.
impl<'de> Deserialize<'de> for Evidence {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            #[serde(default)]
            checks: Vec<CheckEvidence>,
        }

        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Evidence;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
                formatter.write_str("evidence, an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Evidence, A::Error> {
                let Fields { checks } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Evidence { checks })
            }
        }

        reader.deserialize_map(Object)
    }
}

/// One logical command of a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckEvidence {
    /// Check method as written in the rule.
    pub method: String,
    /// The command before any privilege wrapper.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub command: String,
    /// Exit status; absent when the command has no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Standard output, UTF-8 with replacement, clipped to 64 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// Standard error, the same way.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// What the rule wanted, where it is one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What the judge read out of the observation, where it is one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// Present when a stream was clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
    /// Why there is no answer, when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The size and digest of what was clipped, so that the original can be recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncated {
    /// Bytes of both streams before clipping.
    pub original_bytes: u64,
    /// SHA-256 over stdout then stderr before clipping, hex.
    pub sha256: String,
}

/// Bytes kept of each stream in evidence.
pub const EVIDENCE_STREAM_CAP: usize = 64 * 1024;
/// Bytes of one rule's evidence (its JSON) that the writer accepts (TLW-16): exactly this many is allowed.
pub const EVIDENCE_RULE_CAP: usize = 256 * 1024;
/// Bytes read per rule before the scan fails with `evidence_oversize` (EXE-18).
pub const OUTPUT_RULE_CAP: usize = 10 * 1024 * 1024;

/// How many rules ended each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rules that passed.
    pub pass: u32,
    /// Rules that failed.
    pub fail: u32,
    /// Rules that were skipped.
    pub skipped: u32,
    /// Rules without a verdict.
    pub error: u32,
}

impl Counts {
    /// Counts outcomes by status.
    pub fn of<'a>(statuses: impl IntoIterator<Item = &'a Status>) -> Self {
        let mut counts = Self::default();
        for status in statuses {
            match status {
                Status::Pass => counts.pass += 1,
                Status::Fail => counts.fail += 1,
                Status::Skipped => counts.skipped += 1,
                Status::Error => counts.error += 1,
            }
        }
        counts
    }

    /// All rules.
    pub fn total(self) -> u32 {
        self.pass + self.fail + self.skipped + self.error
    }
}
