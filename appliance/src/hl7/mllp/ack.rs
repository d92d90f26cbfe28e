//! Acknowledgements: reading a peer's (MSA, ERR), writing ours, and deciding what one means.

use serde::{Deserialize, Serialize};

use crate::phi::Phi;

use super::MllpError;

/// MSA-1, HL7 table 0008.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckCode {
    /// Application accept.
    AA,
    /// Application error.
    AE,
    /// Application reject.
    AR,
    /// Commit accept (enhanced mode).
    CA,
    /// Commit error (enhanced mode).
    CE,
    /// Commit reject (enhanced mode).
    CR,
}

impl AckCode {
    /// The two letters on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            AckCode::AA => "AA",
            AckCode::AE => "AE",
            AckCode::AR => "AR",
            AckCode::CA => "CA",
            AckCode::CE => "CE",
            AckCode::CR => "CR",
        }
    }

    fn from_wire(text: &str) -> Option<Self> {
        [AckCode::AA, AckCode::AE, AckCode::AR, AckCode::CA, AckCode::CE, AckCode::CR]
            .into_iter()
            .find(|code| code.as_str() == text)
    }
}

/// A peer's acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// MSA-1.
    pub code: AckCode,
    /// MSA-2: which message it answers.
    pub control_id: Phi<String>,
    /// What the peer said, from MSA-3 and ERR-7, ERR-8: at most 1000 characters.
    /// It may echo the patient's data.
    pub text: Phi<String>,
    /// HL7 error code (table 0357: 100 to 207), from ERR-3, ERR-1.4 or MSA-6.
    pub error_code: Option<u16>,
}

/// How much of a peer's text is kept.
pub const TEXT_LIMIT_CHARS: usize = 1000;

/// What a peer's negative answer makes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNegative {
    /// Sent again later.
    Retry,
    /// Put aside for a person.
    DeadLetter,
}

/// How one peer's acknowledgements are read: a setting of each destination, because peers differ
/// (HL7 v2.5.1 §2.9.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AckPolicy {
    /// Application error: by default an error in the content, which sending again cannot mend.
    pub on_ae: OnNegative,
    /// Application reject: by default the peer could not process it now.
    pub on_ar: OnNegative,
    /// Commit error, as [`AckPolicy::on_ae`].
    pub on_ce: OnNegative,
    /// Commit reject, as [`AckPolicy::on_ar`].
    pub on_cr: OnNegative,
    /// Whether a `CA` is followed by an application acknowledgement that decides.
    pub await_application: bool,
}

impl Default for AckPolicy {
    fn default() -> Self {
        AckPolicy {
            on_ae: OnNegative::DeadLetter,
            on_ar: OnNegative::Retry,
            on_ce: OnNegative::DeadLetter,
            on_cr: OnNegative::Retry,
            await_application: false,
        }
    }
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// For logs: the codes alone, e.g. `AR 207`.
    pub code: String,
    /// For the ledger and the operator's page: what the peer said.
    pub text: Phi<String>,
}

/// What an acknowledgement makes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Done.
    Delivered,
    /// Send it again later.
    Retry(Reason),
    /// Put it aside for a person.
    DeadLetter(Reason),
}

/// Decides what an acknowledgement makes of a message.
///
/// A rejected message type, event, processing id or version (table 0357: 200 to 203) goes to the
/// dead letters whatever the policy: the same message would be rejected for ever.
pub fn disposition(ack: &Ack, policy: &AckPolicy) -> Disposition {
    let on_negative = match ack.code {
        AckCode::AA => return Disposition::Delivered,
        AckCode::CA if !policy.await_application => return Disposition::Delivered,
        AckCode::CA => OnNegative::Retry,
        AckCode::AE => policy.on_ae,
        AckCode::AR => policy.on_ar,
        AckCode::CE => policy.on_ce,
        AckCode::CR => policy.on_cr,
    };
    let code = match ack.error_code {
        Some(error) => format!("{} {error}", ack.code.as_str()),
        None => ack.code.as_str().to_owned(),
    };
    let reason = Reason { code, text: ack.text.clone() };
    if on_negative == OnNegative::DeadLetter || matches!(ack.error_code, Some(200..=203)) {
        Disposition::DeadLetter(reason)
    } else {
        Disposition::Retry(reason)
    }
}

/// Reads an acknowledgement, in whatever separators its MSH names. Segments may end in CR, LF or
/// both; bytes that are not UTF-8 become U+FFFD.
///
/// # Errors
/// [`MllpError::NotAnAcknowledgement`].
pub fn parse(bytes: &[u8]) -> Result<Ack, MllpError> {
    let message = String::from_utf8_lossy(bytes);
    let header = Header::read(&message)?;
    let segment = |name: &str| {
        header.segments(&message).find(|fields| fields.first() == Some(&name)).unwrap_or_default()
    };
    let msa = segment("MSA");
    let field = |fields: &[&str], index: usize| fields.get(index).copied().unwrap_or_default().to_owned();
    if msa.is_empty() {
        return Err(MllpError::NotAnAcknowledgement("it has no MSA segment"));
    }
    let code = AckCode::from_wire(field(&msa, 1).trim())
        .ok_or(MllpError::NotAnAcknowledgement("its MSA-1 is not in table 0008"))?;
    let err = segment("ERR");
    let component = |text: &str, index: usize| {
        text.split(header.component).nth(index).unwrap_or_default().trim().to_owned()
    };
    // ERR-1 (before 2.5) hides the code in its fourth component, behind sub-component separators.
    let old = component(&field(&err, 1), 3);
    let error_code = [
        component(&field(&err, 3), 0),
        old.split(header.subcomponent).next().unwrap_or_default().to_owned(),
        component(&field(&msa, 6), 0),
    ]
    .iter()
    .find_map(|code| code.parse::<u16>().ok());
    let mut parts: Vec<String> = Vec::new();
    for part in [field(&msa, 3), field(&err, 7), field(&err, 8), component(&field(&err, 3), 1)] {
        let part = part.trim().to_owned();
        if !part.is_empty() && !parts.contains(&part) {
            parts.push(part);
        }
    }
    let text: String = parts.join("; ").chars().filter(|c| !c.is_control()).take(TEXT_LIMIT_CHARS).collect();
    Ok(Ack { code, control_id: field(&msa, 2).trim().to_owned().into(), text: text.into(), error_code })
}

