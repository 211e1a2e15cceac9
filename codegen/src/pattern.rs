//! Patterns: one predicate, recorded once.
