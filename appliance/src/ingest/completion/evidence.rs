//! The evidence that a study, or one series of it, is complete. Pure: what is known in, a verdict with
//! its evidence out.
//!
//! Order of trust: the modality's performed procedure steps (MPPS), announcements (IAN), the PACS's own
//! count (C-FIND), the order's expected series, silence. What speaks *against* completeness (a step in
//! progress, an instance that is listed and not here, a higher count) makes a study wait, but never
//! longer than `timers.longest_seconds` after its last instance: then it is closed, and the verdict says
//! what was missing. No text here holds a UID: verdicts go into results.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::phi::Phi;

/// Series of these modalities are made by readers and algorithms, this box among them. A PACS counts
/// them, and they need not come here.
const DOCUMENTS: &[&str] = &["SR", "KO", "PR", "DOC", "SEG"];

/// A series as far as it is here.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Series Instance UID.
    pub uid: Phi<String>,
    /// SOP Instance UIDs; only filled where a step or an announcement lists some.
    pub instances: HashSet<Phi<String>>,
    /// Number of instances.
    pub count: u32,
    /// Last new instance.
    pub last_at: i64,
    /// Silence after which it counts as complete.
    pub quiet_ms: i64,
}

/// Instances of one series that a step or an announcement lists.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Written")]
pub struct Listed {
    /// Series Instance UID.
    pub series_uid: Phi<String>,
    /// SOP Instance UIDs.
    pub instances: Uids,
}

/// The two ways in which the ledger has it: a step lists UIDs, an announcement a number and UIDs.
#[derive(Deserialize)]
struct Written {
    series_uid: Phi<String>,
    #[serde(default)]
    instances: Uids,
    #[serde(default)]
    uids: Vec<Phi<String>>,
}

impl From<Written> for Listed {
    fn from(written: Written) -> Self {
        let instances = if written.uids.is_empty() { written.instances } else { Uids::These(written.uids) };
        Listed { series_uid: written.series_uid, instances }
    }
}

/// SOP Instance UIDs; a mere number in their place says how many, not which.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Uids {
    /// Which.
    These(Vec<Phi<String>>),
    /// How many.
    Number(u32),
}

impl Default for Uids {
    fn default() -> Self {
        Uids::These(Vec::new())
    }
}

impl Uids {
    fn count(&self) -> u32 {
        match self {
            Uids::These(uids) => uids.len().try_into().unwrap_or(u32::MAX),
            Uids::Number(number) => *number,
        }
    }

    fn here(&self, series: Option<&Series>) -> u32 {
        let Some(series) = series else { return 0 };
        match self {
            Uids::These(uids) => uids.iter().filter(|uid| series.instances.contains(uid)).count() as u32,
            Uids::Number(number) => series.count.min(*number),
        }
    }
}

/// How far a performed procedure step is (0040,0252).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepStatus {
    /// IN PROGRESS.
    InProgress,
    /// COMPLETED.
    Completed,
    /// DISCONTINUED: what it lists was made all the same.
    Discontinued,
}

/// A performed procedure step: what one modality did, which need not be the whole study (PS3.4 F.7).
#[derive(Clone, Debug)]
pub struct Step {
    /// Its sender in the site file.
    pub peer: String,
    /// How far it is.
    pub status: StepStatus,
    /// What it lists.
    pub series: Vec<Listed>,
}

/// An Instance Availability Notification.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Its sender in the site file.
    pub peer: String,
    /// What it lists.
    pub series: Vec<Listed>,
}

/// What a PACS counted in one series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedSeries {
    /// Series Instance UID.
    pub series_uid: Phi<String>,
    /// Modality (0008,0060).
    #[serde(default)]
    pub modality: String,
    /// Number of Series Related Instances (0020,1209), where it tells.
    pub instances: Option<u32>,
}

/// What a PACS answered.
#[derive(Clone, Debug)]
pub struct Count {
    /// The peer that was asked.
    pub peer: String,
    /// When.
    pub asked_at: i64,
    /// Number of Study Related Instances (0020,1208), where it tells.
    pub instances: Option<u32>,
    /// By series.
    pub series: Vec<CountedSeries>,
    /// Why there is no answer.
    pub fault: Option<String>,
}

/// What an order says of the study's size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Number of series.
    pub series: Option<u32>,
    /// Number of instances.
    pub instances: Option<u32>,
}

