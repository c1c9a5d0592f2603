//! Validates the plugin's JSON output against the schemas in `docs/`.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

const RESULT: &str = include_str!("../../../docs/result.schema.json");
const EVENTS: &str = include_str!("../../../docs/events.schema.json");

/// The schemas of results and of events, changed so that unknown fields are errors.
pub struct Printed {
    schemas: Schemas,
    result: SchemaIndex,
    event: SchemaIndex,
}

impl Printed {
    pub fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        for (name, text) in [("result", RESULT), ("events", EVENTS)] {
            let mut schema: Value = serde_json::from_str(text).expect("a schema is JSON");
            close(&mut schema);
            compiler.add_resource(&format!("file:///{name}.schema.json"), schema).expect("a resource");
        }
        let mut compile = |name: &str| {
            let compiled = compiler.compile(&format!("file:///{name}.schema.json"), &mut schemas);
            compiled.unwrap_or_else(|error| panic!("{error:#}"))
        };
        let (result, event) = (compile("result"), compile("events"));
        Self { schemas, result, event }
    }

    /// Validates a line that `--format json` printed to stdout. Returns the parsed result.
    pub fn assert_result(&self, line: &str) -> Value {
        let result: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.check(&result, self.result);
        result
    }

    /// Validates a line that `--progress json` printed to stderr. Returns the parsed event.
    pub fn assert_event(&self, line: &str) -> Value {
        let mut event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if event["event"] == "result" {
            // Without the fields `time` and `event`, a `result` event must match the schema of results.
            let rest = event.as_object_mut().expect("an object");
            rest.remove("time");
            rest.remove("event");
            self.check(&event, self.result);
            return serde_json::from_str(line).expect("as above");
        }
        self.check(&event, self.event);
        event
    }

    fn check(&self, value: &Value, index: SchemaIndex) {
        if let Err(error) = self.schemas.validate(value, index) {
            panic!("{error:#}\n{value}");
        }
    }
}

/// Forbids fields that a schema does not list, except if the schema is composed of other schemas.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            let is_whole = !fields.contains_key("allOf") && !fields.contains_key("oneOf");
            if is_whole && fields.get("properties").is_some_and(Value::is_object) {
                fields.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
