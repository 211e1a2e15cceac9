//! What a device answered, as a file.
//!
//! A line `lacuna conformance 1`, a line that says where it was recorded, then for each case: the length of its name (u16)
//! and the name, the digest of its kernel and operands (u64), the number of its words (u32) and the words. Numbers are
//! little-endian. Operands are not in it: they are drawn again.

use std::{collections::BTreeMap, path::PathBuf};

use super::Case;

const HEAD: &str = "lacuna conformance 1";

/// The results of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// What [`Case::digest`] was.
    pub digest: u64,
    /// Its results, `[round][lane][word]`.
    pub words: Vec<u32>,
}

/// The results of all cases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The device and its driver.
    pub device: String,
    /// By the name of the case.
    pub cases: BTreeMap<String, Recorded>,
}

impl Recording {
    /// The committed file.
    pub fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../emulator/tests/conformance/h200.bin")
    }

    /// Adds what a device answered to a case.
    pub fn insert(&mut self, case: &Case, words: Vec<u32>) {
        self.cases.insert(case.name.clone(), Recorded { digest: case.digest(), words });
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{HEAD}\n{}\n", self.device).into_bytes();
        for (name, recorded) in &self.cases {
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(recorded.digest.to_le_bytes());
            bytes.extend((recorded.words.len() as u32).to_le_bytes());
            bytes.extend(recorded.words.iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes
    }

    /// From bytes; `None` where they are not a recording.
    pub fn from_bytes(bytes: &[u8]) -> Option<Recording> {
        let rest = bytes.strip_prefix(HEAD.as_bytes())?.strip_prefix(b"\n")?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let device = String::from_utf8(rest[..end].to_vec()).ok()?;
        let mut rest = &rest[end + 1..];
        let mut cases = BTreeMap::new();
        while !rest.is_empty() {
            let name = take(&mut rest, 2).and_then(|length| {
                let length = u16::from_le_bytes(length.try_into().ok()?);
                String::from_utf8(take(&mut rest, length.into())?.to_vec()).ok()
            })?;
            let digest = u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
            let count = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
            let words = take(&mut rest, count as usize * 4)?;
            let words = words.chunks_exact(4).map(|word| word.iter().rfold(0, |all, byte| all << 8 | u32::from(*byte)));
            cases.insert(name, Recorded { digest, words: words.collect() });
        }
        Some(Recording { device, cases })
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}
