//! How long creating and entering a container takes: `MEASURE=50`, with the release profile.

use std::time::Instant;

use runtime::start::ExecStatus;

use crate::{fixture::Recipe, node::Node};

pub(crate) fn run(node: &Node, count: usize) {
    let (mut create, mut whole, mut exec) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..count {
        let recipe = Recipe::new(node, &format!("c{round}"), &["/bin/true"]);
        let begin = Instant::now();
        let mut container = recipe.create();
        create.push(begin.elapsed().as_micros());
        assert_eq!(container.start(), ExecStatus::Running);
        container.finish();
        drop(container);
        whole.push(begin.elapsed().as_micros());
    }
    let mut container = Recipe::new(node, "target", &["/bin/sleep", "1000"]).create();
    assert_eq!(container.start(), ExecStatus::Running);
    for _ in 0..count {
        let begin = Instant::now();
        container.exec(&["/bin/true"]);
        exec.push(begin.elapsed().as_micros());
    }
    report("create", create);
    report("create, start, wait, remove", whole);
    report("exec and wait", exec);
}

fn report(what: &str, mut micros: Vec<u128>) {
    micros.sort_unstable();
    let at = |percent: usize| micros[(micros.len() - 1) * percent / 100];
    println!("{what}: median {} us, min {} us, p90 {} us", at(50), at(0), at(90));
}
