//! `berth save` and `berth load`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use cri_api::berth::v1::save_images_request::Format as Wire;
use cri_api::berth::v1::{LoadImagesRequest, SaveImagesRequest};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::directory;
use crate::auth::AuthFlags;
use crate::error::CliError;
use crate::node::Node;
use crate::output::Out;
use crate::pull;

/// Bytes of an archive in one message.
const CHUNK: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    OciArchive,
    DockerArchive,
    /// A directory, which must not exist or be empty
    OciDir,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Save {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,

    /// Where to; - is the standard output
    #[arg(short, long, value_name = "PATH", default_value = "-")]
    output: PathBuf,

    /// What to write
    #[arg(long, value_enum, default_value = "oci-archive")]
    format: Format,

    #[command(flatten)]
    auth: AuthFlags,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// An archive, or the directory of an OCI layout; - is the standard input
    #[arg(short, long, value_name = "PATH", default_value = "-")]
    input: PathBuf,

    /// Name for images that have only a tag in the archive
    #[arg(long, value_name = "NAME[:TAG]")]
    name: Option<String>,

    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
}

impl Save {
    pub(crate) async fn run(self, node: &Node) -> Result<(), CliError> {
        let Self { images, output, format, auth } = self;
        let is_standard = output == Path::new("-");
        if is_standard && (format == Format::OciDir || io::stdout().is_terminal()) {
            return Err(CliError::ArchiveToTerminal);
        }
        let wire = match format {
            Format::OciArchive | Format::OciDir => Wire::OciArchive,
            Format::DockerArchive => Wire::DockerArchive,
        };
        let auth = match images.first() {
            Some(first) => auth.credentials_for(first)?,
            None => None,
        };
        let step = format!("save {}", images.join(", "));
        let request = SaveImagesRequest { images, format: wire.into(), auth };
        let mut messages = node.save(request).await.map_err(CliError::call(step.clone()))?;
        let failed = |source| CliError::Write { path: output.clone(), source };
        // Nothing is made before the daemon has said that there is something to write.
        let first = messages.message().await.map_err(CliError::call(step.clone()))?;
        let bar = bar(first.map(|first| first.total).unwrap_or_default());
        let mut sink = match (is_standard, format) {
            (true, _) => Sink::Stream(Box::new(tokio::io::stdout())),
            (false, Format::OciDir) => {
                Sink::Directory(directory::Writer::new(&output).map_err(failed)?)
            }
            (false, Format::OciArchive | Format::DockerArchive) => {
                let unfinished = Unfinished::new(&output);
                let file = File::create_new(&unfinished.path).await.map_err(failed)?;
                Sink::File(file, unfinished)
            }
        };
        while let Some(message) = messages.message().await.map_err(CliError::call(step.clone()))? {
            sink.write(&message.data).await.map_err(failed)?;
            bar.inc(message.data.len() as u64);
        }
        sink.finish().await.map_err(failed)?;
        bar.finish_and_clear();
        Ok(())
    }
}

impl Load {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let Self { input, name, quiet } = self;
        let failed = |source| CliError::Read { path: input.clone(), source };
        let (mut source, total): (Box<dyn AsyncRead + Send + Unpin>, u64) =
            if input == Path::new("-") {
                (Box::new(tokio::io::stdin()), 0)
            } else {
                let file = File::open(&input).await.map_err(failed)?;
                let about = file.metadata().await.map_err(failed)?;
                if about.is_dir() {
                    let archive = directory::archive(&input).map_err(failed)?;
                    (Box::new(File::from_std(archive)), 0)
                } else {
                    (Box::new(file), about.len())
                }
            };
        let bar = bar(total);
        let (give, receive) = mpsc::channel(4);
        let shown = bar.clone();
        let read = tokio::spawn(async move {
            let base = name.unwrap_or_default();
            if !base.is_empty() {
                give.send(LoadImagesRequest { base, data: Vec::new() }).await.ok();
            }
            loop {
                let mut data = vec![0; CHUNK];
                let count = source.read(&mut data).await?;
                if count == 0 {
                    return io::Result::Ok(());
                }
                data.truncate(count);
                shown.inc(count as u64);
                let message = LoadImagesRequest { base: String::new(), data };
                if give.send(message).await.is_err() {
                    return Ok(());
                }
            }
        });
        let step = "load images";
        let answer = node.load(receive).await;
        let read = read.await.map_err(io::Error::other).and_then(|read| read);
        bar.finish_and_clear();
        read.map_err(failed)?;
        let messages = answer.map_err(CliError::call(step))?;
        let loaded = pull::follow_load(messages, step).await?;
        for image in loaded {
            if quiet || image.tags.is_empty() {
                out.line(&image.image_ref)?;
            } else {
                image.tags.iter().try_for_each(|tag| out.line(format_args!("Loaded {tag}")))?;
            }
        }
        Ok(())
    }
}

/// On a terminal, how far the archive is; nothing elsewhere.
fn bar(total: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = if total > 0 {
        "{bar:32}  {decimal_bytes:>10} of {decimal_total_bytes:10}"
    } else {
        "{spinner}  {decimal_bytes:>10}"
    };
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    ProgressBar::new(total).with_style(style.progress_chars("━╸─"))
}

enum Sink {
    Stream(Box<dyn AsyncWrite + Send + Unpin>),
    File(File, Unfinished),
    Directory(directory::Writer),
}

/// A file that gets its name when it is whole, and is removed when it does not become so.
struct Unfinished {
    path: PathBuf,
    name: Option<PathBuf>,
}

impl Unfinished {
    fn new(name: &Path) -> Self {
        let mut path = name.as_os_str().to_owned();
        path.push(format!(".{}.part", std::process::id()));
        Self { path: path.into(), name: Some(name.to_owned()) }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.name.is_some() {
            // It may not have been made.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl Sink {
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(data).await,
            Self::File(file, _) => file.write_all(data).await,
            Self::Directory(writer) => writer.write(data),
        }
    }

    async fn finish(self) -> io::Result<()> {
        match self {
            Self::Stream(mut stream) => stream.flush().await,
            Self::File(mut file, mut unfinished) => {
                file.flush().await?;
                file.sync_all().await?;
                if let Some(name) = &unfinished.name {
                    std::fs::rename(&unfinished.path, name)?;
                }
                unfinished.name = None;
                Ok(())
            }
            Self::Directory(writer) => writer.finish(),
        }
    }
}
