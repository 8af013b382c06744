//! Compares `proto/runtime/v1/api.proto` with the facts about CRI v1 in `vendor/cri/fields.tsv`.
#![expect(clippy::expect_used, reason = "a test stops at the first thing that does not hold")]
#![expect(clippy::tests_outside_test_module, reason = "the whole crate is a test")]

use std::collections::BTreeMap;
use std::fmt::Write;

use protox::prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor,
};

const FACTS: &str = include_str!("../../../../vendor/cri/fields.tsv");
const PROTO_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/runtime/v1");
const PACKAGE: &str = "runtime.v1.";

#[test]
fn api_proto_declares_exactly_what_cri_v1_does() {
    let facts = FACTS.lines().map(str::to_owned).collect::<Vec<_>>();
    let declared = rendered_proto();

    let drift = drift(&facts, &declared);
    assert!(drift.is_empty(), "api.proto differs from fields.tsv:\n{drift}");

    let count =
        |kind: &str| declared.iter().filter(|row| row.split('\t').next() == Some(kind)).count();
    assert_eq!((count("message"), count("field")), (175, 478));
    assert_eq!((count("enum"), count("rpc")), (95, 43));
}

#[test]
fn drift_names_rows_that_are_missing_extra_or_changed() {
    let row = |text: &str| text.replace(' ', "\t");
    let facts =
        [row("message A"), row("field A id 1 string"), row("field A old 2 bool deprecated")];

    assert_eq!(drift(&facts, &facts), "");
    assert_eq!(drift(&facts, &facts[1..]), "missing: message A\n");
    assert_eq!(drift(&facts[..2], &facts), "extra:   field A old 2 bool deprecated\n");
    let renumbered = [facts[0].clone(), row("field A id 3 string"), row("field A old 2 bool")];
    assert_eq!(
        drift(&facts, &renumbered),
        "changed: field A id: 1 string -> 3 string\n\
         changed: field A old: 2 bool deprecated -> 2 bool\n"
    );
}

/// One line per row that only one side has or that both have with different content; empty when
/// the two agree. The order of the rows does not matter.
fn drift(facts: &[String], declared: &[String]) -> String {
    let (facts, declared) = (by_name(facts), by_name(declared));
    let mut report = String::new();
    for (name, fact) in &facts {
        match declared.get(name) {
            None => writeln!(report, "missing: {}", format!("{name} {fact}").trim_end()),
            Some(found) if found != fact => writeln!(report, "changed: {name}: {fact} -> {found}"),
            Some(_) => Ok(()),
        }
        .expect("a String takes everything");
    }
    for (name, found) in declared.iter().filter(|(name, _)| !facts.contains_key(*name)) {
        writeln!(report, "extra:   {}", format!("{name} {found}").trim_end())
            .expect("a String takes everything");
    }
    report
}

/// Splits rows into what names them (kind, owner, member) and the rest.
fn by_name(rows: &[String]) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    for row in rows {
        let columns = row.split('\t').collect::<Vec<_>>();
        let (name, rest) = columns.split_at(columns.len().min(3));
        let earlier = named.insert(name.join(" "), rest.join(" "));
        assert_eq!(earlier, None, "two rows for {name:?}");
    }
    named
}

/// Renders `api.proto` as rows of `fields.tsv`.
fn rendered_proto() -> Vec<String> {
    let files = protox::compile(["api.proto"], [PROTO_DIR]).expect("api.proto compiles");
    let pool = DescriptorPool::from_file_descriptor_set(files).expect("descriptors are complete");
    let messages = || pool.all_messages().filter(|message| !message.is_map_entry());
    messages()
        .map(|message| format!("message\t{}", message_name(&message)))
        .chain(
            messages()
                .flat_map(|message| message.fields().map(|f| field_row(&f)).collect::<Vec<_>>()),
        )
        .chain(pool.all_enums().flat_map(|e| enum_rows(&e)))
        .chain(pool.services().flat_map(|service| rpc_rows(&service)))
        .collect()
}

fn field_row(field: &FieldDescriptor) -> String {
    let owner = message_name(field.parent_message());
    let deprecated =
        field.field_descriptor_proto().options.as_ref().is_some_and(|o| o.deprecated());
    let suffix = if deprecated { "\tdeprecated" } else { "" };
    format!("field\t{owner}\t{}\t{}\t{}{suffix}", field.name(), field.number(), field_type(field))
}

fn field_type(field: &FieldDescriptor) -> String {
    let kind = kind_name(&field.kind());
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        return format!("map<{},{}>", kind_name(&key.kind()), kind_name(&value.kind()));
    }
    match field.containing_oneof() {
        // CRI v1 has neither `oneof` nor `optional`, which is a oneof underneath.
        Some(oneof) => format!("oneof {} {kind}", oneof.name()),
        None if field.is_list() => format!("repeated {kind}"),
        None => kind,
    }
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message_name(message),
        Kind::Enum(e) => in_package(e.full_name()),
        // `Debug` gives scalars their proto name.
        scalar => format!("{scalar:?}"),
    }
}

fn enum_rows(e: &EnumDescriptor) -> Vec<String> {
    let owner = in_package(e.full_name());
    e.values().map(|value| format!("enum\t{owner}\t{}\t{}", value.name(), value.number())).collect()
}

fn rpc_rows(service: &ServiceDescriptor) -> Vec<String> {
    let owner = in_package(service.full_name());
    let row = |rpc: MethodDescriptor| {
        let request = streamed(rpc.is_client_streaming(), &rpc.input());
        let response = streamed(rpc.is_server_streaming(), &rpc.output());
        format!("rpc\t{owner}\t{}\t{request}\t{response}", rpc.name())
    };
    service.methods().map(row).collect()
}

fn streamed(is_stream: bool, message: &MessageDescriptor) -> String {
    let prefix = if is_stream { "stream " } else { "" };
    format!("{prefix}{}", message_name(message))
}

fn message_name(message: &MessageDescriptor) -> String {
    in_package(message.full_name())
}

/// The package is part of every gRPC path, so a name outside of it is drift as well.
fn in_package(full_name: &str) -> String {
    full_name.strip_prefix(PACKAGE).expect("everything is in package runtime.v1").to_owned()
}
