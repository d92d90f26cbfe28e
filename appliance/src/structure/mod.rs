//! Stage 3, structure: raw model outputs become coded findings.
