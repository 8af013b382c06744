//! Writes what the targets begin with to `corpus/<target>/`.

use std::fs;
use std::path::Path;

#[path = "bodies.rs"]
#[allow(dead_code, reason = "only the seeds are used")]
mod bodies;

fn main() -> std::io::Result<()> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in bodies::seeds() {
        let corpus = corpora.join(target);
        fs::create_dir_all(&corpus)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(corpus.join(number.to_string()), seed)?;
        }
    }
    Ok(())
}
