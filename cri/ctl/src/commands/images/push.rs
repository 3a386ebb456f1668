//! `berth push`.

use cri_api::berth::v1::PushImageRequest;

use crate::auth::AuthFlags;
use crate::error::CliError;
use crate::node::Node;
use crate::output::Out;
use crate::pull;

#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// The image: a name or an id
    image: String,

    /// Where to, when not to where the image's name says
    #[arg(value_name = "NAME[:TAG]")]
    to: Option<String>,

    #[command(flatten)]
    auth: AuthFlags,
}

impl Push {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let Self { image, to, auth } = self;
        let name = to.clone().unwrap_or_else(|| image.clone());
        let auth = auth.credentials_for(&name)?;
        let request = PushImageRequest { image, to: to.unwrap_or_default(), auth };
        let step = format!("push {name}");
        let messages = node.push(request).await.map_err(CliError::call(step.clone()))?;
        let digest = pull::follow(messages, &name, &step).await?;
        out.line(format_args!("{name}: {digest}"))
    }
}
