//! Whether a [`Module`](crate::Module) is well formed for its target and version.
