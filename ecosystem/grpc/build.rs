//! Generates the service and its client, as `tonic-prost-build` does from a `.proto`, without
//! `protoc`.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let update = Method::builder()
        .name("update")
        .route_name("Update")
        .input_type("crate::UpdateRequest")
        .output_type("crate::UpdateReply")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let documents =
        Service::builder().package("documents").name("Documents").method(update).build();
    Builder::new().build_transport(false).compile(&[documents]);
}
