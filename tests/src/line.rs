//! The whole line as most tests want it: one modality, one PACS (`storescp`), one RIS, the phantom
//! detector for phantoms and a model for any other image.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::daemon::Daemon;
use crate::hospital::Hospital;
use crate::peers::mllp::{Behaviour, MllpReceiver};
use crate::peers::storescp::Storescp;
use crate::peers::storescu::Storescu;
use crate::samples::sop_uid;
use crate::site::{Site, bundle_for_any_image};

/// The line, running.
pub struct Line {
    /// Stops first, while its peers still listen.
    pub daemon: Daemon,
    /// The site file that the daemon runs with.
    pub site: Site,
    /// CT1, which may send.
    pub modality: Storescu,
    /// `pacs`, which receives SRs.
    pub pacs: Storescp,
    /// `ris`, which receives ORUs.
    pub ris: MllpReceiver,
    /// Its certificates and its folder, which goes last.
    pub hospital: Hospital,
}

impl Line {
    /// Starts it.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(|_, site| site)
    }

    /// Starts it with a site file that `change` has finished.
    #[track_caller]
    pub fn start_with(change: impl FnOnce(&Hospital, Site) -> Site) -> Self {
        let hospital = Hospital::new();
        let modality = Storescu::new(&hospital, "CT1");
        let pacs = Storescp::start(&hospital, "pacs");
        let ris = MllpReceiver::start(Behaviour::Accept);
        let site = Site::new(&hospital)
            .sender("ct-1", "CT1", modality.identity())
            .receiver("pacs", &pacs.ae_title(), pacs.port, &pacs.identity)
            .hl7("ris", ris.port, "")
            .phantom_detector()
            .model("any-image", &bundle_for_any_image(&hospital));
        let site = change(&hospital, site);
        let daemon = Daemon::start(&site);
        Line { daemon, site, modality, pacs, ris, hospital }
    }

    /// The rules for `pacs` and `ris`: phantoms to the phantom detector, the rest to the other model.
    #[must_use]
    pub fn usual_rules(site: Site) -> Site {
        Self::rules_to(site, &["pacs", "ris"])
    }

    /// The same rules for other destinations.
    #[must_use]
    pub fn rules_to(site: Site, deliver: &[&str]) -> Site {
        site.text(&format!(
            "[[rule]]\nname = \"phantoms\"\nmatch = {{ body_part = \"PHANTOM\" }}\nmodels = [\"phantom\"]\ndeliver = {deliver:?}\nstop = true"
        ))
        .rule("the rest", "", &["any-image"], deliver)
    }

    /// Sends files and waits until all studies have come to rest and all is delivered or dead.
    #[track_caller]
    pub fn send_and_wait(&self, files: &[PathBuf]) {
        self.modality.deliver(self.daemon.dicom, &[], files);
        self.wait_until_indexed(files);
        self.wait_until_quiet();
    }

    /// Waits until the ledger's index has these images: it follows the acknowledgement.
    #[track_caller]
    pub fn wait_until_indexed(&self, files: &[PathBuf]) {
        let wanted: BTreeSet<String> = files.iter().map(|file| sop_uid(file)).collect();
        self.daemon.wait_for("the index to have what was sent", 60, |ledger| {
            let found: BTreeSet<String> =
                ledger.texts("SELECT sop_instance_uid FROM instances").into_iter().collect();
            wanted.is_subset(&found).then_some(())
        });
    }

    /// Waits until all studies have come to rest and all is delivered or dead.
    #[track_caller]
    pub fn wait_until_quiet(&self) {
        self.daemon.wait_for("all studies to come to rest", 60, |ledger| ledger.is_quiet().then_some(()));
    }
}
