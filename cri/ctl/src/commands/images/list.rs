//! `berth images`.

use cri_api::runtime::v1::{Image, ImageFilter, ListImagesRequest, ListImagesResponse};

use super::named;
use crate::error::{CliError, OptionError};
use crate::node::Node;
use crate::output::{Format, Out, Table, document, human};
use crate::select;

const NONE: &str = "<none>";

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only this image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: Option<String>,

    /// Only those that match: dangling=true|false, reference=REGEX, before=IMAGE, since=IMAGE; may be repeated
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,

    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,

    /// Show digests
    #[arg(long)]
    digests: bool,

    /// Show ids and digests whole
    #[arg(long)]
    no_trunc: bool,

    /// Show whether images are pinned
    #[arg(long)]
    pinned: bool,

    /// Show ids only
    #[arg(short, long)]
    quiet: bool,

    /// Show each image at length
    #[arg(short, long)]
    verbose: bool,
}

impl List {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let images = list(node, self.image.as_deref(), &self.filter).await?;
        if self.output != Format::Table {
            return out.document(&document::json(&ListImagesResponse { images }), self.output);
        }
        if self.quiet {
            return images.iter().try_for_each(|image| out.line(&image.id));
        }
        if self.verbose {
            return images.iter().try_for_each(|image| at_length(image, out));
        }
        out.table(&self.table(&images))
    }

    fn table(&self, images: &[Image]) -> Table {
        let chosen = |cells: [(bool, String); 6]| {
            cells.into_iter().filter(|(wanted, _)| *wanted).map(|(_, cell)| cell)
        };
        let mut table = Table::without_header(20);
        table.row(chosen([
            (true, "IMAGE".into()),
            (true, "TAG".into()),
            (self.digests, "DIGEST".into()),
            (true, "IMAGE ID".into()),
            (true, "SIZE".into()),
            (self.pinned, "PINNED".into()),
        ]));
        let id = |id: &str| {
            if self.no_trunc { id.to_owned() } else { human::short_id(id).to_owned() }
        };
        for image in images {
            let (_, digest) = repository_and_digest(image);
            for (repository, tag) in names(image) {
                table.row(chosen([
                    (true, repository),
                    (true, tag),
                    (self.digests, id(digest)),
                    (true, id(&image.id)),
                    (true, human::size(image.size)),
                    (self.pinned, image.pinned.to_string()),
                ]));
            }
        }
        table
    }
}

/// All images that match, by name.
pub(super) async fn list(
    node: &Node,
    image: Option<&str>,
    filters: &[String],
) -> Result<Vec<Image>, CliError> {
    let filter = image.map(|image| ImageFilter { image: Some(named(image)) });
    let answer = node
        .list_images(ListImagesRequest { filter })
        .await
        .map_err(CliError::call("list images"))?;
    let mut images = answer.images;
    images.sort_by(|one, other| sort_key(one).cmp(&sort_key(other)));
    filters.iter().try_fold(images, |images, filter| filtered(images, filter))
}

fn sort_key(image: &Image) -> (&str, &str) {
    let name = image.repo_tags.first().or(image.repo_digests.first());
    (name.map_or("", String::as_str), &image.id)
}

fn filtered(mut images: Vec<Image>, filter: &str) -> Result<Vec<Image>, CliError> {
    let refused = |form| CliError::option("--filter", filter)(OptionError::Form(form));
    let (key, value) = filter.split_once('=').ok_or_else(|| refused("KEY=VALUE"))?;
    match (key, value) {
        ("dangling", "true") => images.retain(|image| image.repo_tags.is_empty()),
        ("dangling", "false") => images.retain(|image| !image.repo_tags.is_empty()),
        ("reference", pattern) => {
            let pattern = select::pattern("--filter", Some(pattern))?;
            images.retain(|image| {
                let (repository, _) = repository_and_digest(image);
                pattern.as_ref().is_none_or(|pattern| pattern.is_match(repository))
            });
        }
        // As with crictl, "before" and "since" go by the place in the list.
        ("since", name) => {
            let end = images.iter().position(|image| is_named(image, name));
            images.truncate(end.unwrap_or(images.len()));
        }
        ("before", name) => {
            let found = images.iter().rposition(|image| is_named(image, name));
            images.drain(..found.map_or(0, |at| at + 1));
        }
        _ => return Err(refused("dangling=true|false, reference=…, before=… or since=…")),
    }
    Ok(images)
}