/// Writes the acknowledgement of `message` (ACK, HL7 v2.5.1 §2.14.1), with our sender's and
/// receiver's names exchanged and its own separators. `answered_at` goes into MSH-7.
///
/// # Errors
/// [`MllpError::NotAnAcknowledgement`] if `message` has no MSH segment to answer.
pub fn acknowledgement(message: &str, code: AckCode, answered_at: &str) -> Result<String, MllpError> {
    answer(message, code, answered_at, None)
}

/// What a negative acknowledgement says besides its code.
#[derive(Clone, Copy, Debug)]
pub struct Complaint<'a> {
    /// HL7 table 0357.
    pub error_code: u16,
    /// In words, for MSA-3 and ERR-8: ours, never the message's.
    pub text: &'a str,
}

/// As [`acknowledgement`], with the reason of a negative one in MSA-3 and, from version 2.5 on, in ERR.
///
/// # Errors
/// As [`acknowledgement`].
pub fn answer(
    message: &str,
    code: AckCode,
    answered_at: &str,
    complaint: Option<Complaint<'_>>,
) -> Result<String, MllpError> {
    let header = Header::read(message)?;
    let msh = header.segments(message).next().unwrap_or_default();
    // MSH-1 is the separator itself, so field n is at n - 1.
    let field = |number: usize| msh.get(number - 1).copied().unwrap_or_default();
    let separator = header.field.to_string();
    let trigger = field(9).split(header.component).nth(1).unwrap_or_default();
    let kind = if trigger.is_empty() {
        "ACK".to_owned()
    } else {
        let component = header.component;
        format!("ACK{component}{trigger}{component}ACK")
    };
    let control_id = field(10);
    let answer = [
        "MSH",
        field(2),
        field(5),
        field(6),
        field(3),
        field(4),
        answered_at,
        "",
        &kind,
        // Ours need only differ from the peer's others on this connection.
        &format!("A{}", control_id.chars().take(19).collect::<String>()),
        field(11),
        field(12),
    ]
    .join(&separator);
    let Some(complaint) = complaint else {
        let msa = ["MSA", code.as_str(), control_id].join(&separator);
        return Ok(format!("{answer}\r{msa}\r"));
    };
    let text: String = complaint
        .text
        .chars()
        .map(|c| if c == header.field || field(2).contains(c) { ' ' } else { c })
        .collect();
    let msa = ["MSA", code.as_str(), control_id, &text].join(&separator);
    let component = header.component;
    let error = format!("{}{component}{component}HL70357", complaint.error_code);
    let err = ["ERR", "", "", &error, "E", "", "", "", &text].join(&separator);
    // Before 2.5 the segment was another one.
    let err = if field(12).starts_with("2.5") { format!("{err}\r") } else { String::new() };
    Ok(format!("{answer}\r{msa}\r{err}"))
}

/// Answers bytes that have no MSH segment by which they could be answered.
pub fn answer_to_no_message(answered_at: &str, complaint: Complaint<'_>) -> String {
    let text = complaint.text;
    format!(
        "MSH|^~\\&|||||{answered_at}||ACK|A{answered_at}|P|2.5.1\rMSA|AE||{text}\rERR|||{}^^HL70357|E||||{text}\r",
        complaint.error_code
    )
}

/// The separators of a message.
struct Header {
    field: char,
    component: char,
    subcomponent: char,
}

impl Header {
    fn read(message: &str) -> Result<Self, MllpError> {
        let not = MllpError::NotAnAcknowledgement("it does not begin with an MSH segment");
        let Some(rest) = message.trim_start_matches(['\r', '\n', ' ']).strip_prefix("MSH") else {
            return Err(not);
        };
        let mut separators = rest.chars();
        let field = separators.next().filter(|c| !c.is_alphanumeric() && !c.is_control()).ok_or(not)?;
        let encoding: Vec<char> = separators.take_while(|c| *c != field && !c.is_control()).collect();
        Ok(Header {
            field,
            component: encoding.first().copied().unwrap_or('^'),
            subcomponent: encoding.get(3).copied().unwrap_or('&'),
        })
    }

    fn segments<'a>(&self, message: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
        let field = self.field;
        message
            .split(['\r', '\n'])
            .map(str::trim_start)
            .filter(|segment| !segment.is_empty())
            .map(move |segment| segment.split(field).collect())
    }
}
