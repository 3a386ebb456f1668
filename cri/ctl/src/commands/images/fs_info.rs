//! `berth imagefsinfo`.

use cri_api::runtime::v1::{FilesystemUsage, ImageFsInfoRequest};
use serde_json::json;

use crate::error::CliError;
use crate::node::Node;
use crate::output::{Format, Out, document, human};

#[derive(Debug, clap::Args)]
pub(crate) struct FsInfo {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,
}

impl FsInfo {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let answer = node
            .image_fs_info(ImageFsInfoRequest {})
            .await
            .map_err(CliError::call("get the usage of the image store"))?;
        if self.output == Format::Table {
            usage("Container", &answer.container_filesystems, out)?;
            return usage("Image", &answer.image_filesystems, out);
        }
        out.document(&json!({ "status": document::json(&answer) }), self.output)
    }
}

fn usage(kind: &str, filesystems: &[FilesystemUsage], out: &mut Out) -> Result<(), CliError> {
    out.line(format_args!("{kind} Filesystem"))?;
    for (index, filesystem) in filesystems.iter().enumerate() {
        let value =
            |number: Option<_>| number.map_or(0, |n: cri_api::runtime::v1::UInt64Value| n.value);
        let mountpoint = filesystem.fs_id.as_ref().map_or("", |id| &id.mountpoint);
        out.line(format_args!("TimeStamp[{index}]: {}", filesystem.timestamp))?;
        let size = human::long_size(value(filesystem.used_bytes));
        out.line(format_args!("Disk[{index}]: {size}"))?;
        out.line(format_args!("Inodes[{index}]: {}", value(filesystem.inodes_used)))?;
        out.line(format_args!("Mountpoint[{index}]: {mountpoint}"))?;
    }
    Ok(())
}
