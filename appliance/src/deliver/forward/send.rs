//! One try: the instances of a claim, over as few associations as their kinds allow.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::watch;

use super::coerce::Coercion;
use super::contexts;
use super::prepare::{self, Prepared};
use super::rewrite::Cannot;
use super::source::{self, Source};
use super::{Forwarder, LEASE, Tallies};
use crate::deliver::sender::{Reason, Route, Sent, exchange_store, judge};
use crate::deliver::stow;
use crate::dicom::association::{Association, AssociationError};
use crate::dicom::dimse::{C_STORE_RQ, Command};
use crate::dicom::peer::Stream;
use crate::dicom::services::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};
use crate::phi::Phi;
use crate::store::forwards::{self, Claim, Fate, Instance, Item};
use crate::store::ledger::LedgerError;
use crate::web::client::{Remote, WebError};

/// What was sent is written down after so many instances, or after [`FLUSH_MS`].
const FLUSH_EACH: usize = 8;
const FLUSH_MS: u128 = 200;

/// What a try did for one forward.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Instances that the destination took.
    pub(super) sent: usize,
    /// Instances that it will never take.
    pub(super) refused: usize,
    /// Why, for the first of them.
    pub(super) refusal: Option<Reason>,
    /// Instances that wait for the next try.
    pub(super) waiting: usize,
}

/// What a try did.
#[derive(Debug, Default)]
pub(super) struct Report {
    tallies: Tallies,
    /// What the destination remarked.
    pub(super) remark: Option<Phi<String>>,
    /// Why not all were tried.
    pub(super) stopped: Option<Reason>,
    /// Whether that will not pass.
    pub(super) lasting: bool,
}

impl Report {
    pub(super) fn of(&self, forward: i64) -> &Tally {
        static NONE: Tally = Tally { sent: 0, refused: 0, refusal: None, waiting: 0 };
        self.tallies.get(&forward).unwrap_or(&NONE)
    }
}

/// Why the sending stops before its end.
struct Stop {
    reason: Reason,
    lasting: bool,
}

impl Stop {
    fn passing(reason: Reason) -> Self {
        Stop { reason, lasting: false }
    }
}

struct Try<'a> {
    forwarder: &'a Forwarder,
    route: &'a Route,
    stop: &'a watch::Receiver<bool>,
    /// What is changed on the way, by forward.
    coercions: BTreeMap<i64, Coercion>,
    report: Report,
    /// What is not yet written down.
    fates: Vec<(i64, i64, Fate)>,
    flushed: Instant,
    message_id: u16,
}

/// Sends what a claim still has to send, and writes down what became of each instance.
pub(super) async fn send_all(
    forwarder: &Forwarder,
    route: &Route,
    claim: &Claim,
    stop: &watch::Receiver<bool>,
) -> Report {
    let mut report = Report::default();
    for item in &claim.items {
        report.tallies.entry(item.forward).or_default().waiting += 1;
    }
    let coercions = claim.forwards.iter().map(|forward| {
        let coercion = Coercion {
            edits: forward.edits.clone().or(&forwarder.set),
            system: forwarder.system.clone(),
            source: String::new(),
            at_ms: forward.created_ms,
        };
        (forward.id, coercion)
    });
    let coercions = coercions.collect();
    let mut this = Try {
        forwarder,
        route,
        stop,
        coercions,
        report,
        fates: Vec::new(),
        flushed: Instant::now(),
        message_id: 0,
    };
    let mut left = &claim.items[..];
    while !left.is_empty() {
        let sent = match route.web() {
            Some(remote) => this.by_web(remote, left).await,
            None => this.batch(&left[..contexts::first_batch(left)]).await,
        };
        match sent {
            // An object that cannot be read breaks the association: the others get another one.
            Ok(done) => left = &left[done..],
            Err(stop) => {
                (this.report.stopped, this.report.lasting) = (Some(stop.reason), stop.lasting);
                break;
            }
        }
    }
    if let Err(stop) = this.flush().await {
        this.report.stopped.get_or_insert(stop.reason);
    }
    this.report
}