fn is_named(image: &Image, name: &str) -> bool {
    let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
    image.repo_tags.iter().any(|tag| tag == name)
        || image.repo_digests.iter().any(|digest| digest == name)
        || (!name.is_empty() && (id.starts_with(name) || image.id.starts_with(name)))
}

/// Repository and tag of each name; an image pulled by digest has a repository only.
fn names(image: &Image) -> Vec<(String, String)> {
    let (repository, _) = repository_and_digest(image);
    if image.repo_tags.is_empty() {
        return vec![(repository.into(), NONE.into())];
    }
    let split = |name: &String| {
        let (name, tag) = name.rsplit_once(':').unwrap_or((name, NONE));
        let name = if name == NONE { repository } else { name };
        (name.to_owned(), tag.to_owned())
    };
    image.repo_tags.iter().map(split).collect()
}

fn repository_and_digest(image: &Image) -> (&str, &str) {
    image.repo_digests.first().and_then(|digest| digest.split_once('@')).unwrap_or((NONE, NONE))
}

fn at_length(image: &Image, out: &mut Out) -> Result<(), CliError> {
    out.line(format_args!("ID: {}", image.id))?;
    for tag in &image.repo_tags {
        out.line(format_args!("RepoTags: {tag}"))?;
    }
    for digest in &image.repo_digests {
        out.line(format_args!("RepoDigests: {digest}"))?;
    }
    if image.size != 0 {
        out.line(format_args!("Size: {}", image.size))?;
    }
    if let Some(uid) = &image.uid {
        out.line(format_args!("Uid: {}", uid.value))?;
    }
    if !image.username.is_empty() {
        out.line(format_args!("Username: {}", image.username))?;
    }
    if image.pinned {
        out.line("Pinned: true")?;
    }
    out.line("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[&str], digests: &[&str]) -> Image {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Image {
            id: format!("sha256:{id}"),
            repo_tags: owned(tags),
            repo_digests: owned(digests),
            size: 4_262_003,
            ..Default::default()
        }
    }

    fn images() -> Vec<Image> {
        vec![
            image("aaaaaaaaaaaaaaaa", &["docker.io/library/busybox:1", "reg:5000/b:2"], &[]),
            image("bbbbbbbbbbbbbbbb", &[], &["docker.io/library/nginx@sha256:dddddddddddddddd"]),
            image("cccccccccccccccc", &[], &[]),
        ]
    }

    #[test]
    fn a_row_for_each_name_and_none_for_what_has_none() {
        let list = List {
            image: None,
            filter: Vec::new(),
            output: Format::Table,
            digests: true,
            no_trunc: false,
            pinned: false,
            quiet: false,
            verbose: false,
        };
        let rows: Vec<Vec<String>> = list
            .table(&images())
            .lines()
            .map(|line| {
                line.split("  ")
                    .filter(|cell| !cell.is_empty())
                    .map(|cell| cell.trim().to_owned())
                    .collect()
            })
            .collect();
        let want = [
            ["IMAGE", "TAG", "DIGEST", "IMAGE ID", "SIZE"],
            ["docker.io/library/busybox", "1", "<none>", "aaaaaaaaaaaaa", "4.26MB"],
            ["reg:5000/b", "2", "<none>", "aaaaaaaaaaaaa", "4.26MB"],
            ["docker.io/library/nginx", "<none>", "ddddddddddddd", "bbbbbbbbbbbbb", "4.26MB"],
            ["<none>", "<none>", "<none>", "ccccccccccccc", "4.26MB"],
        ];
        assert_eq!(rows, want);
    }

    #[test]
    fn filters_choose_by_names_and_places() {
        let ids = |filter: &str| -> Vec<String> {
            let images = filtered(images(), filter).unwrap();
            images.iter().map(|image| human::short_id(&image.id)[..1].to_owned()).collect()
        };
        let cases: [(&str, &[&str]); 7] = [
            ("dangling=true", &["b", "c"]),
            ("dangling=false", &["a"]),
            ("reference=ngin", &["b"]),
            ("since=bbbb", &["a"]),
            ("before=bbbb", &["c"]),
            ("before=docker.io/library/busybox:1", &["b", "c"]),
            ("since=nothing", &["a", "b", "c"]),
        ];
        for (filter, want) in cases {
            assert_eq!(ids(filter), want, "{filter}");
        }
        for filter in ["dangling", "dangling=maybe", "size=3", "reference=("] {
            assert!(filtered(images(), filter).is_err(), "{filter}");
        }
    }
}