/// Everything that is known of a study that is open.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Now, ms since the epoch, as all times here.
    pub now: i64,
    /// Its last new instance.
    pub last_at: i64,
    /// `timers.longest_seconds`.
    pub longest_ms: i64,
    /// Silence before a mere number is believed.
    pub settle_ms: i64,
    /// What is here.
    pub series: Vec<Series>,
    /// Its procedure steps.
    pub steps: Vec<Step>,
    /// Its announcements.
    pub announcements: Vec<Announcement>,
    /// The PACS's count.
    pub count: Option<Count>,
    /// The series of our own results, an instance each: a PACS counts them too.
    pub own_series: Vec<Phi<String>>,
    /// What its order says.
    pub expected: Expected,
}

/// Where evidence comes from, by trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Modality Performed Procedure Step.
    Mpps,
    /// Instance Availability Notification.
    Ian,
    /// C-FIND at the PACS.
    Count,
    /// The order's expected series or instances.
    Order,
    /// Silence.
    QuietTimer,
    /// `timers.longest_seconds` ran out while evidence was against it.
    Longest,
}

/// What a piece of evidence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Says {
    /// All is here.
    Complete,
    /// Something is missing.
    Incomplete,
    /// Neither.
    Nothing,
}

/// A piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Its source.
    pub kind: Kind,
    /// What it says.
    pub says: Says,
    /// The same in words and numbers, without patient data.
    pub text: String,
}

/// Whether something is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Complete {
        /// What decided.
        by: Kind,
        /// Why, in words.
        why: String,
    },
    /// Not yet.
    Waiting {
        /// Why, in words.
        why: String,
        /// When it is complete if nothing else comes.
        until: i64,
    },
}

impl Verdict {
    /// Whether it is complete.
    pub fn is_complete(&self) -> bool {
        matches!(self, Verdict::Complete { .. })
    }
}

/// A verdict and what it rests on.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// What it rests on, by trust.
    pub evidence: Vec<Evidence>,
}

/// Judges the study.
pub fn study(known: &Known) -> Judged {
    let evidence: Vec<Evidence> =
        [mpps(known), ian(known), count(known), order(known)].into_iter().flatten().collect();
    let quiet_until = known.series.iter().map(|series| series.last_at + series.quiet_ms).max();
    let silence = Silence {
        now: known.now,
        last_at: known.last_at,
        longest_ms: known.longest_ms,
        quiet_until: quiet_until.unwrap_or(known.last_at),
        quiet_ms: known.series.iter().map(|series| series.quiet_ms).max().unwrap_or_default(),
    };
    let mut judged = weigh(evidence, &silence);
    // A step and an announcement speak of the series that they list, and of no other.
    if let Verdict::Complete { by: Kind::Mpps | Kind::Ian, .. } = judged.verdict {
        let others: Vec<i64> = known
            .series
            .iter()
            .filter(|series| !is_listed(known, &series.uid))
            .filter_map(|other| match self::series(known, other).verdict {
                Verdict::Complete { .. } => None,
                Verdict::Waiting { until, .. } => Some(until),
            })
            .collect();
        if let Some(until) = others.iter().max() {
            let why = format!("{} that nothing lists may still grow", counted(others.len() as u32, "series"));
            judged.verdict = Verdict::Waiting { why, until: *until };
        }
    }
    // An order's number of series is believed after a moment's silence.
    if let Verdict::Waiting { until, .. } = &mut judged.verdict
        && expects_series_only(known)
        && !judged.evidence.iter().any(|evidence| evidence.says == Says::Incomplete)
    {
        *until = (*until).min((known.last_at + known.settle_ms).max(known.now + 1));
    }
    judged
}

/// Judges one series of the study.
pub fn series(known: &Known, series: &Series) -> Judged {
    let of = |listed: &Listed| listed.series_uid == series.uid;
    let mut evidence = Vec::new();
    let finished = known.steps.iter().filter(|step| step.status != StepStatus::InProgress);
    let by_step: Vec<_> = finished
        .flat_map(|step| step.series.iter().filter(|listed| of(listed)).map(|listed| (&step.peer, listed)))
        .collect();
    evidence.extend(listed(Kind::Mpps, "procedure step", &by_step, known));
    let announced: Vec<_> = known
        .announcements
        .iter()
        .flat_map(|one| one.series.iter().filter(|listed| of(listed)).map(|listed| (&one.peer, listed)))
        .collect();
    evidence.extend(listed(Kind::Ian, "announcement", &announced, known));
    if let Some(count) = &known.count
        && count.asked_at >= series.last_at + known.settle_ms
        && let Some(there) = count.series.iter().find(|one| one.series_uid == series.uid)
    {
        evidence.extend(there.instances.map(|there| compare(&count.peer, there, series.count)));
    }
    weigh(
        evidence,
        &Silence {
            now: known.now,
            last_at: series.last_at,
            longest_ms: known.longest_ms,
            quiet_until: series.last_at + series.quiet_ms,
            quiet_ms: series.quiet_ms,
        },
    )
}

