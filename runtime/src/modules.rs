//! Compiled modules of a device, by the content of their text.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::Result;

/// A map from PTX text to what a device made of it. A text that was seen before at the same place is found without
/// hashing it.
pub(crate) struct Modules<T>(Mutex<Maps<T>>);

struct Maps<T> {
    /// By the address of the text. The weak pointer keeps that address from being given to another text.
    placed: HashMap<usize, (Weak<str>, Arc<T>)>,
    content: HashMap<blake3::Hash, Arc<T>>,
}

impl<T> Modules<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Maps { placed: HashMap::new(), content: HashMap::new() }))
    }

    /// What the device made of `text`, by `make` the first time. `make` runs without the lock, so that modules compile
    /// in parallel; of two that compile one text at once, the first is kept.
    pub(crate) fn get_or_make(&self, text: &Arc<str>, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let place = Arc::as_ptr(text).cast::<u8>() as usize;
        if let Some((_, found)) = self.lock().placed.get(&place) {
            return Ok(found.clone());
        }
        let hash = blake3::hash(text.as_bytes());
        let found = self.lock().content.get(&hash).cloned();
        let module = match found {
            Some(found) => found,
            None => {
                let made = Arc::new(make()?);
                self.lock().content.entry(hash).or_insert(made).clone()
            }
        };
        let mut maps = self.lock();
        maps.placed.retain(|_, (text, _)| text.strong_count() > 0);
        maps.placed.insert(place, (Arc::downgrade(text), module.clone()));
        Ok(module)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Maps<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_made_once_wherever_it_stands() {
        let modules = Modules::new();
        let made = std::cell::Cell::new(0);
        let make = || Ok(made.replace(made.get() + 1));
        for _ in 0..100 {
            let text: Arc<str> = Arc::from("the same text at a new place");
            for _ in 0..2 {
                modules.get_or_make(&text, make).unwrap();
            }
        }
        assert_eq!(made.get(), 1);
        let other: Arc<str> = Arc::from("another text");
        modules.get_or_make(&other, make).unwrap();
        assert_eq!(made.get(), 2);
        assert!(modules.lock().placed.len() <= 2, "dead texts are forgotten");
    }

    #[test]
    fn a_failure_is_not_kept() {
        let modules = Modules::<u32>::new();
        let text: Arc<str> = Arc::from("text");
        let fail = || Err(crate::Error::Memory("first".to_owned()));
        assert!(modules.get_or_make(&text, fail).is_err());
        assert_eq!(*modules.get_or_make(&text, || Ok(7)).unwrap(), 7);
    }
}
