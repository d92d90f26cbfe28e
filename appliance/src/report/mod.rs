//! Stage 4, report: a draft made of findings, and of nothing else.
