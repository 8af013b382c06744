//! [`ContainerStats`] → CRI `ContainerStats`. What was not measured is unset: clients would believe a 0.

use cri_api::v1 as cri;
use engine::{
    CgroupUsage, ContainerStats, CpuUsage, LayerUsage, MemoryUsage, Pressure, Stall, SwapUsage,
};
use model::{ContainerRecord, UnixNanos};

use super::{container_status::metadata, unsorted};

/// Shows what a container uses.
pub(crate) fn to_cri(stats: &ContainerStats) -> cri::ContainerStats {
    let cgroup = stats.cgroup.as_ref();
    cri::ContainerStats {
        attributes: Some(attributes(&stats.record)),
        cpu: cgroup.map(|usage| cpu(usage.at, &usage.cpu)),
        memory: cgroup.map(|usage| memory(usage.at, &usage.memory)),
        writable_layer: stats.writable_layer.as_ref().map(writable_layer),
        swap: cgroup.and_then(|usage| swap(usage.at, &usage.swap)),
        io: cgroup.and_then(io),
    }
}

fn attributes(record: &ContainerRecord) -> cri::ContainerAttributes {
    cri::ContainerAttributes {
        id: record.id.to_string(),
        metadata: Some(metadata(record)),
        labels: unsorted(&record.config.labels),
        annotations: unsorted(&record.config.annotations),
    }
}

fn cpu(at: UnixNanos, usage: &CpuUsage) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: at.0,
        usage_core_nano_seconds: number(Some(usage.core_nanos)),
        usage_nano_cores: number(usage.nano_cores),
        psi: usage.pressure.as_ref().map(psi),
    }
}

fn memory(at: UnixNanos, usage: &MemoryUsage) -> cri::MemoryUsage {
    cri::MemoryUsage {
        timestamp: at.0,
        working_set_bytes: number(usage.working_set_bytes),
        available_bytes: number(usage.available_bytes),
        usage_bytes: number(usage.usage_bytes),
        rss_bytes: number(usage.rss_bytes),
        page_faults: number(usage.page_faults),
        major_page_faults: number(usage.major_page_faults),
        psi: usage.pressure.as_ref().map(psi),
    }
}

/// A kernel without swap accounting has nothing to say.
fn swap(at: UnixNanos, usage: &SwapUsage) -> Option<cri::SwapUsage> {
    usage.usage_bytes.is_some().then(|| cri::SwapUsage {
        timestamp: at.0,
        swap_available_bytes: number(usage.available_bytes),
        swap_usage_bytes: number(usage.usage_bytes),
    })
}

fn io(usage: &CgroupUsage) -> Option<cri::IoUsage> {
    let pressure = usage.io_pressure.as_ref()?;
    Some(cri::IoUsage { timestamp: usage.at.0, psi: Some(psi(pressure)) })
}

fn writable_layer(usage: &LayerUsage) -> cri::FilesystemUsage {
    let mountpoint = usage.mountpoint.display().to_string();
    cri::FilesystemUsage {
        timestamp: usage.at.0,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
        used_bytes: number(Some(usage.bytes)),
        inodes_used: number(Some(usage.inodes)),
    }
}

fn psi(pressure: &Pressure) -> cri::PsiStats {
    cri::PsiStats {
        full: pressure.full.as_ref().map(psi_data),
        some: pressure.some.as_ref().map(psi_data),
    }
}

fn psi_data(stall: &Stall) -> cri::PsiData {
    let Stall { total_nanos: total, avg10, avg60, avg300 } = *stall;
    cri::PsiData { total, avg10, avg60, avg300 }
}

fn number(value: Option<u64>) -> Option<cri::UInt64Value> {
    value.map(|value| cri::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use model::ContainerState;

    fn stats(cgroup: Option<CgroupUsage>, writable_layer: Option<LayerUsage>) -> ContainerStats {
        let running = ContainerState::Running { started_at: UnixNanos(9) };
        let record = fixtures::container(3, 1, running).record;
        ContainerStats { record, cgroup, writable_layer }
    }

    fn cgroup() -> CgroupUsage {
        CgroupUsage {
            at: UnixNanos(7),
            cpu: CpuUsage { core_nanos: 1000, nano_cores: None, pressure: None },
            memory: MemoryUsage::default(),
            swap: SwapUsage::default(),
            io_pressure: None,
        }
    }

    #[test]
    fn attributes_are_those_of_the_container() {
        let shown = to_cri(&stats(None, None));
        let attributes = shown.attributes.expect("attributes");
        assert_eq!(attributes.id, "03".repeat(32));
        assert_eq!(attributes.metadata.expect("metadata").name, "main");
        assert_eq!(attributes.labels, [("app".to_owned(), "web".to_owned())].into());
        assert_eq!((shown.cpu, shown.memory, shown.writable_layer), (None, None, None));
    }

    #[test]
    fn without_controllers_there_is_cpu_time_and_nothing_is_made_up() {
        let shown = to_cri(&stats(Some(cgroup()), None));
        let usage_core_nano_seconds = Some(cri::UInt64Value { value: 1000 });
        let cpu = cri::CpuUsage { timestamp: 7, usage_core_nano_seconds, ..Default::default() };
        assert_eq!(shown.cpu, Some(cpu));
        assert_eq!(shown.memory, Some(cri::MemoryUsage { timestamp: 7, ..Default::default() }));
        assert_eq!((shown.swap, shown.io), (None, None));
    }

    #[test]
    fn each_pressure_goes_to_its_own_field() {
        let stall = |total_nanos| Stall { total_nanos, avg10: 1.0, avg60: 2.0, avg300: 3.0 };
        let pressure = |n| Some(Pressure { some: Some(stall(n)), full: Some(stall(n + 1)) });
        let mut usage = cgroup();
        usage.cpu.pressure = pressure(10);
        usage.memory.pressure = pressure(20);
        usage.io_pressure = pressure(30);
        let shown = to_cri(&stats(Some(usage), None));
        let psi = |total| {
            let data = |total| cri::PsiData { total, avg10: 1.0, avg60: 2.0, avg300: 3.0 };
            Some(cri::PsiStats { some: Some(data(total)), full: Some(data(total + 1)) })
        };
        assert_eq!(shown.cpu.expect("cpu").psi, psi(10));
        assert_eq!(shown.memory.expect("memory").psi, psi(20));
        assert_eq!(shown.io, Some(cri::IoUsage { timestamp: 7, psi: psi(30) }));
    }

    #[test]
    fn the_writable_layer_tells_when_it_was_measured() {
        let usage =
            LayerUsage { at: UnixNanos(5), bytes: 4096, inodes: 0, mountpoint: "/data".into() };
        let shown = to_cri(&stats(Some(cgroup()), Some(usage))).writable_layer.expect("a layer");
        assert_eq!(shown.timestamp, 5);
        assert_eq!(shown.fs_id.expect("a file system").mountpoint, "/data");
        assert_eq!(shown.used_bytes, Some(cri::UInt64Value { value: 4096 }));
        assert_eq!(shown.inodes_used, Some(cri::UInt64Value { value: 0 }));
    }
}