struct Silence {
    now: i64,
    last_at: i64,
    longest_ms: i64,
    quiet_until: i64,
    quiet_ms: i64,
}

/// What is against it outweighs what is for it, until the longest wait is over.
fn weigh(evidence: Vec<Evidence>, silence: &Silence) -> Judged {
    let seconds = |ms: i64| ms / 1000;
    let against: Vec<&str> =
        evidence.iter().filter(|one| one.says == Says::Incomplete).map(|one| one.text.as_str()).collect();
    let verdict = if !against.is_empty() {
        let (why, until) = (against.join("; "), silence.last_at + silence.longest_ms);
        if silence.now >= until {
            let why = format!("no new instance for {} s, although {why}", seconds(silence.longest_ms));
            Verdict::Complete { by: Kind::Longest, why }
        } else {
            Verdict::Waiting { why, until }
        }
    } else if let Some(decides) = evidence.iter().find(|one| one.says == Says::Complete) {
        Verdict::Complete { by: decides.kind, why: decides.text.clone() }
    } else if silence.now >= silence.quiet_until {
        let why = format!("no new instance for {} s", seconds(silence.quiet_ms));
        Verdict::Complete { by: Kind::QuietTimer, why }
    } else {
        let why = format!("nothing but {} s of silence will tell", seconds(silence.quiet_ms));
        Verdict::Waiting { why, until: silence.quiet_until }
    };
    Judged { verdict, evidence }
}

fn mpps(known: &Known) -> Option<Evidence> {
    if known.steps.is_empty() {
        return None;
    }
    let running: Vec<&Step> =
        known.steps.iter().filter(|step| step.status == StepStatus::InProgress).collect();
    if !running.is_empty() {
        let text = format!(
            "{} of {} in progress",
            counted(running.len() as u32, "procedure step"),
            peers(running.iter().map(|step| &step.peer))
        );
        return Some(Evidence { kind: Kind::Mpps, says: Says::Incomplete, text });
    }
    let all: Vec<_> =
        known.steps.iter().flat_map(|step| step.series.iter().map(|listed| (&step.peer, listed))).collect();
    listed(Kind::Mpps, "procedure step", &all, known).or_else(|| {
        let from = peers(known.steps.iter().map(|step| &step.peer));
        let text = format!("the procedure step of {from} lists no instance");
        Some(Evidence { kind: Kind::Mpps, says: Says::Nothing, text })
    })
}

fn ian(known: &Known) -> Option<Evidence> {
    let all: Vec<_> = known
        .announcements
        .iter()
        .flat_map(|one| one.series.iter().map(|listed| (&one.peer, listed)))
        .collect();
    listed(Kind::Ian, "announcement", &all, known)
}

/// Compares what is listed with what is here. An instance that is listed twice counts once.
fn listed(kind: Kind, what: &str, all: &[(&String, &Listed)], known: &Known) -> Option<Evidence> {
    let mut by_series: BTreeMap<&Phi<String>, (HashSet<&Phi<String>>, u32)> = BTreeMap::new();
    for (_, listed) in all {
        let entry = by_series.entry(&listed.series_uid).or_default();
        match &listed.instances {
            Uids::These(uids) => entry.0.extend(uids),
            Uids::Number(number) => entry.1 = entry.1.max(*number),
        }
    }
    let (mut wanted, mut here) = (0_u32, 0_u32);
    for (uid, (uids, number)) in by_series {
        let series = known.series.iter().find(|series| series.uid == *uid);
        let these = Uids::These(uids.into_iter().cloned().collect());
        let chosen = if these.count() >= number { these } else { Uids::Number(number) };
        wanted = wanted.saturating_add(chosen.count());
        here = here.saturating_add(chosen.here(series));
    }
    if wanted == 0 {
        return None;
    }
    let from = peers(all.iter().map(|(peer, _)| *peer));
    let (says, text) = if here == wanted {
        (
            Says::Complete,
            format!("all of the {} that the {what} of {from} lists", counted(wanted, "instance")),
        )
    } else {
        let text = format!("{here} of the {wanted} instances that the {what} of {from} lists");
        (Says::Incomplete, text)
    };
    Some(Evidence { kind, says, text: format!("{text} are here") })
}

