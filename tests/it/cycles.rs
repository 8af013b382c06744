//! Many pods, one after the other, some of whose containers are killed: nothing may add up.

use it::{Outcome, Scenario};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{Options, pod};

it::tests!("cycles": nothing_is_left_after_many_pods_with_random_kills);

const CYCLES: u32 = 200;
/// A descriptor per connection and the runtime's own may come and go; one per pod may not.
const DESCRIPTORS_MAY_DIFFER_BY: usize = 10;

/// `USNEA_TEST_CYCLES` shortens a quick run.
fn cycles() -> u32 {
    let wanted = std::env::var("USNEA_TEST_CYCLES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(CYCLES)
}

/// Numbers without pattern, the same in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `limit`. (xorshift64)
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

async fn nothing_is_left_after_many_pods_with_random_kills(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let mut random = Random::new(0x75_73_6e_65_61);
    cycle(t, 0, &mut random).await;
    let before = t.instance().daemon().descriptors().len();
    for number in 1..=cycles() {
        cycle(t, number, &mut random).await;
    }
    let after = t.instance().daemon().descriptors().len();
    assert!(after <= before + DESCRIPTORS_MAY_DIFFER_BY, "descriptors: {before}, then {after}");
    assert_eq!(t.pods().await, []);
    Ok(())
}

async fn cycle(t: &mut Scenario, number: u32, random: &mut Random) {
    let pod = t.run(pod("pod").attempt(number)).await;
    let id = t.launch(&pod, t.sleeper("a")).await;
    match random.below(4) {
        0 => kill_from_outside(t, &id).await,
        1 => {
            // While it is being killed, asking and stopping must work.
            kill_from_outside(t, &id).await;
            t.status(&id).await;
            t.stop(&id, 0).await;
        }
        2 => t.stop(&id, 0).await,
        _ => {}
    }
    if random.below(2) == 0 {
        t.remove(&id).await;
    }
    t.stop_pod(&pod).await;
    t.remove_pod(&pod).await;
}

async fn kill_from_outside(t: &Scenario, id: &str) {
    match kill(Pid::from_raw(t.pid(id).await), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("kill: {errno}"),
    }
}
