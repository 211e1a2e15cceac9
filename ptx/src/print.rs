//! [`Module`] to text, as `Display`.
