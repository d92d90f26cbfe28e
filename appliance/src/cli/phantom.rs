//! `lightbox phantom`: writes a study with exactly known findings.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use crate::phantom::{Kind, Spec, generate};

/// Write a phantom study: bright disks with exactly known places, sizes and tiers, for trying the
/// whole line. `truth.json` beside the files says what is really there.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the files; made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What is drawn by chance comes from this number: the same seed makes the same study.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What kind of study.
    #[arg(long, value_enum, default_value_t = KindName::Ct)]
    kind: KindName,
    /// Slices of a CT.
    #[arg(long, default_value_t = 12)]
    slices: u32,
    /// Disks.
    #[arg(long, default_value_t = 5)]
    disks: usize,
    /// Rows and columns of an image.
    #[arg(long, default_value_t = 256)]
    size: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum KindName {
    Ct,
    Dx,
    Cr,
}

impl Args {
    /// Writes the study.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let kind = match self.kind {
            KindName::Ct => Kind::Ct { slices: self.slices },
            KindName::Dx => Kind::Dx,
            KindName::Cr => Kind::Cr,
        };
        let spec =
            Spec { rows: self.size, columns: self.size, disks: self.disks, ..Spec::new(kind, self.seed) };
        let phantom = generate(&spec)?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("making {}", self.out.display()))?;
        for (index, file) in phantom.files.iter().enumerate() {
            let path = self.out.join(format!("{index:03}.dcm"));
            std::fs::write(&path, &file.bytes).with_context(|| format!("writing {}", path.display()))?;
        }
        let disks: Vec<_> = phantom
            .truth
            .iter()
            .map(|disk| {
                json!({
                    "file": format!("{:03}.dcm", disk.file),
                    "sop_instance_uid": phantom.files[disk.file].instance.sop_instance_uid.expose(),
                    "column": disk.centre.0,
                    "row": disk.centre.1,
                    "diameter_mm": disk.diameter_mm,
                    "score": disk.score,
                    "tier": disk.tier.as_str(),
                })
            })
            .collect();
        let truth = json!({
            "study_uid": phantom.study_uid.expose(), "row_mm": spec.row_mm, "column_mm": spec.column_mm,
            "disks": disks,
        });
        std::fs::write(self.out.join("truth.json"), serde_json::to_vec_pretty(&truth)?)?;
        println!("{}: {} files, {} disks (truth.json)", self.out.display(), phantom.files.len(), disks.len());
        Ok(ExitCode::SUCCESS)
    }
}