impl Try<'_> {
    /// Sends items over one association; yields how many of them are settled.
    async fn batch(&mut self, items: &[Item]) -> Result<usize, Stop> {
        let proposal = contexts::proposal(items);
        let mut association = None;
        for (index, item) in items.iter().enumerate() {
            let Some(instance) = &item.instance else {
                self.refuse(item, Reason::plain("the index of instances no longer has it")).await?;
                continue;
            };
            if *self.stop.borrow() {
                self.end(association).await;
                return Err(Stop::passing(Reason::plain("the daemon was stopped")));
            }
            let open = match &mut association {
                Some(open) => open,
                None => association.insert(self.associate(&proposal).await?),
            };
            let none = Coercion::default();
            let coercion = self.coercions.get(&item.forward).unwrap_or(&none).clone();
            match self.one(open, instance, &coercion).await {
                Ok(Sent::Delivered(remark)) => {
                    self.report.remark = remark.or(self.report.remark.take());
                    self.settle(item, Fate::Sent).await?;
                }
                Ok(Sent::Never(reason)) => self.refuse(item, reason).await?,
                // Out of resources: the next one would fare no better.
                Ok(Sent::Later(reason)) => {
                    self.end(association).await;
                    return Err(Stop::passing(reason));
                }
                Err(AssociationError::Io(error)) if source::is_unreadable(&error) => {
                    if let Some(broken) = association {
                        broken.abort(&AssociationError::Io(error)).await;
                    }
                    self.refuse(item, Reason::plain("the stored object cannot be read back")).await?;
                    return Ok(index + 1);
                }
                Err(error) => {
                    let reason = Reason::plain(error.to_string());
                    if let Some(broken) = association {
                        broken.abort(&error).await;
                    }
                    self.fates.push((item.id, item.forward, Fate::Broke));
                    return Err(Stop::passing(reason));
                }
            }
        }
        self.end(association).await;
        Ok(items.len())
    }

    /// Sends items by STOW-RS, each in a request of its own; yields how many of them are settled.
    async fn by_web(&mut self, remote: &Remote, items: &[Item]) -> Result<usize, Stop> {
        for item in items {
            let Some(instance) = &item.instance else {
                self.refuse(item, Reason::plain("the index of instances no longer has it")).await?;
                continue;
            };
            if *self.stop.borrow() {
                return Err(Stop::passing(Reason::plain("the daemon was stopped")));
            }
            let coercion = self.coercions.get(&item.forward).cloned().unwrap_or_default();
            let sent = match self.prepare(instance, None, coercion).await {
                Ok(prepared) => stow::forward(remote, instance, prepared, &instance.transfer_syntax).await,
                Err(reason) => Ok(Sent::Never(reason)),
            };
            match sent {
                Ok(Sent::Delivered(remark)) => {
                    self.report.remark = remark.or(self.report.remark.take());
                    self.settle(item, Fate::Sent).await?;
                }
                Ok(Sent::Never(reason)) => self.refuse(item, reason).await?,
                Ok(Sent::Later(reason)) => return Err(Stop::passing(reason)),
                Err(error @ WebError::Unsent) => self.refuse(item, Reason::plain(error.to_string())).await?,
                Err(error) => {
                    let reason = Reason::plain(error.to_string());
                    if !matches!(error, WebError::Peer(_)) {
                        self.fates.push((item.id, item.forward, Fate::Broke));
                    }
                    return Err(Stop::passing(reason));
                }
            }
        }
        Ok(items.len())
    }

    async fn associate(&self, proposal: &[(String, Vec<String>)]) -> Result<Association<Stream>, Stop> {
        self.route.associate(proposal).await.map_err(|sent| match sent {
            Sent::Never(reason) => Stop { reason, lasting: true },
            Sent::Later(reason) => Stop::passing(reason),
            Sent::Delivered(_) => Stop::passing(Reason::plain("no association")),
        })
    }

    /// The peer has answered everything; how the association ends changes nothing.
    async fn end(&self, association: Option<Association<Stream>>) {
        if let Some(association) = association {
            drop(association.release().await);
        }
    }

    async fn one(
        &mut self,
        association: &mut Association<Stream>,
        instance: &Instance,
        coercion: &Coercion,
    ) -> Result<Sent, AssociationError> {
        let class = &instance.sop_class_uid;
        let as_it_is =
            association.context_for(class, &instance.transfer_syntax).map(|context| (context, None));
        let changed = || {
            self.forwarder
                .transcode
                .iter()
                .filter(|to| prepare::is_known(&instance.transfer_syntax, to))
                .find_map(|to| Some((association.context_for(class, to)?, Some(*to))))
        };
        let Some((context, to)) = as_it_is.or_else(changed) else {
            return Ok(Sent::Never(self.not_accepted(association, instance)));
        };
        let Prepared { reader, pieces } = match self.prepare(instance, to, coercion.clone()).await {
            Ok(prepared) => prepared,
            Err(reason) => return Ok(Sent::Never(reason)),
        };
        let data_set = Source::new(reader, pieces);
        self.message_id = self.message_id.wrapping_add(1).max(1);
        let request = Command {
            field: C_STORE_RQ,
            message_id: self.message_id,
            sop_class_uid: Some(class.clone()),
            sop_instance_uid: Some(instance.sop_instance_uid.clone()),
            has_data_set: true,
            ..Command::default()
        };
        let response = exchange_store(association, context, &request, data_set).await?;
        Ok(judge(&response))
    }

    /// What is to be sent of an instance, or why it cannot be.
    async fn prepare(
        &self,
        instance: &Instance,
        to: Option<&'static str>,
        mut coercion: Coercion,
    ) -> Result<Prepared, Reason> {
        let (objects, object) = (self.forwarder.objects.clone(), instance.object.clone());
        let from = instance.transfer_syntax.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let (receipt, reader) = objects.read(&object).map_err(|_| Cannot::Read)?;
            let length = reader.length();
            coercion.source = receipt.calling_ae;
            prepare::prepare(Box::new(reader), length, &from, to, &coercion)
        });
        match prepared.await {
            Ok(Ok(prepared)) => Ok(prepared),
            Ok(Err(why)) => Err(Reason::plain(why.to_string())),
            Err(_) => Err(Reason::plain("preparing it failed in the code that does it")),
        }
    }

    /// Why the peer does not get an instance: it accepted no context in which it can be sent.
    fn not_accepted(&self, association: &Association<Stream>, instance: &Instance) -> Reason {
        let class = &instance.sop_class_uid;
        let takes: Vec<&str> = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
            .into_iter()
            .filter(|syntax| association.context_for(class, syntax).is_some())
            .collect();
        let text = contexts::refusal(&self.route.name, instance, association.refusal_of(class), &takes);
        Reason { code: "presentation context not accepted".into(), text: Phi::new(text) }
    }

    async fn refuse(&mut self, item: &Item, reason: Reason) -> Result<(), Stop> {
        let tally = self.report.tallies.entry(item.forward).or_default();
        tally.refused += 1;
        tally.refusal.get_or_insert_with(|| reason.clone());
        self.settle(item, Fate::Refused(reason.text)).await
    }

    async fn settle(&mut self, item: &Item, fate: Fate) -> Result<(), Stop> {
        let tally = self.report.tallies.entry(item.forward).or_default();
        tally.waiting = tally.waiting.saturating_sub(1);
        tally.sent += usize::from(matches!(fate, Fate::Sent));
        self.fates.push((item.id, item.forward, fate));
        if self.fates.len() >= FLUSH_EACH || self.flushed.elapsed().as_millis() >= FLUSH_MS {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes down what is not yet written, until it is written: what the destination has is sent again
    /// only if the daemon dies before.
    async fn flush(&mut self) -> Result<(), Stop> {
        self.flushed = Instant::now();
        if self.fates.is_empty() {
            return Ok(());
        }
        let kept = std::mem::take(&mut self.fates);
        let lease_until = self.forwarder.clock.now_ms() + LEASE.as_millis() as i64;
        loop {
            let fates = kept.clone();
            match self
                .forwarder
                .ledger
                .write(move |writer| forwards::progress(writer, &fates, lease_until))
                .await
            {
                Ok(()) => return Ok(()),
                Err(LedgerError::Closed) => return Err(Stop::passing(Reason::plain("shutting down"))),
                Err(error) => {
                    let (destination, reason) = (&self.route.name, error.to_string());
                    tracing::error!(destination, reason, "progress could not be written, trying on");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }
}
