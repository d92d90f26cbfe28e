//! A phantom study through the daemon, by its own port, rules, model and ledger.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use lightbox_provisioning::site::SELF_TEST_PEER;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Unwell, site_lacks};
use crate::dicom::scu::{Instance, Step, Target};
use crate::finding::{Completeness, ModelResult};
use crate::job::{JobState, State as _, StudyState};
use crate::phantom::truth::Truth;
use crate::phantom::{Kind, Phantom, Spec, generate};

/// Pause between two looks into the ledger.
const PAUSE: Duration = Duration::from_millis(300);

/// A folder that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let mut chance = [0; 8];
        getrandom::fill(&mut chance).map_err(|_| anyhow!("the machine gives no random numbers"))?;
        let path = std::env::temp_dir().join(format!("lightbox-health-{:016x}", u64::from_ne_bytes(chance)));
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // In a folder for temporary files: what stays is removed with it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a phantom without an answer waits for.
enum Waits {
    /// For something that ends by itself, or by a person's doing: the same study is answered then.
    For(anyhow::Error),
    /// For nothing that would come.
    InVain(Unwell),
}

/// Sends a phantom that the box has never seen and waits `wait` for the exact answer. A study that waits for what a
/// restart would not mend is given as long again as often as `patient`, who hears why, says so.
pub async fn through(
    target: &Target,
    ledger: &Connection,
    wait: Duration,
    patient: &mut dyn FnMut(&str) -> bool,
) -> Result<String, Unwell> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|_| anyhow!("the machine gives no random numbers"))?;
    let kind = Kind::Ct { slices: 4 };
    let spec = Spec { rows: 128, columns: 128, disks: 3, ..Spec::new(kind, u64::from_ne_bytes(seed)) };
    let phantom = generate(&spec).context("the phantom cannot be made")?;
    send(target, &phantom).await?;
    let mut deadline = Instant::now() + wait;
    let outcome = loop {
        if let Some(outcome) = outcome(ledger, &phantom)? {
            break outcome;
        }
        if Instant::now() >= deadline {
            match standing(ledger, &phantom)? {
                // Anew from here: what it waited for may be over by the next look, and then it takes its time.
                Waits::For(why) if patient(&why.to_string()) => deadline = Instant::now() + wait,
                Waits::For(why) => return Err(Unwell::Held(why)),
                Waits::InVain(unwell) => return Err(unwell),
            }
        }
        tokio::time::sleep(PAUSE).await;
    };
    match &outcome.completeness {
        Completeness::Complete => {}
        Completeness::Partial(why) | Completeness::NotRun(why) => {
            return Err(anyhow!("the model did not examine the whole phantom: {why}").into());
        }
    }
    let truth = Truth::new(phantom, &spec);
    Ok(truth.check(&outcome.findings).map_err(|wrong| anyhow!("the phantom's answer is wrong: {wrong}"))?)
}

async fn send(target: &Target, phantom: &Phantom) -> Result<(), Unwell> {
    let scratch = Scratch::new()?;
    let mut instances = Vec::new();
    for (index, file) in phantom.files.iter().enumerate() {
        let path = scratch.0.join(format!("{index}.dcm"));
        std::fs::write(&path, &file.bytes)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        instances.push(Instance::open(&path).ok_or_else(|| anyhow!("the phantom is no DICOM file"))?);
    }
    let (mut refused, mut full) = (String::new(), false);
    let failed = target
        .send(&instances, false, &mut |step| {
            if let Step::Sent(_, Some(problem)) = step {
                refused = problem.to_string();
                full |= problem.is_out_of_resources();
            }
        })
        .await
        .context("the phantom study was not taken")?;
    let count = instances.len();
    match (failed, full) {
        (0, _) => Ok(()),
        (_, true) => Err(Unwell::Held(anyhow!(
            "{failed} of {count} images of the phantom were not stored: {refused}; remedy: make room on the disk of appliance.data_dir"
        ))),
        (_, false) => {
            Err(anyhow!("{failed} of {count} images of the phantom were not stored: {refused}").into())
        }
    }
}

/// What the model said of the phantom, once it has; an error where it failed.
fn outcome(ledger: &Connection, phantom: &Phantom) -> anyhow::Result<Option<ModelResult>> {
    let row: Option<(String, Option<String>, Option<String>)> = ledger
        .query_row(
            "SELECT j.state, j.error, j.outcome FROM jobs j JOIN studies s ON s.id = j.study_id
             WHERE s.study_uid = ?1 ORDER BY j.id DESC LIMIT 1",
            [phantom.study_uid.expose()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()
        .context("the ledger cannot be read")?;
    let Some((state, error, outcome)) = row else { return Ok(None) };
    if state == JobState::Failed.as_str() {
        anyhow::bail!("the model failed on the phantom: {}", error.unwrap_or_default());
    }
    match outcome {
        Some(text) => {
            Ok(Some(serde_json::from_str(&text).context("the ledger holds an outcome that cannot be read")?))
        }
        None => Ok(None),
    }
}

fn standing(ledger: &Connection, phantom: &Phantom) -> anyhow::Result<Waits> {
    let found: Option<(String, Option<String>, bool, bool)> = ledger
        .query_row(
            "SELECT s.state, j.state, EXISTS (SELECT 1 FROM model_slots m WHERE m.slot = j.model AND m.managed = 1
                    AND NOT EXISTS (SELECT 1 FROM model_versions v WHERE v.slot = m.slot AND v.state = 'active')),
                EXISTS (SELECT 1 FROM jobs o WHERE o.state = ?2 AND o.study_id != s.id)
             FROM studies s LEFT JOIN jobs j ON j.study_id = s.id WHERE s.study_uid = ?1 ORDER BY j.id DESC LIMIT 1",
            params![phantom.study_uid.expose(), JobState::Running.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .optional()
        .context("the ledger cannot be read")?;
    let waiting = Some(JobState::Waiting.as_str());
    Ok(match found {
        Some((state, None, ..)) if state != StudyState::Receiving.as_str() => {
            Waits::InVain(site_lacks(&format!(
                "the phantom study was stored and no rule gives it to a model: there is none for the peer \"{SELF_TEST_PEER}\""
            )))
        }
        Some((_, job, true, _)) if job.as_deref() == waiting => Waits::For(anyhow!(
            "the phantom study waits, because its model has no active version; remedy: see `lightbox models list`, or the page's models"
        )),
        Some((_, job, _, true)) if job.as_deref() == waiting => {
            Waits::For(anyhow!("the phantom study waits until the study is done that a model is at work on"))
        }
        _ => Waits::InVain(Unwell::Broken(anyhow!(
            "the phantom study was stored and no model has answered in time; remedy: look at `lightbox studies list`"
        ))),
    })
}
