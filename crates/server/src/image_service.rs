//! CRI `ImageService`, call by call.

use cri_api::v1::{
    ImageFsInfoRequest, ImageFsInfoResponse, ImageStatusRequest, ImageStatusResponse,
    ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest,
    RemoveImageResponse, StreamImagesRequest, StreamImagesResponse,
    image_service_server::ImageService,
};
use tonic::Request;
use tracing::{debug_span, info_span};

use crate::{
    call::{Reply, at_once, shown, to_its_end, while_wanted},
    images,
    paging::Pages,
    service::Cri,
    unsupported::unsupported,
};

#[tonic::async_trait]
impl ImageService for Cri {
    type StreamImagesStream = Pages<StreamImagesResponse>;

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
        let span = debug_span!("ListImages");
        at_once("ListImages", &span, || images::list(self, request.into_inner().filter))
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        let span = debug_span!("StreamImages");
        at_once("StreamImages", &span, || images::stream(self, request.into_inner().filter))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Reply<ImageStatusResponse> {
        let request = request.into_inner();
        let image_ref = request.image.as_ref().map_or("", |spec| shown(&spec.image));
        let span = debug_span!("ImageStatus", image_ref);
        at_once("ImageStatus", &span, || images::status(self, request))
    }

    async fn pull_image(&self, _: Request<PullImageRequest>) -> Reply<PullImageResponse> {
        Err(unsupported("PullImage"))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Reply<RemoveImageResponse> {
        let request = request.into_inner();
        let image_ref = request.image.as_ref().map_or("", |spec| shown(&spec.image));
        let span = info_span!("RemoveImage", image_ref);
        to_its_end("RemoveImage", span, images::remove(self.clone(), request)).await
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Reply<ImageFsInfoResponse> {
        let span = debug_span!("ImageFsInfo");
        while_wanted("ImageFsInfo", span, images::fs_info(self.clone())).await
    }
}
