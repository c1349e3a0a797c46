//! The file as it is written: the keys of each table and the types that TOML gives them.
//!
//! The same types answer three questions: how a table is read, which keys exist, and what the JSON
//! schema says. Nothing is checked here beyond types.

use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde::{Deserialize, Deserializer, de::value::Error, forward_to_deserialize_any};
use toml::Spanned;

use super::{
    clusters::RawCluster, job_file::RawJobFile, limits::RawLimits, metrics::RawMetrics,
    programs::RawProgram, trust::RawTrust,
};

/// The cells of a project, who may say what to whom, and the limits that hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Topology", title = "cellbus topology")]
#[expect(dead_code, reason = "tables are read one by one; this states their keys and the schema")]
pub(super) struct RawTopology {
    /// The project as a whole.
    pub project: RawProject,
    /// One cell of the tree.
    pub cell: Vec<RawCell>,
    /// Lets matching messages pass; what nothing allows is refused.
    #[serde(default)]
    pub allow: Vec<RawRule>,
    /// Refuses matching messages, whatever allows them.
    #[serde(default)]
    pub deny: Vec<RawRule>,
    /// What holds for every message on one channel.
    #[serde(default)]
    pub channel: Vec<RawChannel>,
    /// What the rules must say about one message; the file is refused where they say otherwise.
    #[serde(default)]
    pub policy_test: Vec<RawPolicyTest>,
    /// What jobs may run, and where.
    #[serde(default)]
    pub program: Vec<RawProgram>,
    /// The Slurm clusters that cells give programs to.
    #[serde(default)]
    pub slurm: Vec<RawCluster>,
    /// Every limit, window and timer; what is left out has its default.
    #[serde(default)]
    pub limits: RawLimits,
    /// Where the figures of a process can be fetched from; nowhere, where it is left out.
    #[serde(default)]
    pub metrics: Option<RawMetrics>,
    /// Signed lists without which cells do not start.
    #[serde(default)]
    pub trust: Option<RawTrust>,
}

/// `[project]`: the project as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Project")]
pub(super) struct RawProject {
    /// The name of the project; certificates of other projects are refused.
    #[schemars(with = "String", extend("pattern" = "^[a-z0-9][a-z0-9_-]{0,62}$"))]
    pub name: Option<Spanned<String>>,
    /// Mints development certificates at start; every cell must then listen on loopback.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub dev: Option<Spanned<bool>>,
}

/// `[[cell]]`: one cell of the tree.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cell")]
pub(super) struct RawCell {
    /// The base name: one level, unique in the project.
    #[schemars(with = "String", extend("pattern" = "^[a-z0-9][a-z0-9_-]{0,62}$"))]
    pub name: Option<Spanned<String>>,
    /// What the cell is for.
    #[schemars(with = "FileKind")]
    pub kind: Option<Spanned<String>>,
    /// The cell that this one dials; every cell but the server has one.
    #[schemars(with = "Option<String>")]
    pub parent: Option<Spanned<String>>,
    /// `ip:port` on which children are accepted; port 0 takes any free one. Server and relays only.
    #[schemars(with = "Option<String>")]
    pub listen: Option<Spanned<String>>,
    /// DNS names and IP addresses that the certificate states.
    #[schemars(with = "Option<Vec<String>>")]
    pub hosts: Option<Spanned<Vec<Spanned<String>>>>,
    /// `host:port` at which children dial this cell, where that is not the listen address.
    #[schemars(with = "Option<String>")]
    pub dial: Option<Spanned<String>>,
    /// The organisation that runs the cell; the name of the project where left out.
    #[schemars(with = "Option<String>", extend("pattern" = "^[a-z0-9][a-z0-9_-]{0,62}$"))]
    pub org: Option<Spanned<String>>,
}

/// `[[allow]]` and `[[deny]]`: one message rule.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rule")]
pub(super) struct RawRule {
    /// Who asks: `*`, a base name, `site-*`, `kind:client`, or `org:acme`.
    #[schemars(with = "String")]
    pub from: Option<Spanned<String>>,
    /// Who is asked: as `from`.
    #[schemars(with = "String")]
    pub to: Option<Spanned<String>>,
    /// The channel, exactly, or `*` for every channel.
    #[schemars(with = "String", extend("pattern" = r"^(\*|[a-z0-9_.-]{1,64})$"))]
    pub channel: Option<Spanned<String>>,
    /// The topics on that channel, exactly, or `*` alone for every topic.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub topics: Option<Spanned<Vec<Spanned<String>>>>,
    /// Where the one who is asked stands in the tree, seen from the one who asks.
    #[schemars(with = "Option<FileDirection>", extend("default" = "any"))]
    pub direction: Option<Spanned<String>>,
    /// Demands that every message on this channel and these topics is sealed. Allow rules only.
    #[schemars(with = "Option<FileSeal>")]
    pub seal: Option<Spanned<String>>,
}

/// `[[channel]]`: what holds for every message on one channel, by whatever rule it passes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Channel")]
pub(super) struct RawChannel {
    /// The channel, exactly.
    #[schemars(with = "String", extend("pattern" = "^[a-z0-9_.-]{1,64}$"))]
    pub name: Option<Spanned<String>>,
    /// Demands that every message on it is sealed.
    #[schemars(with = "FileSeal")]
    pub seal: Option<Spanned<String>>,
}

