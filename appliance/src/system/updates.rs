//! The daemon's side of updates of the image: one task that looks at the repository, fetches, has the slot written, and
//! has the machine restarted when the site wants it. All that it remembers is in the ledger.
//!
//! A version that the box came back from is not tried again unless a person says so.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lightbox_models::trust::{self, Clause, Folder, Known, Override, Refusal, Source};
use lightbox_provisioning::site::{Install, Site};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::System;
use super::arrival::{self, Step};
use super::manifest::{Here, Offered, Unfit};
use super::orders::{Orders, Progress, STATE, Standing, WriteOrder};
use super::stage::{self, Unfetched};
use crate::clock::{SharedClock, utc_text};
use crate::dicom::tls::live::Live;
use crate::dispatch::Window;
use crate::ingest::listener::places::Places;
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::system::{self, State};
use crate::update::mirror::Mirror;
use crate::web::client::MirrorOf;

/// How often the ledger is asked whether something is to be done.
const TICK: Duration = Duration::from_secs(1);
/// After this long without a sign of the slot writer the order is given again.
const WRITER_SILENT: Duration = Duration::from_secs(10 * 60);
/// So often, and then the image is refused: a writer that comes to no end would wear the disk.
const INTERRUPTED_MAX: u32 = 5;
/// Between two tries to fetch an image that had no room, or did not come whole.
const PAUSE: Duration = Duration::from_secs(60);

/// Why a look led to nothing.
enum Failed {
    Refused(Refusal),
    Box(LedgerError),
}

impl From<LedgerError> for Failed {
    fn from(error: LedgerError) -> Self {
        Failed::Box(error)
    }
}

/// Who wants a look.
#[derive(Clone, Copy)]
enum Asked<'a> {
    /// It is time.
    Nobody,
    /// A person, and why metadata past their date are to be taken.
    By(&'a str, Option<&'a str>),
}

impl Asked<'_> {
    fn by(&self) -> &str {
        match self {
            Asked::Nobody => "box",
            Asked::By(person, _) => person,
        }
    }

    fn exception(&self) -> Option<Override> {
        match self {
            Asked::By(person, Some(why)) => Some(Override { who: (*person).into(), why: (*why).into() }),
            _ => None,
        }
    }
}

/// The task.
pub struct SystemUpdates {
    site: Arc<Site>,
    here: Here,
    ledger: Ledger,
    clock: SharedClock,
    places: Arc<Places>,
    orders: Orders,
    mirror: Option<Mirror>,
    window: Option<Window>,
    /// Not before then is an image fetched that had no room or did not come whole.
    again_at: Mutex<Option<Instant>>,
    /// The slot writer's last sign, and when it was new.
    last_sign: Mutex<Option<(Option<Progress>, Instant)>>,
    /// How often in a row it was interrupted.
    interrupted: AtomicU32,
}

/// What was under the clock last time: a stick that was put in, or files that were exchanged.
type Stamp = Option<(u64, SystemTime)>;

impl SystemUpdates {
    /// The task of a site; none on a machine that was not started from an image of ours.
    pub fn of_site(
        site: &Arc<Site>,
        ledger: &Ledger,
        clock: &SharedClock,
        places: &Arc<Places>,
        live: &watch::Receiver<Arc<Live>>,
    ) -> Option<Self> {
        let settings = &site.file.system;
        let here = System::running()?.here()?;
        let offset = &site.file.appliance.utc_offset;
        Some(SystemUpdates {
            site: site.clone(),
            here,
            ledger: ledger.clone(),
            clock: clock.clone(),
            places: places.clone(),
            orders: Orders::new(&settings.folder, &state_folder()),
            mirror: Mirror::of_site(site, live, MirrorOf::Images),
            window: settings.window.as_ref().and_then(|window| Window::new(window, offset)),
            again_at: Mutex::new(None),
            last_sign: Mutex::new(None),
            interrupted: AtomicU32::new(0),
        })
    }

