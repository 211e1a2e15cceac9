//! The instruction set as a table.
//!
//! A [`Row`] is a family of forms: its text has `{a,b,c}` choices, and every combination is one [`Form`]. The printer,
//! the reader, the verifier and the emulator's decoder all come from these rows; a test asks ptxas whether each row's
//! lowest target and PTX version are true.
