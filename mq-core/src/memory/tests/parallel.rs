//! Many tasks on several threads, in real time.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_senders_and_readers_lose_nothing() {
    const SENDERS: usize = 4;
    const EACH: usize = 2_000;
    let config = crate::memory::MemoryConfig { capacity: 500, ..crate::memory::MemoryConfig::default() };
    let broker = MemoryBroker::with_config(config).unwrap();
    broker.declare_topic(TOPIC).unwrap();
    broker.admin().declare_group(&GroupSpec::new(topic(), group())).await.unwrap();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let broker = broker.clone();
        tasks.spawn(async move {
            for n in 0..EACH {
                send(&broker, &format!("{sender}:{n}")).await;
            }
        });
    }
    for _ in 0..3 {
        let (broker, seen) = (broker.clone(), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut reader = Reader::open(&broker, spec(50)).await;
            while seen.lock().unwrap().len() < SENDERS * EACH {
                let mut events = Vec::new();
                reader.driver.poll(&mut events, 50, Duration::from_millis(50)).await.unwrap();
                for event in events {
                    if let Event::Message(incoming) = event {
                        assert!(seen.lock().unwrap().insert(body(&incoming).to_owned()));
                        let mut batch = vec![Settlement { token: incoming.token, action: Settle::Ack }];
                        assert_eq!(reader.settler.settle(&mut batch).await.pop().unwrap().unwrap(), Settled::Durable);
                    }
                }
            }
        });
    }
    let finished = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), finished).await.unwrap();
    broker.until_idle(TOPIC, GROUP, SECOND).await.unwrap();
}
