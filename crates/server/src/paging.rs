//! Lists in one message or in several.

use prost::Message;
use tonic::Status;

use crate::status::CallError;

/// Most that a client of the CRI takes in one message.
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;
/// Most that one message of a stream carries, unless a single item is larger.
const PAGE_BYTES: usize = 1 << 20;
/// Most that the number and length before an item take.
const ITEM_HEADER_BYTES: usize = 6;

/// Messages of a stream, ready to be sent.
pub(crate) type Pages<M> = tokio_stream::Iter<std::vec::IntoIter<Result<M, Status>>>;

/// Passes on the answer to `rpc` if a client can take it.
///
/// # Errors
/// [`CallError::TooLarge`], which names the RPC that gives the same as a `stream`.
pub(crate) fn one_message<M: Message>(
    rpc: &'static str,
    stream: &'static str,
    message: M,
) -> Result<M, CallError> {
    let bytes = message.encoded_len();
    if bytes > MESSAGE_BYTES {
        return Err(CallError::TooLarge { rpc, stream, bytes });
    }
    Ok(message)
}

/// Sends every item once, in messages of at least one item and at most 1 MiB if the items allow. Nothing to send is an
/// empty stream.
pub(crate) fn pages<T: Message, M>(items: Vec<T>, message: impl Fn(Vec<T>) -> M) -> Pages<M> {
    let mut pages = Vec::new();
    let (mut page, mut bytes) = (Vec::new(), 0);
    for item in items {
        let item_bytes = item.encoded_len() + ITEM_HEADER_BYTES;
        if !page.is_empty() && bytes + item_bytes > PAGE_BYTES {
            pages.push(Ok(message(std::mem::take(&mut page))));
            bytes = 0;
        }
        bytes += item_bytes;
        page.push(item);
    }
    if !page.is_empty() {
        pages.push(Ok(message(page)));
    }
    tokio_stream::iter(pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::v1 as cri;
    use tokio_stream::StreamExt;

    fn image(id: usize, id_bytes: usize) -> cri::Image {
        cri::Image { id: format!("{id}-{}", "x".repeat(id_bytes)), ..Default::default() }
    }

    async fn sent(images: Vec<cri::Image>) -> Vec<cri::StreamImagesResponse> {
        pages(images, |images| cri::StreamImagesResponse { images })
            .map(|page| page.expect("a page"))
            .collect()
            .await
    }

    /// C21
    #[tokio::test]
    async fn nothing_is_an_empty_stream() {
        assert_eq!(sent(Vec::new()).await, []);
    }

    /// C22
    #[tokio::test]
    async fn every_item_is_sent_once_in_order_and_in_small_messages() {
        let images: Vec<_> = (0..1000).map(|id| image(id, 10_000)).collect();
        let sent = sent(images.clone()).await;
        assert!(sent.len() > 9, "{} messages", sent.len());
        assert!(
            sent.iter().all(|page| page.encoded_len() <= PAGE_BYTES && !page.images.is_empty())
        );
        assert_eq!(sent.into_iter().flat_map(|page| page.images).collect::<Vec<_>>(), images);
    }

    #[tokio::test]
    async fn an_item_that_is_too_large_goes_alone() {
        let images = vec![image(1, 9), image(2, PAGE_BYTES + 1), image(3, 9)];
        let lengths: Vec<_> = sent(images).await.iter().map(|page| page.images.len()).collect();
        assert_eq!(lengths, [1, 1, 1]);
    }

    /// C23
    #[test]
    fn a_list_that_no_client_takes_is_refused() {
        let list = |count| cri::ListImagesResponse {
            images: (0..count).map(|id| image(id, 1 << 20)).collect(),
        };
        one_message("ListImages", "StreamImages", list(15)).expect("fits");
        let error = one_message("ListImages", "StreamImages", list(16)).expect_err("too large");
        assert!(error.to_string().contains("StreamImages"), "{error}");
    }
}
