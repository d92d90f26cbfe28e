//! The models that may run: versions, by the digest of their bundle.
//!
//! It decides nothing. Which version a job runs with stands in the ledger; this opens its folder, which
//! hashes every file of it, once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lightbox_models::{Bundle, BundleError};

use super::files::Folders;
use crate::finding::ModelIdentity;
use crate::store::models::Pinned;
use crate::structure;

/// A version's folder is not that version.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file is missing or changed.
    #[error("the model's files are damaged; remedy: `lightbox models rollback`, or have it installed again")]
    Bundle(#[from] BundleError),
    /// Another bundle lies there.
    #[error("{} holds another bundle; remedy: `lightbox models rollback`, or have it installed again", .0.display())]
    Other(PathBuf),
}

/// The models; clones share what is open.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    folders: Folders,
    open: Mutex<BTreeMap<String, Arc<Bundle>>>,
}

/// A model that a job runs with.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Its bundle.
    pub bundle: Arc<Bundle>,
    pinned: Pinned,
}

impl Resolved {
    /// As results name it.
    pub fn identity(&self) -> ModelIdentity {
        let mut model = structure::identity(&self.bundle);
        model.plan.clone_from(&self.pinned.plan);
        model.acceptance.clone_from(&self.pinned.acceptance);
        model
    }
}

impl Registry {
    /// Of a data folder.
    pub fn new(data_dir: &Path) -> Self {
        Registry { inner: Arc::new(Inner { folders: Folders::of(data_dir), open: Mutex::default() }) }
    }

    /// The version that a job is pinned to. Blocking: one that is not open yet is hashed.
    pub fn resolve(&self, pinned: &Pinned) -> Result<Resolved, OpenError> {
        Ok(Resolved { bundle: self.open(&pinned.digest)?, pinned: pinned.clone() })
    }

    /// Opens a version. Blocking.
    pub fn open(&self, digest: &str) -> Result<Arc<Bundle>, OpenError> {
        if let Some(bundle) = self.lock().get(digest) {
            return Ok(bundle.clone());
        }
        let bundle = Arc::new(open_checked(&self.inner.folders, digest)?);
        self.lock().insert(digest.to_owned(), bundle.clone());
        Ok(bundle)
    }

    /// Forgets a version whose files go.
    pub fn forget(&self, digest: &str) {
        self.lock().remove(digest);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Bundle>>> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a version's folder and hashes all of it.
pub fn open_checked(folders: &Folders, digest: &str) -> Result<Bundle, OpenError> {
    let folder = folders.bundle(digest);
    let bundle = Bundle::open(&folder)?;
    if bundle.digest() != digest {
        return Err(OpenError::Other(folder));
    }
    Ok(bundle)
}
