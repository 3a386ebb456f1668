//! What `inspect`, `inspectp` and `inspecti` have in common: each object is looked up, then shown.

use serde_json::Value;

use crate::error::CliError;
use crate::output::{Format, Out, document};

/// How inspected objects are shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspection {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,

    /// Leave out the runtime's own documents
    #[arg(short, long)]
    quiet: bool,
}

/// The answer of the runtime about one object.
pub(crate) trait Inspected {
    /// Its status beside the runtime's own documents, with times that people can read.
    fn document(&self) -> Value;

    /// The same as lines of text, what matters first.
    fn at_length(&self, out: &mut Out) -> Result<(), CliError>;
}

impl Inspection {
    /// Shows the objects of these names, in their order; `look_up` is told whether to ask for the runtime's
    /// documents too. The first one that is not there ends it.
    pub(crate) async fn show<I: Inspected>(
        &self,
        names: Vec<String>,
        out: &mut Out,
        look_up: impl AsyncFn(&str, bool) -> Result<I, CliError>,
    ) -> Result<(), CliError> {
        if names.is_empty() {
            return Err(CliError::NothingMatches);
        }
        let mut documents = Vec::new();
        for name in names {
            let object = look_up(&name, !self.quiet).await?;
            match self.output {
                Format::Table => object.at_length(out)?,
                Format::Json | Format::Yaml => documents.push(object.document()),
            }
        }
        if self.output == Format::Table {
            return Ok(());
        }
        out.document(&document::one_or_list(documents), self.output)
    }
}
