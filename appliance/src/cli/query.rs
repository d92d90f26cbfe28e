//! `lightbox query`: asking a PACS of the site file for studies, and having them sent.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::{Parser, Subcommand, ValueEnum};
use dicom_core::Tag;
use dicom_core::dictionary::DataDictionary;
use dicom_dictionary_std::{StandardDataDictionary, tags};
use dicom_object::meta::FileMetaTableBuilder;
use lightbox_provisioning::site::Capability;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::SiteArg;
use super::place::{Place, who};
use super::print::{print_json, print_table};
use crate::audit::{Event, EventKind, Outcome};
use crate::dicom::association::{Association, AssociationError};
use crate::dicom::data_set::DataSet;
use crate::dicom::dimse::Command as Message;
use crate::dicom::header::is_uid;
use crate::dicom::peer::{RemoteAe, Stream};
use crate::dicom::query::{self, Found, Level, QueryError};
use crate::dicom::retrieve::{self, Retrieved, Sink, Wanted};
use crate::dicom::status;
use crate::dicom::tls::live::Live;
use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::phi::Phi;
use crate::web;
use crate::web::client::{Remote, WebError};
use crate::web::retrieve::GetError;

/// Asks a PACS of the site file for studies (C-FIND), and has them sent (C-MOVE, C-GET).
///
/// A peer with `dicomweb` and no `address` is asked by QIDO-RS and WADO-RS (`find`, `get`).
///
/// The peer needs `query` in its `may` to be asked, `retrieve` to be retrieved from. What it answers
/// names patients: it is written to standard output and nowhere else. That you asked goes to the audit
/// log with your account.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
    /// Name of the peer in the site file.
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    peer: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelArg {
    Study,
    Series,
    Image,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists what the PACS has. Keys are keywords of the DICOM dictionary.
    #[command(
        after_help = "Examples:\n  lightbox query --peer pacs find PatientID=4711 StudyDate=20260101- StudyDescription\n  lightbox query --peer pacs find --level series StudyInstanceUID=1.2.3 Modality"
    )]
    Find {
        /// One answer a study, a series or an instance.
        #[arg(long, value_enum, default_value_t = LevelArg::Study)]
        level: LevelArg,
        /// At most so many answers; without it query.max_matches of the site file.
        #[arg(long)]
        limit: Option<usize>,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
        /// KEYWORD=VALUE to match, KEYWORD to be told.
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Has the PACS send a study to this box (C-MOVE). The daemon must be running, and the PACS must
    /// know our AE title with our address and port.
    #[command(after_help = "Example: lightbox query --peer pacs move --study 1.2.3")]
    Move {
        #[command(flatten)]
        wanted: WantedArgs,
    },
    /// Gets a study into a folder (C-GET), for looking at it.
    #[command(after_help = "Example: lightbox query --peer pacs get --study 1.2.3 --to /tmp/study")]
    Get {
        #[command(flatten)]
        wanted: WantedArgs,
        /// Folder for the files; made if it is missing.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct WantedArgs {
    /// Study Instance UID.
    #[arg(long, value_name = "UID")]
    study: String,
    /// Series Instance UID; without it the whole study.
    #[arg(long, value_name = "UID")]
    series: Option<String>,
    /// SOP Instance UIDs of that series; without them the whole series.
    #[arg(long = "instance", value_name = "UID", requires = "series")]
    instances: Vec<String>,
}

impl WantedArgs {
    fn wanted(self) -> anyhow::Result<Wanted> {
        let all = [&self.study].into_iter().chain(&self.series).chain(&self.instances);
        if let Some(position) = all.into_iter().position(|uid| !is_uid(uid)) {
            bail!("UID number {} of the command line is no UID (digits and dots, at most 64)", position + 1);
        }
        Ok(Wanted {
            study_uid: Phi::new(self.study),
            series_uid: self.series.map(Phi::new),
            instance_uids: self.instances.into_iter().map(Phi::new).collect(),
        })
    }
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let place = Place::open(&self.site)?;
        let capability = match self.command {
            Command::Find { .. } => (Capability::Query, "query"),
            _ => (Capability::Retrieve, "retrieve"),
        };
        let way = way(&place, &self.peer, capability)?;
        let peer = self.peer.as_str();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let out = &mut std::io::stdout().lock();
        match self.command {
            Command::Find { level, limit, json, keys } => {
                let level = match level {
                    LevelArg::Study => Level::Study,
                    LevelArg::Series => Level::Series,
                    LevelArg::Image => Level::Image,
                };
                let keys = Keys::read(level, &keys)?;
                let limit = limit.unwrap_or(place.site.file.query.max_matches);
                let found: Result<Found, Failed> = runtime.block_on(async {
                    Ok(match &way {
                        Way::Dimse(ae) => query::find(ae, level, keys.identifier.clone(), limit).await?,
                        Way::Web(remote) => web::query::find(remote, level, &keys.identifier, limit).await?,
                    })
                });
                let numbers = match &found {
                    Ok(found) => json!({ "level": level.as_str(), "matches": found.matches.len() }),
                    Err(error) => json!({ "level": level.as_str(), "error": error.to_string() }),
                };
                audit(&place, "find", peer, numbers, found.is_ok())?;
                show(out, &keys, &told(found)?, json)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Move { wanted } => {
                let wanted = wanted.wanted()?;
                let Way::Dimse(ae) = &way else {
                    bail!(
                        "peer \"{peer}\" is reached by DICOMweb only, which has no C-MOVE: use `get`, or add `address` to its [[peer]]"
                    );
                };
                let ours = place.site.file.appliance.ae_title.clone();
                let moved = runtime.block_on(retrieve::move_to(ae, &ours, &wanted, &mut say));
                ended(out, &place, "move", peer, moved.map_err(Failed::from))
            }
            Command::Get { wanted, to } => {
                let wanted = wanted.wanted()?;
                std::fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
                let mut folder = Folder { path: to, count: 0, file: None };
                let got: Result<Retrieved, Failed> = runtime.block_on(async {
                    Ok(match &way {
                        Way::Dimse(ae) => retrieve::get(ae, &wanted, &mut folder, &mut say).await?,
                        Way::Web(remote) => {
                            let completed = web::retrieve::get(remote, &wanted, &mut folder).await?;
                            Retrieved { completed, ..Retrieved::default() }
                        }
                    })
                });
                ended(out, &place, "get", peer, got)
            }
        }
    }
}

/// How the peer is asked.
enum Way {
    Dimse(RemoteAe),
    Web(Remote),
}

/// Why asking failed, by either way.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dimse(#[from] QueryError),
    #[error(transparent)]
    Web(#[from] GetError),
}

impl From<WebError> for Failed {
    fn from(error: WebError) -> Self {
        Failed::Web(error.into())
    }
}

/// The way to the peer, if it may be asked.
fn way(place: &Place, name: &str, (capability, word): (Capability, &str)) -> anyhow::Result<Way> {
    let site = &place.site;
    let names = || site.file.peer.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(", ");
    let peer = site
        .peer(name)
        .ok_or_else(|| anyhow!("--peer: there is no peer \"{name}\" in the site file, only: {}", names()))?;
    if !peer.may.contains(&capability) {
        bail!("peer \"{name}\" is not to be asked: add \"{word}\" to `may` of [[peer]] \"{name}\"");
    }
    // Its sender goes at once: what was read now is what this call goes by.
    let (_, live) = tokio::sync::watch::channel(Arc::new(Live::load(site)?));
    RemoteAe::of_site(site, peer, &live)
        .map(Way::Dimse)
        .or_else(|| Remote::of_site(site, peer, &live).map(Way::Web))
        .ok_or_else(|| {
            anyhow!("peer \"{name}\" has no address: add `address` or `dicomweb` to [[peer]] \"{name}\"")
        })
}

fn audit(
    place: &Place,
    action: &str,
    peer: &str,
    numbers: serde_json::Value,
    success: bool,
) -> anyhow::Result<()> {
    let by = who();
    let detail =
        json!({ "action": action, "operator": by.operator, "through": by.through, "numbers": numbers });
    let outcome = if success { Outcome::Success } else { Outcome::Minor };
    let event = Event::new(EventKind::PeerQueried, peer, detail).with_outcome(outcome);
    Ok(place.ledger()?.write_blocking(move |writer| writer.audit(&event))?)
}

/// An error with the peer's own words, which the operator may read.
fn told<T>(result: Result<T, Failed>) -> anyhow::Result<T> {
    result.map_err(|error| match &error {
        Failed::Dimse(QueryError::Refused { comment: Some(comment), .. })
        | Failed::Web(GetError::Web(WebError::Status { words: Some(comment), .. })) => {
            let said = super::print::plain(comment.expose());
            anyhow!("{error}; the peer says: {said}")
        }
        _ => error.into(),
    })
}

fn say(numbers: crate::dicom::dimse::SubOperations) {
    let (done, left) = (numbers.completed.unwrap_or_default(), numbers.remaining.unwrap_or_default());
    eprintln!("{done} done, {left} to come");
}

fn ended(
    out: &mut impl Write,
    place: &Place,
    action: &str,
    peer: &str,
    result: Result<Retrieved, Failed>,
) -> anyhow::Result<ExitCode> {
    let numbers = match &result {
        Ok(retrieved) => json!({ "completed": retrieved.completed, "failed": retrieved.failed }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let success = result.as_ref().is_ok_and(|retrieved| retrieved.failed == 0);
    audit(place, action, peer, numbers, success)?;
    let retrieved = told(result)?;
    writeln!(out, "{} completed, {} failed", retrieved.completed, retrieved.failed)?;
    for uid in &retrieved.failed_instances {
        writeln!(out, "failed: {}", uid.expose())?;
    }
    Ok(if retrieved.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The keys of a query, and the columns that show them.
struct Keys {
    identifier: DataSet,
    columns: Vec<(String, Tag)>,
}

impl Keys {
    fn read(level: Level, words: &[String]) -> anyhow::Result<Self> {
        let usual: &[&str] = match level {
            Level::Study => &["StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "AccessionNumber"],
            Level::Series => &["SeriesInstanceUID", "Modality", "SeriesDescription"],
            Level::Image => &["SOPInstanceUID", "SOPClassUID", "InstanceNumber"],
        };
        // What a person types is UTF-8, whatever the keys hold.
        let mut identifier = DataSet::new().with(tags::SPECIFIC_CHARACTER_SET, "ISO_IR 192");
        let mut columns = Vec::new();
        let words = usual.iter().copied().chain(words.iter().map(String::as_str));
        for word in words {
            let (keyword, value) = word.split_once('=').unwrap_or((word, ""));
            let tag = StandardDataDictionary
                .parse_tag(keyword)
                .ok_or_else(|| anyhow!("\"{keyword}\" is no keyword of the DICOM dictionary"))?;
            identifier = identifier.with(tag, value);
            if !columns.iter().any(|(_, known)| *known == tag) {
                columns.push((keyword.to_owned(), tag));
            }
        }
        Ok(Keys { identifier, columns })
    }
}

fn show(out: &mut impl Write, keys: &Keys, found: &Found, json: bool) -> anyhow::Result<()> {
    let cell = |one: &DataSet, tag: Tag| one.text(tag).unwrap_or_default();
    if json {
        let rows: Vec<serde_json::Map<String, serde_json::Value>> = found
            .matches
            .iter()
            .map(|one| {
                keys.columns.iter().map(|(name, tag)| (name.clone(), cell(one, *tag).into())).collect()
            })
            .collect();
        return print_json(out, &json!({ "complete": found.complete, "matches": rows }));
    }
    let headings: Vec<&str> = keys.columns.iter().map(|(name, _)| name.as_str()).collect();
    let rows: Vec<Vec<String>> = found
        .matches
        .iter()
        .map(|one| keys.columns.iter().map(|(_, tag)| cell(one, *tag)).collect())
        .collect();
    print_table(out, &headings, &rows)?;
    if !found.complete {
        eprintln!("there is more: raise --limit, or give keys that match less");
    }
    if found.keys_ignored {
        eprintln!("the PACS did not use all keys: there may be answers that do not match");
    }
    Ok(())
}

/// A folder as the sink of a C-GET or WADO-RS. Files are numbered: no name tells of a patient.
struct Folder {
    path: PathBuf,
    count: usize,
    /// The one that comes by WADO-RS now.
    file: Option<tokio::fs::File>,
}

impl Folder {
    fn next(&self) -> PathBuf {
        self.path.join(format!("{:05}.dcm", self.count))
    }

    fn head(request: &Message, transfer_syntax: &str) -> anyhow::Result<Vec<u8>> {
        let class = request.sop_class_uid.as_deref().unwrap_or_default();
        let instance = request.sop_instance_uid.as_ref().map(|uid| uid.expose().as_str()).unwrap_or_default();
        if !is_uid(class) || !is_uid(instance) {
            bail!("the request names no usable instance");
        }
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(class)
            .media_storage_sop_instance_uid(instance)
            .transfer_syntax(transfer_syntax)
            .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
            .implementation_version_name(IMPLEMENTATION_VERSION_NAME)
            .build()?;
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM");
        meta.write(&mut bytes)?;
        Ok(bytes)
    }
}

impl Sink for Folder {
    async fn store(
        &mut self,
        association: &mut Association<Stream>,
        context: u8,
        request: &Message,
    ) -> Result<Message, AssociationError> {
        self.count += 1;
        let syntax = association.context(context).map(|context| context.transfer_syntax.clone());
        let Ok(head) = Folder::head(request, &syntax.unwrap_or_default()) else {
            let (found, expected) = ("a C-STORE request without usable UIDs", "one with");
            return Err(AssociationError::Unexpected { found, expected });
        };
        let mut file = tokio::fs::File::create_new(self.next()).await.map_err(AssociationError::Io)?;
        file.write_all(&head).await.map_err(AssociationError::Io)?;
        loop {
            let (bytes, last) = association.fragment(context).await?;
            file.write_all(&bytes).await.map_err(AssociationError::Io)?;
            if last {
                break;
            }
        }
        file.sync_all().await.map_err(AssociationError::Io)?;
        Ok(request.response(status::SUCCESS, None))
    }
}

impl web::retrieve::Sink for Folder {
    async fn begin(&mut self) -> std::io::Result<()> {
        self.count += 1;
        self.file = Some(tokio::fs::File::create_new(self.next()).await?);
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> std::io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(&bytes).await,
            None => Ok(()),
        }
    }

    async fn end(&mut self) -> std::io::Result<()> {
        match self.file.take() {
            Some(mut file) => {
                file.flush().await?;
                file.sync_all().await
            }
            None => Ok(()),
        }
    }
}