/// Whether a finished step or an announcement lists the series.
fn is_listed(known: &Known, uid: &Phi<String>) -> bool {
    let by_step = known.steps.iter().flat_map(|step| &step.series);
    let mut all = by_step.chain(known.announcements.iter().flat_map(|one| &one.series));
    all.any(|listed| listed.series_uid == *uid && listed.instances.count() > 0)
}

fn count(known: &Known) -> Option<Evidence> {
    let count = known.count.as_ref()?;
    let nothing = |text: String| Some(Evidence { kind: Kind::Count, says: Says::Nothing, text });
    let peer = &count.peer;
    if let Some(fault) = &count.fault {
        return nothing(format!("{peer} did not tell its count: {fault}"));
    }
    if count.asked_at < known.last_at {
        return None; // an instance came since: it says nothing any more
    }
    let here: u32 = known.series.iter().map(|series| series.count).sum();
    let is_here = |uid: &Phi<String>| known.series.iter().any(|series| series.uid == *uid);
    let of_study = |one: &&CountedSeries| {
        is_here(&one.series_uid)
            || !(known.own_series.contains(&one.series_uid) || DOCUMENTS.contains(&one.modality.as_str()))
    };
    let by_series: Option<u32> = count.series.iter().filter(of_study).map(|one| one.instances).sum();
    let there = match by_series {
        Some(there) if !count.series.is_empty() => Some(there),
        _ => {
            let own = known.own_series.iter().filter(|uid| !is_here(uid)).count() as u32;
            count.instances.map(|all| all.saturating_sub(own))
        }
    };
    match there {
        Some(there) => Some(compare(peer, there, here)),
        None => nothing(format!("{peer} does not count instances")),
    }
}

fn compare(peer: &str, there: u32, here: u32) -> Evidence {
    let (says, text) = match there.cmp(&here) {
        std::cmp::Ordering::Equal => {
            (Says::Complete, format!("{peer} has {} as we have", counted(there, "instance")))
        }
        std::cmp::Ordering::Greater => (Says::Incomplete, format!("{peer} has {there} instances, we {here}")),
        // It gets them later than we do, so its number tells nothing of the end.
        std::cmp::Ordering::Less => (Says::Nothing, format!("{peer} has {there} instances, we {here}")),
    };
    Evidence { kind: Kind::Count, says, text }
}

fn expects_series_only(known: &Known) -> bool {
    known.expected.instances.is_none()
        && known.expected.series.is_some_and(|wanted| known.series.len() as u32 >= wanted)
}

fn order(known: &Known) -> Option<Evidence> {
    let says = |says, text| Some(Evidence { kind: Kind::Order, says, text });
    let compare = |wanted: u32, here: u32, what: &str| {
        let text = format!("{here} of the {wanted} {what} that the order expects are here");
        (if here >= wanted { Says::Complete } else { Says::Incomplete }, text)
    };
    let here = known.series.iter().map(|series| series.count).sum();
    let by_series = known.expected.series.map(|wanted| compare(wanted, known.series.len() as u32, "series"));
    let by_instance = known.expected.instances.map(|wanted| compare(wanted, here, "instances"));
    match (by_series, by_instance) {
        (Some((Says::Incomplete, text)), _) | (_, Some((Says::Incomplete, text))) => {
            says(Says::Incomplete, text)
        }
        (_, Some((_, text))) => says(Says::Complete, text),
        // The last series has begun; whether it has ended, silence tells.
        (Some((_, text)), None) if known.now >= known.last_at + known.settle_ms => says(Says::Complete, text),
        (Some((_, text)), None) => says(Says::Nothing, text),
        (None, None) => None,
    }
}

fn counted(number: u32, what: &str) -> String {
    let plural = if number == 1 || what == "series" { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn peers<'a>(all: impl Iterator<Item = &'a String>) -> String {
    let unique: std::collections::BTreeSet<&str> = all.map(String::as_str).collect();
    unique.into_iter().collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests;
