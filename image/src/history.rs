//! How an image was made, as its configuration tells it.

use crate::document::json;
use crate::pull::PullCause;
use crate::record::Image;
use crate::store::Store;
use serde::Deserialize;

/// One step in the making of an image. Untrusted: shown, never acted on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Step {
    /// RFC 3339.
    pub created: Option<String>,
    /// The command.
    pub created_by: String,
    /// A remark.
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(rename = "empty_layer")]
    pub is_empty: bool,
    /// Compressed bytes of the layer it made.
    #[serde(skip)]
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    history: Option<Vec<Step>>,
}

impl Store {
    /// The steps, first to last, each with the size of its layer.
    ///
    /// # Errors
    ///
    /// [`PullCause`] when the configuration cannot be read.
    pub async fn history(&self, image: &Image) -> Result<Vec<Step>, PullCause> {
        let bytes = self.document(image.config_digest()).await?;
        let raw: Raw = json::parse(&bytes).unwrap_or(Raw { history: None });
        let mut layers = image.layers.iter();
        let mut steps = raw.history.unwrap_or_default();
        for step in steps.iter_mut().filter(|step| !step.is_empty) {
            step.bytes = layers.next().map_or(0, |layer| layer.bytes);
        }
        // Some builders tell nothing; the layers are there all the same.
        steps.extend(layers.map(|layer| Step { bytes: layer.bytes, ..Step::default() }));
        Ok(steps)
    }
}
