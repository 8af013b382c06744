//! `PullImage` and what comes of it: from Debian's docker-registry, and from servers that do not behave.

mod auth;
mod faults;
mod hostile;
mod joined;
mod killed;
mod lifetime;
mod mirrors;
mod names;
mod support;

pub(crate) fn tests() -> Vec<it::Test> {
    let modules = [
        auth::tests(),
        faults::tests(),
        hostile::tests(),
        joined::tests(),
        killed::tests(),
        lifetime::tests(),
        mirrors::tests(),
        names::tests(),
    ];
    modules.into_iter().flatten().collect()
}