    /// Runs until `stop` turns true. It may be left at any point: so may a power cut leave it.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.turns() => {}
        }
    }

    async fn turns(&self) {
        if let Err(error) = std::fs::create_dir_all(&self.site.file.system.folder) {
            tracing::error!(
                reason = error.to_string(),
                "system.folder cannot be made: no image can be installed"
            );
        }
        let mut has_arrived = false;
        report(self.tidy().await, "what was staged cannot be looked up");
        let minutes = self.site.file.system.check_minutes;
        let mut due = (minutes > 0).then(Instant::now);
        let mut last: Stamp = None;
        let mut start_kept = false;
        loop {
            if !has_arrived {
                match self.arrived().await {
                    Ok(()) => has_arrived = true,
                    Err(error) => report(Err(error), "what this start means cannot be written down"),
                }
            }
            if !start_kept {
                match self.keep_start().await {
                    Ok(kept) => start_kept = kept,
                    Err(error) => report(Err(error), "this start of the machine cannot be written down"),
                }
            }
            match self.ledger.read(system::open_request).await {
                Ok(Some(request)) => {
                    let asked = Asked::By(&request.person, request.override_reason.as_deref());
                    let outcome = self.check(asked).await;
                    let id = request.id;
                    let kept =
                        self.ledger.write(move |writer| system::answer_request(writer, id, &outcome)).await;
                    report(kept, "the request for a look cannot be answered");
                }
                Ok(None) if minutes > 0 => {
                    let now = self.stamp();
                    let changed = now.is_some() && now != last;
                    let time = due.is_some_and(|due| due <= Instant::now());
                    // A folder without a repository is a stick that is not there: nothing to complain of.
                    if changed || time && (now.is_some() || self.mirror.is_some()) {
                        self.check(Asked::Nobody).await;
                    }
                    if changed || time {
                        due = Some(Instant::now() + Duration::from_secs(60 * minutes));
                    }
                    last = now;
                }
                Ok(None) => {}
                Err(error) => report(Err(error), "requests cannot be looked up"),
            }
            if has_arrived {
                report(self.advance().await, "an image's update does not go on");
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Removes what a power cut or an earlier release has left staged.
    async fn tidy(&self) -> Result<(), LedgerError> {
        let versions = self.ledger.read(system::versions).await?;
        let used = versions.iter().any(|one| matches!(one.state, State::Fetching | State::Writing));
        if !used {
            self.clear_stage();
        }
        Ok(())
    }

    /// The newest file of a repository in a folder, by size and time.
    fn stamp(&self) -> Stamp {
        let folder = self.site.file.system.repository.as_ref()?;
        let found = std::fs::metadata(folder.join("metadata/timestamp.json")).ok()?;
        Some((found.len(), found.modified().ok()?))
    }

    /// Writes this start of the machine down, once the image's unit has called it good.
    async fn keep_start(&self) -> Result<bool, LedgerError> {
        let Some(start) = self.orders.last_start().filter(|start| start.boot == super::boot_id()) else {
            return Ok(false);
        };
        if let Some(trouble) = start.trouble() {
            tracing::error!(entry = start.entry, trouble, "the machine was started with trouble");
        }
        self.ledger.write(move |writer| system::keep_start(writer, &start)).await?;
        Ok(true)
    }

    /// What this start means: the new image runs, or the box has come back from it.
    async fn arrived(&self) -> Result<(), LedgerError> {
        let versions = self.ledger.read(system::versions).await?;
        let (running, boot) = (self.here.version, super::boot_id());
        // The daemon was started again, not the machine. It may have died before it gave the order.
        let waits = arrival::waits_for_restart(&versions, running, &boot);
        match (waits, self.orders.restart_waits()) {
            (true, false) => self.order_restart()?,
            // What a power cut has left of an order that was carried out.
            (false, true) => self.orders.take_restart().map_err(unwritable)?,
            _ => {}
        }
        let steps = arrival::steps(&versions, running, &boot);
        for step in steps.iter().filter(|step| step.to == State::FellBack) {
            let (from, to) = (&step.version.version, running.to_string());
            tracing::error!(from, to, "THE BOX FELL BACK to its other slot");
        }
        // Together or not at all: half of it would read as another start.
        self.ledger
            .write(move |writer| {
                for Step { version, to, note } in &steps {
                    system::go(writer, version, *to, note, "box")?;
                }
                Ok(())
            })
            .await
    }

    fn source(&self) -> Result<Arc<dyn Source>, Failed> {
        match (&self.site.file.system.repository, &self.mirror) {
            (Some(folder), _) => Ok(Arc::new(Folder::new(folder))),
            (None, Some(mirror)) => Ok(Arc::new(mirror.clone())),
            (None, None) => {
                let why =
                    "neither system.repository nor system.mirror is set; remedy: name one in the site file";
                Err(Failed::Box(LedgerError::Illegal(why.into())))
            }
        }
    }

    fn root(&self) -> Result<Vec<u8>, Failed> {
        std::fs::read(&self.site.file.system.root).map_err(|error| {
            let detail = format!(": {error}");
            Failed::Refused(Refusal { clause: Clause::Unreadable, subject: "system.root".into(), detail })
        })
    }

    /// Looks at the repository. Yields what came of it in words.
    async fn check(&self, asked: Asked<'_>) -> String {
        tracing::debug!(by = asked.by(), "looking at the repository of images");
        match self.look(asked).await {
            Ok(()) => "verified".into(),
            Err(Failed::Refused(refusal)) => {
                let (clause, problem) = (refusal.clause.name().to_owned(), refusal.to_string());
                tracing::warn!(clause, problem, "the repository of images is refused");
                let (said, by) = (problem.clone(), asked.by().to_owned());
                let person = matches!(asked, Asked::By(..));
                let kept = self
                    .ledger
                    .write(move |writer| system::keep_refusal(writer, &clause, &said, &by, person))
                    .await;
                report(kept, "the look at the repository of images cannot be written down");
                format!("refused: {problem}")
            }
            Err(Failed::Box(error)) => {
                tracing::error!(reason = error.to_string(), "looking at the repository of images failed");
                format!("failed: {error}")
            }
        }
    }

    async fn look(&self, asked: Asked<'_>) -> Result<(), Failed> {
        let (source, root) = (self.source()?, self.root()?);
        let (before, versions) =
            self.ledger.read(|reader| Ok((system::trust(reader)?, system::versions(reader)?))).await?;
        let seen = before.and_then(|before| before.seen);
        let known = Known::read(seen.as_deref(), !versions.is_empty()).map_err(Failed::Refused)?;
        let exception = asked.exception();
        let verified = trust::verify(source, &root, &known, self.clock.now(), exception.as_ref())
            .await
            .map_err(Failed::Refused)?;
        let (json, who) = (verified.seen().to_json(), asked.by().to_owned());
        let expires = verified.expires().unix_timestamp().saturating_mul(1000);
        let overridden = verified.overridden().map(|used| {
            let clauses: Vec<&str> = used.refusals.iter().map(|refusal| refusal.clause.name()).collect();
            json!({ "by": used.by.who, "why": used.by.why, "clauses": clauses })
        });
        let dates =
            overridden.as_ref().and(exception.as_ref()).map(|one| json!([one.who, one.why]).to_string());
        let same = matches!(&known, Known::Seen(before) if before.sees_what(verified.seen()));
        let nothing_new = same && matches!(asked, Asked::Nobody);
        // On disk before anything of it is used.
        self.ledger
            .write(move |writer| system::keep_seen(writer, &json, expires, &who, overridden, nothing_new))
            .await?;
        let channel = self.here.channel();
        for version in Offered::versions(&verified, &channel) {
            // What runs, and what is older, is of no interest.
            if version <= self.here.version {
                continue;
            }
            let name = Offered::name(&channel, version, super::manifest::MANIFEST);
            let sha256 = verified.target(&name).map_err(Failed::Refused)?.sha256.clone();
            if let Some(one) = versions.iter().rfind(|one| one.manifest_sha256 == sha256) {
                // One that lost a file must not hide those after it.
                if let Ok(offered) = Offered::of(&verified, &channel, version) {
                    self.judge_again(one, &offered).await?;
                }
            } else {
                let found = stage::find(&verified, &channel, version).await.map_err(Failed::Refused)?;
                let judged =
                    found.manifest.judge(&self.here, found.offered.root.length, found.offered.verity.length);
                let why = judged.err().map(|unfit| unfit.to_string());
                tracing::info!(
                    version = version.to_string(),
                    refused = why,
                    "the repository has a new image"
                );
                let (manifest, digest) = (found.manifest, sha256.clone());
                self.ledger
                    .write(move |writer| system::offer(writer, &manifest, &digest, why.as_deref()))
                    .await?;
            }
            if let Some(dates) = dates.clone() {
                self.ledger.write(move |writer| system::keep_dates(writer, &sha256, &dates)).await?;
            }
        }
        Ok(())
    }

    /// What did not fit this box may by now: another version runs, or the floor or the disk's partitions are others.
    async fn judge_again(&self, one: &system::Version, offered: &Offered) -> Result<(), LedgerError> {
        if one.state != State::Refused || !Unfit::is_said_in(&one.note, &one.version) {
            return Ok(());
        }
        match one.manifest.judge(&self.here, offered.root.length, offered.verity.length) {
            Ok(()) => self.go(one, State::Offered, "it fits this box by now").await,
            Err(unfit) => self.note(one, unfit.to_string()).await,
        }
    }

    /// One step of the image that is under way; else begins with the newest that may be installed.
    async fn advance(&self) -> Result<(), LedgerError> {
        let versions = self.ledger.read(system::versions).await?;
        // What runs is judged before anything else is begun.
        let on_trial = versions.iter().find(|one| one.state == State::OnTrial);
        if let Some(one) = on_trial.or_else(|| versions.iter().rfind(|one| one.state.is_under_way())) {
            return self.step(one).await;
        }
        let by_itself = self.site.file.system.install == Install::Window;
        let wanted = versions
            .iter()
            .filter(|one| one.state == State::Offered && one.manifest.version > self.here.version)
            .filter(|one| by_itself || !one.asked_by.is_empty())
            .max_by_key(|one| one.manifest.version);
        let Some(one) = wanted else {
            for one in versions.iter().filter(|one| one.state == State::Offered) {
                let note = match one.manifest.version > self.here.version {
                    true => "waits for somebody to ask for it: lightbox system install".to_owned(),
                    false => format!("not newer than the running {}", self.here.version),
                };
                self.note(one, note).await?;
            }
            return Ok(());
        };
        self.go(one, State::Fetching, "").await
    }

    async fn step(&self, one: &system::Version) -> Result<(), LedgerError> {
        match one.state {
            State::Fetching => self.fetch(one).await,
            State::Writing => self.watch_writer(one).await,
            State::Ready => self.restart(one).await,
            State::Restarting => {
                let waited = self.clock.now_ms() - one.since;
                let note = "the machine restarts";
                let stuck = "the machine does not restart; remedy: is lightbox-update-restart.path running? Else restart it by hand";
                self.note(one, if waited < 180_000 { note } else { stuck }.to_owned()).await
            }
            State::OnTrial if one.manifest.version == self.here.version && self.is_blessed() => {
                self.go(one, State::Installed, "it passed its health gate").await
            }
            _ => Ok(()),
        }
    }

    async fn fetch(&self, one: &system::Version) -> Result<(), LedgerError> {
        if !self.is_blessed() {
            return self.note(one, "waits until the running image has passed its health gate".into()).await;
        }
        let again_at = *self.again_at.lock().unwrap_or_else(PoisonError::into_inner);
        if again_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let (source, root) = match (self.source(), self.root()) {
            (Ok(source), Ok(root)) => (source, root),
            (Err(failed), _) | (_, Err(failed)) => {
                let why = match failed {
                    Failed::Refused(refusal) => refusal.to_string(),
                    Failed::Box(error) => error.to_string(),
                };
                return self.go(one, State::Refused, &why).await;
            }
        };
        tracing::info!(version = one.version, "fetching an image");
        let (ledger, version) = (self.ledger.clone(), one.clone());
        let mut percents = 0;
        let mut progress = move |done: u64, all: u64| {
            let now = done * 20 / all.max(1) * 5;
            if now > percents {
                percents = now;
                let (ledger, version) = (ledger.clone(), version.clone());
                let text = format!("{now} % of {} MB fetched", all / 1_000_000);
                // Progress for people: one that is lost harms nothing, and one that comes late is not taken.
                drop(tokio::spawn(async move {
                    ledger.write(move |writer| system::note(writer, &version, &text)).await
                }));
            }
        };
        let dates = one.dates();
        let exception = dates.clone().map(|(who, why)| Override { who, why });
        let (stage, channel) = (self.orders.stage(), self.here.channel());
        let what = (channel.as_str(), one.manifest.version);
        let now = self.clock.now();
        let reserve = self.site.file.store.reserve_mib << 20;
        let fetched =
            stage::fetch(source, &root, &stage, what, now, exception.as_ref(), reserve, &mut progress).await;
        match fetched {
            Ok(found) if found.offered.manifest.sha256 == one.manifest_sha256 => {
                self.interrupted.store(0, Ordering::Relaxed);
                self.order(one, dates).await?;
                self.go(one, State::Writing, "handed to the slot writer").await
            }
            Ok(_) => {
                self.clear_stage();
                self.go(one, State::Refused, "the repository has another image of this version by now").await
            }
            // A connection that broke, a stick that was pulled: nothing says that the image is bad.
            Err(Unfetched::Refused(refusal))
                if matches!(refusal.clause, Clause::Unreadable | Clause::Missing) =>
            {
                self.again_later(one, format!("tried again every minute: {refusal}")).await
            }
            Err(Unfetched::Refused(refusal)) => {
                self.clear_stage();
                self.go(one, State::Refused, &refusal.to_string()).await
            }
            Err(Unfetched::Room(why)) => self.again_later(one, why).await,
        }
    }

    async fn again_later(&self, one: &system::Version, why: String) -> Result<(), LedgerError> {
        self.clear_stage();
        *self.again_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + PAUSE);
        self.note(one, why).await
    }

    fn clear_stage(&self) {
        if let Err(error) = stage::clear(&self.orders.stage()) {
            tracing::error!(
                reason = error.to_string(),
                "a staged image cannot be removed: it takes room in system.folder"
            );
        }
    }

    async fn order(&self, one: &system::Version, dates: Option<(String, String)>) -> Result<(), LedgerError> {
        // Its silence counts from here.
        *self.last_sign.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let order = WriteOrder { version: one.manifest.version, dates };
        self.orders.write(&order).map_err(unwritable)
    }

    async fn watch_writer(&self, one: &system::Version) -> Result<(), LedgerError> {
        // In this order: while an order waits, what was said is of an earlier one.
        let waits = self.orders.write_waits();
        let said = self.orders.progress().filter(|said| said.version == one.manifest.version);
        if waits {
            let stuck = "the slot writer does not answer; remedy: is lightbox-slot-write.path running?";
            let note = if self.is_silent(None) { stuck } else { "waits for the slot writer" };
            return self.note(one, note.to_owned()).await;
        }
        let silent = self.is_silent(said.as_ref());
        let of_this_start = |said: &Progress| said.boot == super::boot_id();
        match said {
            Some(said) if said.state == Standing::Written && !of_this_start(&said) => {
                // The machine was restarted since, and not into it.
                self.clear_stage();
                let Step { to, note, .. } = arrival::came_back(one, self.here.version);
                self.go(one, to, &note).await
            }
            Some(said) if said.state == Standing::Written => {
                self.clear_stage();
                self.go_until_restart(one, State::Ready, format!("in its slot: {}", said.said)).await
            }
            Some(said) if said.state == Standing::Refused => {
                self.clear_stage();
                self.go(one, State::Refused, &format!("the slot writer refused it: {}", said.said)).await
            }
            // The order was taken and nobody is at work on it: the machine, or the writer, was stopped in the middle.
            said if silent || said.as_ref().is_some_and(|said| !of_this_start(said)) => {
                let passes = said.is_some_and(|said| said.state == Standing::Later);
                if !passes && self.interrupted.fetch_add(1, Ordering::Relaxed) >= INTERRUPTED_MAX {
                    self.clear_stage();
                    let why = "the slot writer was interrupted again and again; remedy: look at the journal of lightbox-slot-write.service on the console";
                    return self.go(one, State::Refused, why).await;
                }
                self.order(one, one.dates()).await?;
                self.note(one, "the slot writer was interrupted; it begins anew".to_owned()).await
            }
            Some(said) => {
                let note = match said.state {
                    Standing::Later => said.said,
                    _ if said.all == 0 => "being checked by the slot writer".to_owned(),
                    _ => format!("{} % written and read back", said.done * 100 / said.all),
                };
                self.note(one, note).await
            }
            None => self.note(one, "waits for the slot writer".to_owned()).await,
        }
    }

    /// Whether the slot writer has given no other sign than this for long.
    fn is_silent(&self, sign: Option<&Progress>) -> bool {
        let mut last = self.last_sign.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((before, at)) if before.as_ref() == sign => at.elapsed() > WRITER_SILENT,
            _ => {
                *last = Some((sign.cloned(), Instant::now()));
                false
            }
        }
    }

    /// Restarts when the site wants it, and what is in flight is done.
    async fn restart(&self, one: &system::Version) -> Result<(), LedgerError> {
        let now = self.clock.now_ms();
        let opens = match (&self.window, one.at_once) {
            (Some(window), false) => window.opens(now),
            _ => now,
        };
        if opens > now {
            let window = self.window.map(|window| window.to_string()).unwrap_or_default();
            return self
                .note(one, format!("waits for its window ({window}), which opens {}", utc_text(opens)))
                .await;
        }
        let (studies, deliveries) = self.ledger.read(system::in_flight).await?;
        let associations: u32 = self.places.open().values().sum();
        let drain =
            i64::try_from(self.site.file.system.drain_minutes).unwrap_or(i64::MAX).saturating_mul(60_000);
        // From when it could have restarted: since it is ready, or since the window is open.
        let ready = one.ready_at.unwrap_or(one.since);
        // Asked for at once, it counts from then: `since` is renewed by who asks.
        let since = if one.at_once { ready.max(one.since) } else { self.open_since(ready, now) };
        if studies + deliveries + associations > 0 && now - since < drain {
            return self
                .note(
                    one,
                    format!(
                        "waits for {studies} studies and {deliveries} results in flight and {associations} open associations, at most until {}",
                        utc_text(since + drain)
                    ),
                )
                .await;
        }
        let note = format!("restarting with {studies} studies and {deliveries} results in flight");
        // The ledger comes first, so that the next start knows what it came from.
        self.go_until_restart(one, State::Restarting, note).await?;
        self.order_restart()
    }

    fn order_restart(&self) -> Result<(), LedgerError> {
        self.orders.restart().map_err(unwritable)
    }

    /// Whether the running system has passed its health gate in this start, as `lightbox boot bless` has left it.
    fn is_blessed(&self) -> bool {
        let entry = format!("lightbox_{}", self.here.version);
        let start = self.orders.last_start().filter(|start| start.boot == super::boot_id());
        start.is_some_and(|start| start.entry.eq_ignore_ascii_case(&entry))
    }

    /// Since when a restart has been allowed without a break.
    fn open_since(&self, ready: i64, now: i64) -> i64 {
        let Some(window) = &self.window else { return ready };
        // Backwards in minutes, for a day: windows begin at whole minutes.
        let mut since = now;
        while since > ready && since > now - 86_400_000 && window.opens(since - 60_000) <= since - 60_000 {
            since -= 60_000;
        }
        since.max(ready)
    }

    async fn go(&self, one: &system::Version, to: State, note: &str) -> Result<(), LedgerError> {
        tracing::info!(version = one.version, state = to.as_str(), note, "update of the image");
        let (one, note) = (one.clone(), note.to_owned());
        self.ledger.write(move |writer| system::go(writer, &one, to, &note, "box")).await?;
        Ok(())
    }

    async fn go_until_restart(
        &self,
        one: &system::Version,
        to: State,
        note: String,
    ) -> Result<(), LedgerError> {
        tracing::info!(version = one.version, state = to.as_str(), note, "update of the image");
        let (one, boot) = (one.clone(), super::boot_id());
        self.ledger.write(move |writer| system::go_until_restart(writer, &one, to, &boot, &note)).await?;
        Ok(())
    }

    async fn note(&self, one: &system::Version, note: String) -> Result<(), LedgerError> {
        if one.note == note {
            return Ok(());
        }
        let one = one.clone();
        self.ledger.write(move |writer| system::note(writer, &one, &note)).await
    }
}

/// Where the image's units answer; elsewhere in tests.
pub fn state_folder() -> std::path::PathBuf {
    std::env::var_os("LIGHTBOX_SYSTEM_STATE").map_or_else(|| STATE.into(), Into::into)
}

fn unwritable(error: std::io::Error) -> LedgerError {
    let why = format!("system.folder cannot be written ({error}); remedy: give the daemon its folder");
    LedgerError::Illegal(why)
}

fn report(done: Result<(), LedgerError>, what: &'static str) {
    if let Err(error) = done {
        tracing::error!(reason = error.to_string(), "{what}");
    }
}
