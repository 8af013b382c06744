//! Debian's registry, which speaks HTTP/2 where TLS is.

use testkit::docker_registry::{Access, DockerRegistry, Format, PASSWORD, USER};

use super::*;

const LAYERS: usize = 4;
/// Together more than the windows of HTTP/2 hold.
const LAYER_BYTES: usize = 3 << 19;

#[tokio::test]
async fn layers_arrive_side_by_side_over_http_2() {
    let registry = match DockerRegistry::start(Access { password: true, tls: true }) {
        Ok(registry) => registry,
        Err(skip) => return println!("skipped: {}", skip.0),
    };
    let image = (0..LAYERS).fold(ImageBuilder::empty(), |image, number| {
        let name = format!("layer-{number}");
        image.layer(Layer::default().file(&name, 0o644, &bytes(LAYER_BYTES + number)))
    });
    registry.push_as(Format::Docker, &image, "app:1");
    let ca_files = vec![registry.authority()];
    let settings = RegistrySettings { ca_files, ..Default::default() };
    let registries = [(registry.domain().to_owned(), settings)].into();
    let client = Client::new(ClientConfig { registries, ..config() }).unwrap();
    let login = Credentials::Basic { username: USER.to_owned(), password: PASSWORD.to_owned() };
    let reference = registry.reference("app:1").parse().unwrap();
    let repository = client.repository(&reference, Some(login));
    let manifest: serde_json::Value =
        serde_json::from_slice(&fetch(&repository).await.unwrap()).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| {
        let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
        (digest, layer["size"].as_u64().unwrap())
    });
    let mut fetched = tokio::task::JoinSet::new();
    for (digest, size) in layers {
        let repository = repository.clone();
        fetched.spawn(async move {
            assert_eq!(Digest::of(&read(&repository, &digest, size).await.unwrap()), digest);
        });
    }
    assert_eq!(fetched.join_all().await.len(), LAYERS);
    let log = registry.log();
    let blobs: Vec<_> = log.lines().filter(|line| line.contains("GET /v2/app/blobs/")).collect();
    let ours = blobs.iter().filter(|line| line.contains("HTTP/2.0") && line.contains("usnea"));
    assert_eq!(ours.count(), LAYERS, "{blobs:#?}");
}
