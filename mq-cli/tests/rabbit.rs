//! The command on a real broker: MQ_TEST_RABBIT names it, and without one these tests fail.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests, also where no function says so")]

mod cases;
mod common;

cases::all_on!(Rabbit);

mod rabbit_only {
    use std::process::Command;

    use crate::cases::errors::told;
    use crate::common::{Broker, Done, Kind, run};

    /// A stock client: the system's Python with pika.
    fn pika(broker: &Broker, script: &str) -> Done {
        let whole = format!(
            "import pika, sys, json\n\
             channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()\n{script}"
        );
        let url = if broker.url.matches('/').count() < 3 { format!("{}/%2f", broker.url) } else { broker.url.clone() };
        run(Command::new("/usr/bin/python3").args(["-c", &whole, &url, &broker.topic])).ok()
    }

    /// What stock tools write to a queue of their own is read as it is.
    #[test]
    fn amqp_publish_writes_we_read() {
        let broker = Broker::new(Kind::Rabbit, "publish");
        let name = format!("{} legacy", broker.topic);
        pika(&broker, "channel.queue_declare(sys.argv[2] + ' legacy', durable=True)");
        let mut publish = Command::new("amqp-publish");
        publish.args(["--url", &broker.url, "-r", &name, "-b", "body", "-H", "a: 1", "-H", "mq-attempt: 9"]);
        run(&mut publish).ok();
        let queue = format!("queue:{name}");
        let received = broker.mq(&["receive", &queue, "--group", "g", "--max", "1"]).ok().json();
        assert_eq!(received[0]["body"], "body");
        assert_eq!(received[0]["headers"]["a"], "1");
        assert_eq!(received[0]["headers"]["mq-attempt"], "9", "forged control headers are plain data");
        assert_eq!(received[0]["attempt"], 1);
        pika(&broker, "channel.queue_delete(sys.argv[2] + ' legacy')");
    }

    /// What we write to another program's queue is read by a stock client, properties and headers included.
    #[test]
    fn we_write_pika_reads() {
        let broker = Broker::new(Kind::Rabbit, "pika");
        let name = format!("{} legacy", broker.topic);
        pika(&broker, "channel.queue_declare(sys.argv[2] + ' legacy', durable=True)");
        let queue = format!("queue:{name}");
        let sent = ["send", &queue, "body", "--key", "k", "--header", "a=1", "--header", "content-type=text/plain"];
        broker.mq(&[&sent[..], &["--id", "id-7"]].concat()).ok();
        let read = pika(
            &broker,
            "method, properties, body = channel.basic_get(sys.argv[2] + ' legacy', auto_ack=True)\n\
             headers = {name: value.decode() if isinstance(value, bytes) else value for name, value in (properties.headers or {}).items()}\n\
             print(json.dumps([body.decode(), properties.message_id, properties.delivery_mode, headers], default=str))\n\
             channel.queue_delete(sys.argv[2] + ' legacy')",
        );
        let read = &read.json()[0];
        assert_eq!(read[0], "body");
        assert_eq!(read[1], "id-7");
        assert_eq!(read[2], 2, "persistent");
        assert_eq!(read[3]["a"], "1", "{read}");
    }

    /// A topic without a group: nobody would ever get the message.
    #[test]
    fn unroutable_is_an_error_that_names_the_way_out() {
        let broker = Broker::new(Kind::Rabbit, "unroutable");
        broker.mq(&["topic", "create", &broker.topic]).ok();
        told(&broker.mq(&["send", &broker.topic, "x"]), 1, &["hint", "mq group create"]);
    }

    #[test]
    fn a_wrong_password_is_told_without_the_password() {
        let broker = Broker::new(Kind::Rabbit, "password");
        let bad = format!("amqp://guest:hunter2-is-a-secret@{}", broker.address());
        for arguments in [&["topic", "list"][..], &["send", "t", "x"], &["receive", "t", "--group", "g"], &["doctor"]] {
            told(&broker.mq(&[&["--url", &bad], arguments].concat()), 1, &["mq: rabbit", "hint"]);
        }
    }
}
