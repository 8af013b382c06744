//! Calls about images.

use std::collections::HashMap;

use cri_api::v1 as cri;
use engine::EngineError;

use crate::{clock::now, convert::image, filter, paging, service::Cri, status::CallError};

/// `ListImages`
pub(crate) async fn list(
    cri: Cri,
    filter: Option<cri::ImageFilter>,
) -> Result<cri::ListImagesResponse, CallError> {
    let list = cri::ListImagesResponse { images: selected(&cri, filter).await? };
    paging::one_message("ListImages", "StreamImages", list)
}

/// `StreamImages`
pub(crate) async fn stream(
    cri: Cri,
    filter: Option<cri::ImageFilter>,
) -> Result<paging::Pages<cri::StreamImagesResponse>, CallError> {
    Ok(paging::pages(selected(&cri, filter).await?, |images| cri::StreamImagesResponse { images }))
}

/// `ImageStatus`. An absent image is an empty answer.
pub(crate) async fn status(
    cri: Cri,
    request: cri::ImageStatusRequest,
) -> Result<cri::ImageStatusResponse, CallError> {
    let found = cri.engine.image(&image::reference(request.image)?).await?;
    let info = found.as_ref().filter(|_| request.verbose).map_or_else(HashMap::new, image::info);
    Ok(cri::ImageStatusResponse { image: found.as_ref().map(image::to_cri), info })
}

/// `PullImage`
pub(crate) async fn pull(
    cri: Cri,
    request: cri::PullImageRequest,
) -> Result<cri::PullImageResponse, CallError> {
    let reference = image::reference(request.image)?;
    let credentials = image::credentials(request.auth, &reference)?;
    let image_ref = cri.engine.pull_image(&reference, credentials).await?;
    Ok(cri::PullImageResponse { image_ref })
}

/// `RemoveImage`
pub(crate) async fn remove(
    cri: Cri,
    request: cri::RemoveImageRequest,
) -> Result<cri::RemoveImageResponse, CallError> {
    cri.engine.remove_image(&image::reference(request.image)?).await?;
    Ok(cri::RemoveImageResponse {})
}

/// `ImageFsInfo`
pub(crate) async fn fs_info(cri: Cri) -> Result<cri::ImageFsInfoResponse, CallError> {
    let usage = cri.engine.image_usage().await?;
    let containers = cri.engine.writable_layers_usage().await;
    Ok(image::fs_info(&usage, &containers, now()))
}

async fn selected(
    cri: &Cri,
    filter: Option<cri::ImageFilter>,
) -> Result<Vec<cri::Image>, CallError> {
    let text = filter.and_then(|filter| filter.image).unwrap_or_default().image;
    let named = named(cri, &text).await?;
    let select = filter::images(&text, named.as_deref());
    Ok(cri.engine.images().await?.iter().map(image::to_cri).filter(select).collect())
}

/// The id of the image that a filter's text names. A text that is no reference selects nothing; it is no error.
async fn named(cri: &Cri, text: &str) -> Result<Option<String>, CallError> {
    if text.is_empty() {
        return Ok(None);
    }
    match cri.engine.image(text).await {
        Ok(image) => Ok(image.map(|image| image.id.to_string())),
        Err(EngineError::Invalid(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
