//! Text to [`Module`].
