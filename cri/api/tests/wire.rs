//! What goes over the wire, compared with `k8s-cri`, an independent build of the same interface: a client that
//! was made from either must understand the other.
//!
//! Messages are filled by reflection (every field, all the way down), so a field that is added to the interface
//! is compared without anyone thinking of it.

use k8s_cri::v1 as theirs;
use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage, Value,
};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use tonic::codegen::http;

/// Decodes and encodes again.
type Relay = fn(&[u8]) -> Result<Vec<u8>, prost::DecodeError>;

struct Known {
    name: &'static str,
    through_theirs: Relay,
    through_ours: Relay,
}

fn relay<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
    M::decode(bytes).map(|message| message.encode_to_vec())
}

macro_rules! known {
    ($($message:ident),+ $(,)?) => {
        &[$(Known {
            name: stringify!($message),
            through_theirs: relay::<theirs::$message>,
            through_ours: relay::<cri_api::runtime::v1::$message>,
        }),+]
    };
}

/// Every message of `k8s-cri` 0.11.
#[rustfmt::skip]
const KNOWN: &[Known] = known![
    AttachRequest, AttachResponse, AuthConfig, CdiDevice, Capability,
    CheckpointContainerRequest, CheckpointContainerResponse, Container, ContainerAttributes,
    ContainerConfig, ContainerEventResponse, ContainerFilter, ContainerMetadata,
    ContainerMetrics, ContainerResources, ContainerStateValue, ContainerStats,
    ContainerStatsFilter, ContainerStatsRequest, ContainerStatsResponse, ContainerStatus,
    ContainerStatusRequest, ContainerStatusResponse, ContainerUser, CpuUsage,
    CreateContainerRequest, CreateContainerResponse, DnsConfig, Device, ExecRequest,
    ExecResponse, ExecSyncRequest, ExecSyncResponse, FilesystemIdentifier, FilesystemUsage,
    GetEventsRequest, HugepageLimit, IdMapping, Image, ImageFilter, ImageFsInfoRequest,
    ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value,
    KeyValue, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxContainerUser, LinuxPodSandboxConfig, LinuxPodSandboxStats, LinuxPodSandboxStatus,
    LinuxRuntimeConfiguration, LinuxSandboxSecurityContext, ListContainerStatsRequest,
    ListContainerStatsResponse, ListContainersRequest, ListContainersResponse,
    ListImagesRequest, ListImagesResponse, ListMetricDescriptorsRequest,
    ListMetricDescriptorsResponse, ListPodSandboxMetricsRequest,
    ListPodSandboxMetricsResponse, ListPodSandboxRequest, ListPodSandboxResponse,
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, MemoryUsage, Metric,
    MetricDescriptor, Mount, Namespace, NamespaceOption, NetworkConfig,
    NetworkInterfaceUsage, NetworkUsage, PodIp, PodSandbox, PodSandboxAttributes,
    PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxMetrics,
    PodSandboxNetworkStatus, PodSandboxStateValue, PodSandboxStats, PodSandboxStatsFilter,
    PodSandboxStatsRequest, PodSandboxStatsResponse, PodSandboxStatus,
    PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
    PortForwardResponse, PortMapping, ProcessUsage, PullImageRequest, PullImageResponse,
    RemoveContainerRequest, RemoveContainerResponse, RemoveImageRequest,
    RemoveImageResponse, RemovePodSandboxRequest, RemovePodSandboxResponse,
    ReopenContainerLogRequest, ReopenContainerLogResponse, RunPodSandboxRequest,
    RunPodSandboxResponse, RuntimeCondition, RuntimeConfig, RuntimeConfigRequest,
    RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures,
    RuntimeStatus, SeLinuxOption, SecurityProfile, StartContainerRequest,
    StartContainerResponse, StatusRequest, StatusResponse, StopContainerRequest,
    StopContainerResponse, StopPodSandboxRequest, StopPodSandboxResponse, SwapUsage,
    UInt64Value, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
    UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse, UserNamespace, VersionRequest,
    VersionResponse, WindowsContainerConfig, WindowsContainerResources,
    WindowsContainerSecurityContext, WindowsContainerStats, WindowsCpuGroupAffinity,
    WindowsCpuUsage, WindowsFilesystemUsage, WindowsMemoryUsage, WindowsNamespaceOption,
    WindowsNetworkInterfaceUsage, WindowsNetworkUsage, WindowsPodSandboxConfig,
    WindowsPodSandboxStats, WindowsProcessUsage, WindowsSandboxSecurityContext
];

