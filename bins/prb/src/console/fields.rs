//! Fields of an address or of a form's body.

use url::form_urlencoded;
use uuid::Uuid;
use zeroize::Zeroize;

/// Names and values in their order; names may come several times. Values are wiped when dropped: one may be a
/// secret.
#[derive(Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn read(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The value of a field without spaces around it; empty where there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.trim()).unwrap_or_default()
    }

    /// Whether a box is checked.
    pub(super) fn is_on(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }

    /// All ids under a name; several may stand in one value, by comma.
    ///
    /// # Errors
    /// Where one is none.
    pub(super) fn ids(&self, name: &str) -> Result<Vec<Uuid>, String> {
        let values = self.0.iter().filter(|(other, _)| other == name);
        let texts = values.flat_map(|(_, value)| value.split(',')).filter(|text| !text.is_empty());
        texts.map(|text| text.parse().map_err(|_| "One of the ids is no worker's.".to_owned())).collect()
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
