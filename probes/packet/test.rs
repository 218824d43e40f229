//! Hand-built frames → verdicts, and counters → rows.
