//! The schemas in `docs/`, and what is really printed.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

const RESULT: &str = include_str!("../../../docs/result.schema.json");
const EVENTS: &str = include_str!("../../../docs/events.schema.json");

/// Both, more strict than they are for others: a field that they do not know is an error here.
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

    /// A line of stdout with `--format json`.
    pub fn assert_result(&self, line: &str) -> Value {
        let result: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.check(&result, self.result);
        result
    }

    /// A line of stderr with `--progress json`.
    pub fn assert_event(&self, line: &str) -> Value {
        let mut event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if event["event"] == "result" {
            // The rest of it is one, and has no field that is not.
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

/// No field but those that are named; but where a schema is made of others.
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