/// What Kubernetes 1.36 has and `k8s-cri` 0.11 has not.
const NEW_MESSAGES: [&str; 17] = [
    "IoUsage",
    "PsiData",
    "PsiStats",
    "StreamContainerStatsRequest",
    "StreamContainerStatsResponse",
    "StreamContainersRequest",
    "StreamContainersResponse",
    "StreamImagesRequest",
    "StreamImagesResponse",
    "StreamPodSandboxMetricsRequest",
    "StreamPodSandboxMetricsResponse",
    "StreamPodSandboxStatsRequest",
    "StreamPodSandboxStatsResponse",
    "StreamPodSandboxesRequest",
    "StreamPodSandboxesResponse",
    "UpdatePodSandboxResourcesRequest",
    "UpdatePodSandboxResourcesResponse",
];

const NEW_FIELDS: [&str; 9] = [
    "ContainerConfig.stop_signal",
    "ContainerStats.io",
    "ContainerStatus.stop_signal",
    "CpuUsage.psi",
    "ImageSpec.image_ref",
    "LinuxPodSandboxStats.io",
    "MemoryUsage.psi",
    "Mount.image_sub_path",
    "RuntimeFeatures.user_namespaces_host_network",
];

const NEW_CALLS: [&str; 7] = [
    "/runtime.v1.ImageService/StreamImages",
    "/runtime.v1.RuntimeService/StreamContainerStats",
    "/runtime.v1.RuntimeService/StreamContainers",
    "/runtime.v1.RuntimeService/StreamPodSandboxMetrics",
    "/runtime.v1.RuntimeService/StreamPodSandboxStats",
    "/runtime.v1.RuntimeService/StreamPodSandboxes",
    "/runtime.v1.RuntimeService/UpdatePodSandboxResources",
];

fn pool() -> DescriptorPool {
    DescriptorPool::decode(cri_api::FILE_DESCRIPTOR_SET).unwrap()
}

fn messages() -> Vec<MessageDescriptor> {
    pool()
        .all_messages()
        .filter(|message| message.package_name() == "runtime.v1" && !message.is_map_entry())
        .collect()
}

/// The Rust name of a message differs from the interface's in the case of acronyms only.
fn known(message: &MessageDescriptor) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(message.name()))
}

/// A message with every field set to something that is not its default.
fn filled(descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let value = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = sample(&entry.map_entry_value_field());
                Value::Map(HashMap::from([(MapKey::String("key".into()), value)]))
            }
            _ if field.cardinality() == Cardinality::Repeated => {
                Value::List(vec![sample(&field), sample(&field)])
            }
            _ => sample(&field),
        };
        message.set_field(&field, value);
    }
    message
}

fn sample(field: &FieldDescriptor) -> Value {
    let number = field.number();
    match field.kind() {
        Kind::Message(message) => Value::Message(filled(&message)),
        Kind::Enum(values) => Value::EnumNumber(values.values().last().unwrap().number()),
        Kind::String => Value::String(field.full_name().into()),
        // `k8s-cri` still has a string in the one field of this type.
        Kind::Bytes => Value::Bytes(field.full_name().as_bytes().to_vec().into()),
        Kind::Bool => Value::Bool(true),
        Kind::Int32 => Value::I32(-1 - i32::try_from(number).unwrap()),
        Kind::Int64 => Value::I64(i64::MIN + i64::from(number)),
        Kind::Uint32 => Value::U32(u32::MAX - number),
        Kind::Uint64 => Value::U64(u64::MAX - u64::from(number)),
        Kind::Double => Value::F64(f64::from(number) + 0.5),
        other => panic!("{}: the interface has no {other:?} so far", field.full_name()),
    }
}

/// Takes out what `k8s-cri` cannot know, all the way down.
fn without_new_fields(message: &mut DynamicMessage) {
    for field in message.descriptor().fields() {
        let name = format!("{}.{}", field.parent_message().name(), field.name());
        if NEW_FIELDS.contains(&name.as_str()) {
            message.clear_field(&field);
        } else {
            match message.get_field_mut(&field) {
                Value::Message(inner) => without_new_fields(inner),
                Value::List(items) => {
                    items.iter_mut().filter_map(Value::as_message_mut).for_each(without_new_fields)
                }
                _ => {}
            }
        }
    }
}

#[test]
fn both_sides_read_each_others_messages() {
    for descriptor in messages() {
        let Some(known) = known(&descriptor) else { continue };
        let mut message = filled(&descriptor);
        let everything = message.encode_to_vec();
        assert_eq!((known.through_ours)(&everything).unwrap(), everything, "{}", known.name);

        without_new_fields(&mut message);
        let shared = message.encode_to_vec();
        assert_eq!((known.through_theirs)(&shared).unwrap(), shared, "{} to theirs", known.name);
        assert_eq!((known.through_ours)(&shared).unwrap(), shared, "{} to ours", known.name);
    }
}