/// `[[policy_test]]`: what the rules must say about one message.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PolicyTest")]
pub(super) struct RawPolicyTest {
    /// Who asks: the base name of a cell, or the path of a job cell.
    #[schemars(with = "String")]
    pub from: Option<Spanned<String>>,
    /// Who is asked: as `from`.
    #[schemars(with = "String")]
    pub to: Option<Spanned<String>>,
    /// The channel.
    #[schemars(with = "String", extend("pattern" = "^[a-z0-9_.-]{1,64}$"))]
    pub channel: Option<Spanned<String>>,
    /// The topic.
    #[schemars(with = "String", extend("pattern" = "^[a-z0-9_.-]{1,64}$"))]
    pub topic: Option<Spanned<String>>,
    /// What the rules must say.
    #[schemars(with = "FileVerdict")]
    pub expect: Option<Spanned<String>>,
}

/// The kinds of cell that a file can state.
#[derive(JsonSchema)]
#[schemars(rename = "Kind", rename_all = "lowercase")]
#[expect(dead_code, reason = "states the choices in the schema")]
enum FileKind {
    /// The root of the tree; exactly one.
    Server,
    /// Forwards for the cells below it.
    Relay,
    /// A site.
    Client,
}

/// The ways that a rule can state.
#[derive(JsonSchema)]
#[schemars(rename = "Direction", rename_all = "lowercase")]
#[expect(dead_code, reason = "states the choices in the schema")]
enum FileDirection {
    /// The one who is asked stands above the one who asks.
    Up,
    /// The one who is asked stands below the one who asks.
    Down,
    /// Neither.
    Across,
    /// Wherever.
    Any,
}

/// What can be said about sealing.
#[derive(JsonSchema)]
#[schemars(rename = "Seal", rename_all = "lowercase")]
#[expect(dead_code, reason = "states the choices in the schema")]
enum FileSeal {
    /// A message that is not sealed is refused.
    Required,
}

/// What a test of the rules can expect.
#[derive(JsonSchema)]
#[schemars(rename = "Verdict", rename_all = "lowercase")]
#[expect(dead_code, reason = "states the choices in the schema")]
enum FileVerdict {
    /// The message passes.
    Allow,
    /// The message is refused.
    Deny,
}

/// The JSON schema of the file, for editors.
///
/// It states keys, types and ranges. What lies between keys (parents, clashes, the lane rule) only
/// [`parse`](super::parse) checks.
#[must_use]
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(without_null));
    settings.into_generator().into_root_schema_for::<RawTopology>()
}

/// The JSON schema of a `job.toml`, for editors. What its values must be for the cells that run the job, only
/// these know.
#[must_use]
pub fn job_schema() -> Schema {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(without_null));
    settings.into_generator().into_root_schema_for::<RawJobFile>()
}

/// Takes `null` out of what a key may be: TOML has none, a key is left out instead.
fn without_null(schema: &mut Schema) {
    for list in ["type", "anyOf"] {
        let Some(choices) = schema.get_mut(list).and_then(|choices| choices.as_array_mut()) else {
            continue;
        };
        choices.retain(|choice| choice != "null" && choice.get("type").is_none_or(|t| t != "null"));
        if choices.len() > 1 {
            continue;
        }
        let Some(only) = choices.pop() else {
            continue;
        };
        schema.remove(list);
        match only.as_object() {
            Some(object) => schema.ensure_object().extend(object.clone()),
            None => drop(schema.insert(list.to_owned(), only)),
        }
    }
}

/// The keys of the table that `T` reads, in the order of its fields.
pub(super) fn keys_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    let asked = T::deserialize(AskedForKeys(&mut keys));
    debug_assert!(asked.is_err(), "a table type asks for a struct");
    keys
}

/// Notes which keys a type asks for, and then yields nothing.
struct AskedForKeys<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for AskedForKeys<'_> {
    type Error = Error;

    fn deserialize_struct<V: serde::de::Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: serde::de::Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("only the keys were asked for"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_the_types() {
        assert_eq!(
            keys_of::<RawTopology>(),
            [
                "project",
                "cell",
                "allow",
                "deny",
                "channel",
                "policy_test",
                "program",
                "slurm",
                "limits",
                "metrics",
                "trust"
            ]
        );
        let rule = ["from", "to", "channel", "topics", "direction", "seal"];
        assert_eq!(keys_of::<RawRule>(), rule);
    }

    #[test]
    fn the_schema_demands_what_the_file_demands_and_knows_no_other_keys() {
        let schema = schema().to_value();
        let of = |path: &str| schema.pointer(path).unwrap_or_else(|| panic!("no {path}")).clone();
        assert_eq!(of("/required"), serde_json::json!(["project", "cell"]));
        assert_eq!(of("/$defs/Cell/required"), serde_json::json!(["name", "kind"]));
        assert_eq!(of("/$defs/Project/required"), serde_json::json!(["name"]));
        let rule = serde_json::json!(["from", "to", "channel", "topics"]);
        assert_eq!(of("/$defs/Rule/required"), rule);
        assert_eq!(of("/$defs/Channel/required"), serde_json::json!(["name", "seal"]));
        let test = serde_json::json!(["from", "to", "channel", "topic", "expect"]);
        assert_eq!(of("/$defs/PolicyTest/required"), test);
        assert!(schema.pointer("/$defs/Limits/required").is_none());
        let tables = ["Project", "Cell", "Rule", "Channel", "PolicyTest", "Limits"];
        let tables = tables.map(|table| format!("/$defs/{table}"));
        for table in std::iter::once(String::new()).chain(tables) {
            assert_eq!(of(&format!("{table}/additionalProperties")), false, "{table}");
        }
        let beat = of("/$defs/Limits/properties/beat_deadline_ms");
        assert!(!schema.to_string().contains("null"), "{schema:#}");
        assert_eq!((&beat["default"], &beat["maximum"]), (&4000.into(), &60_000.into()));
    }
}
