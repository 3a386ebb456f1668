//! Messages as JSON, in the form of protobuf's JSON mapping as crictl prints it: camelCase keys, names of enum
//! values, 64-bit numbers as strings, fields with default values too.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value, json};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(cri_api::FILE_DESCRIPTOR_SET)
        .expect("the build has made the descriptors")
});

pub(crate) fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name()).expect("every generated message has a descriptor")
}

pub(crate) fn json<M: Message + Name>(message: &M) -> Value {
    let options =
        SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(true);
    serialized(message, &options)
}

/// As Go's `encoding/json` writes a message, which is what crictl's `info` has for handlers and features:
/// names as in the interface, no default values.
pub(crate) fn go_json<M: Message + Name>(message: &M) -> Value {
    serialized(message, &SerializeOptions::new().use_proto_field_name(true))
}

fn serialized<M: Message + Name>(message: &M, options: &SerializeOptions) -> Value {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic.transcode_from(message).expect("the type and its descriptor are from one file");
    dynamic
        .serialize_with_options(serde_json::value::Serializer, options)
        .expect("every message has a JSON form")
}

/// What `inspect`, `inspectp` and `inspecti` print for one object: its status beside the runtime's own
/// documents, which are JSON in strings.
pub(crate) fn inspected(status: Value, info: &BTreeMap<String, String>) -> Value {
    let mut document = Map::from_iter([("status".to_owned(), status)]);
    document.extend(details(info));
    Value::Object(document)
}

pub(crate) fn details(info: &BTreeMap<String, String>) -> impl Iterator<Item = (String, Value)> {
    info.iter().map(|(key, text)| {
        let value = match serde_json::from_str(text) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
            _ => json!(text.trim_matches('"')),
        };
        (key.clone(), value)
    })
}

/// One object by itself, several as a list.
pub(crate) fn one_or_list(mut documents: Vec<Value>) -> Value {
    if documents.len() == 1 { documents.remove(0) } else { Value::Array(documents) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::runtime::v1::{
        Container, ContainerState, ExecSyncResponse, RuntimeHandler, RuntimeHandlerFeatures,
    };

    #[test]
    fn json_is_protobufs_mapping_with_default_values() {
        let container = Container {
            id: "abc".into(),
            state: ContainerState::ContainerRunning.into(),
            created_at: 1_700_000_000_000_000_000,
            labels: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
            ..Default::default()
        };
        let value = json(&container);
        assert_eq!(value["podSandboxId"], "");
        assert_eq!(value["state"], "CONTAINER_RUNNING");
        assert_eq!(value["createdAt"], "1700000000000000000");
        assert_eq!(value["labels"], json!({ "a": "1", "b": "2" }));
        assert_eq!(value["annotations"], json!({}));
    }

    #[test]
    fn bytes_are_base64() {
        let response = ExecSyncResponse { stdout: b"hi\n".to_vec(), ..Default::default() };
        assert_eq!(json(&response), json!({ "stdout": "aGkK", "stderr": "", "exitCode": 0 }));
    }

    #[test]
    fn handlers_are_written_as_go_writes_them() {
        let features = RuntimeHandlerFeatures { user_namespaces: true, ..Default::default() };
        let handler = RuntimeHandler { name: String::new(), features: Some(features) };
        assert_eq!(go_json(&handler), json!({ "features": { "user_namespaces": true } }));
    }

    #[test]
    fn documents_of_the_runtime_are_unpacked() {
        let info = BTreeMap::from([
            ("info".to_owned(), r#"{"pid":7}"#.to_owned()),
            ("broken".to_owned(), "{".to_owned()),
            ("word".to_owned(), "\"quoted\"".to_owned()),
        ]);
        let value = inspected(json!({ "id": "x" }), &info);
        assert_eq!(
            value,
            json!({ "status": { "id": "x" }, "info": { "pid": 7 }, "broken": "{", "word": "quoted" })
        );
    }
}
