//! Stage 2, infer: pixels to a calibrated tensor, a run of the engine, raw outputs.
