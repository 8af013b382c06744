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
    call::{Reply, shown, to_its_end, while_wanted},
    deadline, images,
    paging::Pages,
    service::Cri,
};

#[tonic::async_trait]
impl ImageService for Cri {
    type StreamImagesStream = Pages<StreamImagesResponse>;

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
        let span = debug_span!("ListImages");
        let list = images::list(self.clone(), request.into_inner().filter);
        while_wanted("ListImages", span, list).await
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        let span = debug_span!("StreamImages");
        let stream = images::stream(self.clone(), request.into_inner().filter);
        while_wanted("StreamImages", span, stream).await
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Reply<ImageStatusResponse> {
        let request = request.into_inner();
        let image_ref = request.image.as_ref().map_or("", |spec| shown(&spec.image));
        let span = debug_span!("ImageStatus", image_ref);
        while_wanted("ImageStatus", span, images::status(self.clone(), request)).await
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Reply<PullImageResponse> {
        let deadline = deadline::of(request.metadata());
        let request = request.into_inner();
        let image_ref = request.image.as_ref().map_or("", |spec| shown(&spec.image));
        let span = info_span!("PullImage", image_ref);
        // A pull that others wait for goes on.
        let pull = deadline::within("PullImage", deadline, images::pull(self.clone(), request));
        while_wanted("PullImage", span, pull).await
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
