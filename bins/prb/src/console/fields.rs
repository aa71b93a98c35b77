//! Fields of a URL's query or a form's body.

use url::form_urlencoded;
use uuid::Uuid;
use zeroize::Zeroize;

/// Names and values in their order; names can repeat. Values are wiped when dropped: one may be a secret.
#[derive(Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn read(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// Returns the trimmed value of a field; empty if it is missing.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.trim()).unwrap_or_default()
    }

    /// Returns whether a box is checked.
    pub(super) fn is_on(&self, name: &str) -> bool {
        // A browser sends a box only while it is checked.
        !self.get(name).is_empty()
    }

    /// Returns all ids under a name; a value can have several, separated by commas.
    ///
    /// # Errors
    ///
    /// If one is not a valid id.
    pub(super) fn ids(&self, name: &str) -> Result<Vec<Uuid>, String> {
        let values = self.0.iter().filter(|(other, _)| other == name);
        let texts = values.flat_map(|(_, value)| value.split(',')).filter(|text| !text.is_empty());
        texts.map(|text| text.parse().map_err(|_| "One of the worker ids is not valid.".to_owned())).collect()
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Names only: a value may be a secret.
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
