//! Pulling an image, and telling how far it is.

mod bars;
mod lines;

use std::io::{self, IsTerminal};
use std::time::Duration;

use cri_api::berth::v1::load_images_response::Loaded;
use cri_api::berth::v1::{self as berth, LoadImagesResponse, PullProgress};
use cri_api::runtime::v1::PullImageRequest;
use tonic::{Code, Status, Streaming};

use crate::error::CliError;
use crate::node::Node;
use bars::Bars;
use lines::Lines;

/// Shows progress to a person; a program gets none. Gives the id of the image.
pub(crate) async fn image(
    node: &Node,
    request: PullImageRequest,
    limit: Option<Duration>,
) -> Result<String, CliError> {
    // What only CRI's own call can carry.
    let has_more = request.sandbox_config.is_some()
        || request.image.as_ref().is_some_and(|image| !image.annotations.is_empty());
    if has_more || !io::stderr().is_terminal() {
        return silently(node, request, limit).await;
    }
    telling(node, request, limit).await
}

/// Tells a person by bars, a program by lines. Gives the id of the image.
pub(crate) async fn telling(
    node: &Node,
    request: PullImageRequest,
    limit: Option<Duration>,
) -> Result<String, CliError> {
    let name = name(&request);
    let result = match limit {
        None => stream(node, &request).await,
        Some(limit) => {
            tokio::time::timeout(limit, stream(node, &request)).await.unwrap_or_else(|_| {
                let text = format!("not done within {limit:?}");
                Err(Failure::Status(Status::deadline_exceeded(text)))
            })
        }
    };
    match result {
        Ok(image_ref) => Ok(image_ref),
        // Another runtime's socket.
        Err(Failure::Status(status)) if status.code() == Code::Unimplemented => {
            silently(node, request, limit).await
        }
        Err(Failure::Status(status)) => Err(CliError::call(format!("pull {name}"))(status)),
        Err(Failure::CutOff) => Err(CliError::PullCutOff(name)),
    }
}

async fn silently(
    node: &Node,
    request: PullImageRequest,
    limit: Option<Duration>,
) -> Result<String, CliError> {
    let step = format!("pull {}", name(&request));
    let answer = node.pull_image(request, limit).await.map_err(CliError::call(step))?;
    Ok(answer.image_ref)
}

fn name(request: &PullImageRequest) -> String {
    request.image.clone().unwrap_or_default().image
}

/// Shows a push until it has ended, and gives what its last message names.
pub(crate) async fn follow(
    mut messages: Streaming<PullProgress>,
    name: &str,
    step: &str,
) -> Result<String, CliError> {
    let mut display = Display::new();
    while let Some(progress) = messages.message().await.map_err(CliError::call(step))? {
        display.show(&progress);
        if !progress.image_ref.is_empty() {
            return Ok(progress.image_ref);
        }
    }
    Err(CliError::PullCutOff(name.to_owned()))
}

/// Shows images being loaded, and gives what was.
pub(crate) async fn follow_load(
    mut messages: Streaming<LoadImagesResponse>,
    step: &str,
) -> Result<Vec<Loaded>, CliError> {
    let mut display = Display::new();
    while let Some(message) = messages.message().await.map_err(CliError::call(step))? {
        match message.progress {
            Some(progress) => display.show(&progress),
            None => return Ok(message.loaded),
        }
    }
    Err(CliError::PullCutOff("an archive".into()))
}

enum Failure {
    Status(Status),
    CutOff,
}

async fn stream(node: &Node, request: &PullImageRequest) -> Result<String, Failure> {
    let request = berth::PullImageRequest { image: name(request), auth: request.auth.clone() };
    let mut messages = node.pull_with_progress(request).await.map_err(Failure::Status)?;
    let mut display = Display::new();
    while let Some(progress) = messages.message().await.map_err(Failure::Status)? {
        display.show(&progress);
        if !progress.image_ref.is_empty() {
            return Ok(progress.image_ref);
        }
    }
    Err(Failure::CutOff)
}

enum Display {
    Bars(Bars),
    Lines(Lines),
}

impl Display {
    fn new() -> Self {
        if io::stderr().is_terminal() {
            Self::Bars(Bars::default())
        } else {
            Self::Lines(Lines::default())
        }
    }

    fn show(&mut self, progress: &PullProgress) {
        match self {
            Self::Bars(bars) => bars.show(progress),
            Self::Lines(lines) => lines.news(progress).iter().for_each(crate::output::note),
        }
    }
}
