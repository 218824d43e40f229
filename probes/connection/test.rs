//! Tests of the whole probe on a fake kernel.
