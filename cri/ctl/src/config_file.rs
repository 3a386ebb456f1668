//! crictl's pod and container configuration files: a PodSandboxConfig or ContainerConfig in JSON or YAML, with
//! names as in the interface or in camelCase.

use std::fs;
use std::path::Path;

use cri_api::runtime::v1::{ContainerConfig, KeyValue, PodSandboxConfig};
use prost::{Message, Name};
use prost_reflect::{DeserializeOptions, DynamicMessage};
use serde_json::Value;

use crate::error::{CliError, FileError};
use crate::ids;
use crate::output::{document, note};

/// A pod without a uid gets one, as with crictl.
pub(crate) fn pod(path: &Path) -> Result<PodSandboxConfig, CliError> {
    let mut config = load(path, parse_pod)?;
    if let Some(metadata) = config.metadata.as_mut().filter(|metadata| metadata.uid.is_empty()) {
        metadata.uid = ids::uuid()?;
    }
    Ok(config)
}

pub(crate) fn container(path: &Path) -> Result<ContainerConfig, CliError> {
    load(path, parse_container)
}

fn load<M>(path: &Path, parse: fn(&str) -> Result<M, FileError>) -> Result<M, CliError> {
    fs::read_to_string(path)
        .map_err(FileError::Open)
        .and_then(|text| parse(&text))
        .map_err(|source| CliError::File { path: path.to_owned(), source })
}

fn parse_pod(text: &str) -> Result<PodSandboxConfig, FileError> {
    let config: PodSandboxConfig = message(document(text)?, "pod configuration")?;
    let metadata = config.metadata.as_ref().ok_or(FileError::Missing("metadata"))?;
    require(&metadata.name, "metadata.name")?;
    require(&metadata.namespace, "metadata.namespace")?;
    Ok(config)
}

fn parse_container(text: &str) -> Result<ContainerConfig, FileError> {
    let mut document = document(text)?;
    let environment = document.as_object_mut().and_then(|config| config.remove("envs"));
    let mut config: ContainerConfig = message(document, "container configuration")?;
    config.envs = environment.map(variables).transpose()?.unwrap_or_default();

    require(config.metadata.as_ref().map_or("", |metadata| &metadata.name), "metadata.name")?;
    let image = config.image.as_mut().ok_or(FileError::Missing("image.image"))?;
    require(&image.image, "image.image")?;
    if image.user_specified_image.is_empty() {
        image.user_specified_image.clone_from(&image.image);
    }
    Ok(config)
}

fn require(value: &str, name: &'static str) -> Result<(), FileError> {
    if value.is_empty() { Err(FileError::Missing(name)) } else { Ok(()) }
}

/// JSON is YAML.
fn document(text: &str) -> Result<Value, FileError> {
    serde_saphyr::from_str(text).map_err(|error| FileError::Syntax(Box::new(error)))
}

fn message<M: Message + Name + Default>(
    document: Value,
    what: &'static str,
) -> Result<M, FileError> {
    let read = |options: &DeserializeOptions| {
        DynamicMessage::deserialize_with_options(document::descriptor::<M>(), &document, options)
    };
    let dynamic = match read(&DeserializeOptions::new()) {
        Ok(dynamic) => dynamic,
        // crictl ignores what it does not know, so its users' files may have such keys; saying so finds typos.
        Err(error) => {
            let dynamic = read(&DeserializeOptions::new().deny_unknown_fields(false))
                .map_err(|source| FileError::Shape { what, source })?;
            note(format_args!("ignored in the {what}: {error}"));
            dynamic
        }
    };
    Ok(dynamic.transcode_to().expect("the type and its descriptor are from one file"))
}

/// `value` is bytes since Kubernetes 1.36, which is base64 in JSON; these files keep plain text.
fn variables(list: Value) -> Result<Vec<KeyValue>, FileError> {
    if list.is_null() {
        return Ok(Vec::new());
    }
    let list = list.as_array().ok_or(FileError::Environment)?;
    list.iter()
        .map(|variable| {
            let key = variable["key"].as_str().ok_or(FileError::Environment)?;
            let value = match &variable["value"] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                number_or_bool @ (Value::Bool(_) | Value::Number(_)) => number_or_bool.to_string(),
                Value::Array(_) | Value::Object(_) => return Err(FileError::Environment),
            };
            Ok(KeyValue { key: key.into(), value: value.into_bytes() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::runtime::v1::{MountPropagation, NamespaceMode};

    #[test]
    fn a_pod_is_read_with_either_spelling() {
        let snake = r#"{"metadata":{"name":"web","namespace":"default","uid":"u","attempt":1},
            "log_directory":"/tmp","port_mappings":[{"container_port":80,"host_port":8080}],
            "linux":{"security_context":{"namespace_options":{"network":2,"pid":1}}}}"#;
        let camel = "metadata: {name: web, namespace: default, uid: u, attempt: 1}\nlogDirectory: /tmp\n\
            portMappings:\n- containerPort: 80\n  hostPort: 8080\n\
            linux:\n  securityContext:\n    namespaceOptions:\n      network: NODE\n      pid: CONTAINER\n";
        let pod = parse_pod(snake).unwrap();
        assert_eq!(pod, parse_pod(camel).unwrap());
        assert_eq!(pod.log_directory, "/tmp");
        assert_eq!(pod.port_mappings[0].host_port, 8080);
        let options = pod.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!(options.network(), NamespaceMode::Node);
        assert_eq!(options.pid(), NamespaceMode::Container);
    }

    #[test]
    fn a_container_keeps_its_environment_as_text() {
        let text = r#"{"metadata":{"name":"a"},"image":{"image":"busybox"},"command":["top"],
            "envs":[{"key":"A","value":"plain text"},{"key":"B"},{"key":"C","value":1}],
            "mounts":[{"container_path":"/c","host_path":"/h","propagation":2}],
            "linux":{"resources":{"memory_limit_in_bytes":"1048576"}}, "not_a_field": 1}"#;
        let config = parse_container(text).unwrap();
        let variables: Vec<_> =
            config.envs.iter().map(|v| (v.key.as_str(), v.value.as_slice())).collect();
        assert_eq!(variables, [("A", b"plain text".as_slice()), ("B", b""), ("C", b"1")]);
        assert_eq!(config.mounts[0].propagation(), MountPropagation::PropagationBidirectional);
        assert_eq!(config.image.unwrap().user_specified_image, "busybox");
        assert_eq!(config.linux.unwrap().resources.unwrap().memory_limit_in_bytes, 1 << 20);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let cases = [
            ("no metadata", parse_pod("{}").map(drop), "metadata is missing"),
            (
                "no namespace",
                parse_pod("metadata: {name: a}").map(drop),
                "metadata.namespace is missing",
            ),
            ("not a map", parse_pod("[1]").map(drop), "it is not a pod configuration"),
            ("not YAML", parse_pod("a: [").map(drop), "it is neither JSON nor YAML"),
            (
                "no image",
                parse_container("metadata: {name: a}").map(drop),
                "image.image is missing",
            ),
            (
                "a wrong type",
                parse_container("metadata: {name: a, attempt: x}").map(drop),
                "it is not a container configuration",
            ),
        ];
        for (name, result, want) in cases {
            assert_eq!(result.unwrap_err().to_string(), want, "{name}");
        }
    }
}
