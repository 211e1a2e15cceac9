//! Lane tiles and tables: small funcs in the text form of the tile IR, against plain Rust, bit for bit, on the emulator and
//! on a GPU where there is one.

mod best;
mod program;
mod tables;
mod tiles;
