//! Templates of channel names with arguments, as in the configuration: `news:{topic}`.

use serde_json::Value;

use super::coerce::ArgumentValues;

/// A channel name with placeholders for arguments.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Template(Vec<TemplatePart>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum TemplatePart {
    Text(Box<str>),
    Argument(Box<str>),
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or("has a { without a }")?;
            if name.is_empty() || before.contains('}') {
                return Err("must name an argument between { and }".to_owned());
            }
            if !before.is_empty() {
                parts.push(TemplatePart::Text(before.into()));
            }
            parts.push(TemplatePart::Argument(name.into()));
            rest = behind;
        }
        if rest.contains('}') {
            return Err("has a } without a {".to_owned());
        }
        if !rest.is_empty() {
            parts.push(TemplatePart::Text(rest.into()));
        }
        Ok(Self(parts))
    }

    pub(super) fn arguments(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            TemplatePart::Argument(name) => Some(&**name),
            TemplatePart::Text(_) => None,
        })
    }

    /// Returns the name of the channel. The caller checks whether that is a valid channel.
    pub(super) fn fill(&self, arguments: &ArgumentValues) -> Result<Box<str>, String> {
        let mut channel = String::new();
        for part in &self.0 {
            let value = match part {
                TemplatePart::Text(text) => {
                    channel.push_str(text);
                    continue;
                }
                TemplatePart::Argument(name) => (name, arguments.get(&**name)),
            };
            match value {
                (_, Some(Value::String(text))) if !text.is_empty() => channel.push_str(text),
                (_, Some(value @ (Value::Number(_) | Value::Bool(_)))) => {
                    channel.push_str(&value.to_string())
                }
                (name, _) => {
                    return Err(format!(
                        "the argument {name} must not be empty: it is part of the channel's name"
                    ));
                }
            }
        }
        Ok(channel.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(template: &str, arguments: Value) -> Result<Box<str>, String> {
        let Value::Object(arguments) = arguments else { panic!("an object") };
        Template::parse(template).unwrap().fill(&arguments)
    }

    #[test]
    fn arguments_stand_where_they_are_named() {
        let arguments = json!({ "topic": "sport", "page": 2, "live": true });
        assert_eq!(&*filled("news:{topic}/{page}-{live}", arguments.clone()).unwrap(), "news:sport/2-true");
        assert_eq!(&*filled("{topic}", arguments.clone()).unwrap(), "sport");
        assert_eq!(&*filled("news", arguments.clone()).unwrap(), "news");
        assert!(filled("{other}", arguments).is_err());
        assert!(filled("news:{topic}", json!({ "topic": "" })).is_err());
        assert!(filled("news:{topic}", json!({ "topic": null })).is_err());
    }

    #[test]
    fn a_template_that_is_none_is_a_mistake() {
        for wrong in ["news:{topic", "news:topic}", "news:{}", "a}b{c}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