#[test]
fn the_known_differences_are_all_there_are() {
    let ours = messages();
    assert_eq!(ours.iter().filter(|message| known(message).is_some()).count(), KNOWN.len());

    let new: BTreeSet<_> =
        ours.iter().filter(|message| known(message).is_none()).map(|m| m.name()).collect();
    assert_eq!(new, BTreeSet::from(NEW_MESSAGES), "messages");

    let mut lost = BTreeSet::new();
    for descriptor in &ours {
        let Some(known) = known(descriptor) else { continue };
        let relayed = (known.through_theirs)(&filled(descriptor).encode_to_vec()).unwrap();
        let relayed = DynamicMessage::decode(descriptor.clone(), relayed.as_slice()).unwrap();
        lost.extend(
            descriptor
                .fields()
                .filter(|field| !relayed.has_field(field))
                .map(|field| format!("{}.{}", descriptor.name(), field.name())),
        );
    }
    assert_eq!(lost, BTreeSet::from(NEW_FIELDS.map(String::from)), "fields");
}

/// Full paths of all calls of package `runtime.v1`.
fn our_calls() -> BTreeSet<String> {
    pool()
        .services()
        .filter(|service| service.package_name() == "runtime.v1")
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
        .collect()
}

#[test]
fn the_interface_has_35_runtime_and_6_image_calls() {
    let count = |service| pool().get_service_by_name(service).unwrap().methods().count();
    assert_eq!(count("runtime.v1.RuntimeService"), 35);
    assert_eq!(count("runtime.v1.ImageService"), 6);
}

macro_rules! call_each {
    ($client:expr, $($call:ident($request:ident)),+ $(,)?) => {
        $($client.$call(theirs::$request::default()).await.expect_err("the transport refuses");)+
    };
}

/// `k8s-cri` has no descriptors to compare with, so its client makes each call it knows, on a transport that
/// writes down the path.
#[tokio::test]
async fn calls_have_the_same_paths() {
    let paths = Arc::new(Mutex::new(BTreeSet::new()));
    let transport = {
        let paths = Arc::clone(&paths);
        tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            paths.lock().unwrap().insert(request.uri().path().to_owned());
            std::future::ready(Err::<http::Response<tonic::body::Body>, _>(io::Error::other("no")))
        })
    };

    let mut runtime = theirs::runtime_service_client::RuntimeServiceClient::new(transport.clone());
    #[rustfmt::skip]
    call_each!(
        runtime,
        version(VersionRequest), run_pod_sandbox(RunPodSandboxRequest),
        stop_pod_sandbox(StopPodSandboxRequest),
        remove_pod_sandbox(RemovePodSandboxRequest),
        pod_sandbox_status(PodSandboxStatusRequest),
        list_pod_sandbox(ListPodSandboxRequest), create_container(CreateContainerRequest),
        start_container(StartContainerRequest), stop_container(StopContainerRequest),
        remove_container(RemoveContainerRequest), list_containers(ListContainersRequest),
        container_status(ContainerStatusRequest),
        update_container_resources(UpdateContainerResourcesRequest),
        reopen_container_log(ReopenContainerLogRequest), exec_sync(ExecSyncRequest),
        exec(ExecRequest), attach(AttachRequest), port_forward(PortForwardRequest),
        container_stats(ContainerStatsRequest),
        list_container_stats(ListContainerStatsRequest),
        pod_sandbox_stats(PodSandboxStatsRequest),
        list_pod_sandbox_stats(ListPodSandboxStatsRequest),
        update_runtime_config(UpdateRuntimeConfigRequest), status(StatusRequest),
        checkpoint_container(CheckpointContainerRequest),
        get_container_events(GetEventsRequest),
        list_metric_descriptors(ListMetricDescriptorsRequest),
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest),
        runtime_config(RuntimeConfigRequest),
    );
    let mut images = theirs::image_service_client::ImageServiceClient::new(transport);
    #[rustfmt::skip]
    call_each!(
        images,
        list_images(ListImagesRequest), image_status(ImageStatusRequest),
        pull_image(PullImageRequest), remove_image(RemoveImageRequest),
        image_fs_info(ImageFsInfoRequest),
    );

    let theirs = paths.lock().unwrap().clone();
    let ours = our_calls();
    let new: BTreeSet<_> = ours.difference(&theirs).map(String::as_str).collect();
    assert_eq!(theirs.difference(&ours).collect::<Vec<_>>(), Vec::<&String>::new(), "unknown here");
    assert_eq!(new, BTreeSet::from(NEW_CALLS), "unknown there");
}
