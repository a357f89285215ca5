//! Errors of a configuration file without its values: any of them may be a password.

#![cfg(feature = "toml")]

use mq_core::Error;

/// What is wrong and on which line, without the line itself (which toml's own message prints).
pub(crate) fn toml_error(error: &toml::de::Error, text: &str) -> Error {
    let place = error.span().and_then(|span| text.get(..span.start));
    let place = place.map_or(String::new(), |before| {
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("line {}, column {column}: ", before.matches('\n').count() + 1)
    });
    Error::config(format!("{place}{}", without_value(error.message())))
}

/// serde quotes the value it did not like: keeps its type only.
fn without_value(message: &str) -> String {
    for start in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some(rest) = message.strip_prefix(start)
            && let Some((value, expected)) = rest.rsplit_once(", expected ")
        {
            let kind: String = value.chars().take_while(|c| !matches!(c, '`' | '"' | '(')).collect();
            return format!("{start}{}, expected {expected}", kind.trim_end());
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[test]
    fn errors_name_the_line_and_never_the_value() {
        let texts = [
            "[broker.memory]\npartitions = \"hunter2\"\n",
            "[broker.memory]\nsend_timeout = \"hunter2\"\n",
            "[broker.memory]\nsend_timeout = 4711\n",
            "[broker.memory]\nname = hunter2\n",
            "broker = \"amqp://user:hunter2@host:port\"\n",
        ];
        for text in texts {
            let error = Config::from_toml(text).unwrap_err();
            let printed = format!("{error} {error:?}");
            assert!(!printed.contains("hunter2") && !printed.contains("4711"), "{printed}");
            assert!(printed.contains("line "), "{printed}");
        }
    }

    #[test]
    fn reads_a_file() {
        let config = Config::from_toml("[broker.memory]\npartitions = 3\nsend_timeout = \"2s\"\n").unwrap();
        assert!(format!("{config:?}").contains("partitions: 3"), "{config:?}");
        let error = Config::from_toml("[broker.memory]\nparttions = 3\n").unwrap_err().to_string();
        assert!(error.contains("parttions") && error.contains("line 2"), "{error}");
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn reads_every_setting_of_kafka_and_prints_no_password() {
        let reference = include_str!("../../mq-kafka/reference.toml").replace("\n[", "\n[broker.kafka.");
        let config = Config::from_toml(&format!("[broker.kafka]\n{reference}")).unwrap();
        let printed = format!("{config:?}");
        assert!(printed.contains("127.0.0.1:9092") && !printed.contains("\"secret\""), "{printed}");
        let error = Config::from_toml("[broker.kafka.sasl]\nusername = \"u\"\npassword = 4711\n").unwrap_err();
        assert!(!format!("{error:?}").contains("4711"), "{error:?}");
    }

    #[cfg(feature = "rocket")]
    #[test]
    fn reads_every_setting_of_rocketmq_and_prints_no_password() {
        let config = Config::from_toml(include_str!("../../mq-rocket/reference.toml")).unwrap();
        let printed = format!("{config:?}");
        assert!(printed.contains("127.0.0.1") && printed.contains("[redacted]"), "{printed}");
        let error = Config::from_toml("[broker.rocket]\npassword = 4711\n").unwrap_err();
        assert!(!format!("{error:?}").contains("4711"), "{error:?}");
    }

    #[cfg(feature = "rabbit")]
    #[test]
    fn reads_every_setting_of_rabbitmq_and_prints_no_password() {
        let config = Config::from_toml(include_str!("../../mq-rabbit/reference.toml")).unwrap();
        let printed = format!("{config:?}");
        assert!(printed.contains("127.0.0.1") && printed.contains("[redacted]"), "{printed}");
        let error = Config::from_toml("[broker.rabbit]\npassword = 4711\n").unwrap_err();
        assert!(!format!("{error:?}").contains("4711"), "{error:?}");
    }

    #[cfg(feature = "redis-stream")]
    #[test]
    fn reads_every_setting_of_redis_and_prints_no_password() {
        let reference = include_str!("../../mq-redis-stream/reference.toml");
        let reference = reference.replace("password = \"\"", "password = \"hunter2\"");
        let printed = format!("{:?}", Config::from_toml(&reference).unwrap());
        assert!(printed.contains("127.0.0.1") && !printed.contains("hunter2"), "{printed}");
        let error = Config::from_toml("[broker.redis-stream]\npassword = 4711\n").unwrap_err();
        assert!(!format!("{error:?}").contains("4711"), "{error:?}");
    }
}
