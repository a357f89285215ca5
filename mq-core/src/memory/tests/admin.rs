use super::*;
use crate::driver::SeekTo;
use crate::error::ErrorKind;
use crate::message::Position;

#[tokio::test(start_paused = true)]
async fn topics_and_groups_are_declared_listed_and_deleted() {
    let broker = MemoryBroker::new();
    let admin = broker.admin();
    let spec = TopicSpec::new(topic()).partitions(3);
    admin.declare_topic(&spec).await.unwrap();
    admin.declare_topic(&spec).await.unwrap();
    admin.declare_topic(&TopicSpec::new(topic())).await.unwrap();
    let error = admin.declare_topic(&spec.clone().partitions(4)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TopologyConflict);
    let none = TopicSpec::new(Topic::parse("none").unwrap()).partitions(0);
    assert_eq!(admin.declare_topic(&none).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(admin.list_topics().await.unwrap()[0].partitions, Some(3));

    let spec = GroupSpec::new(topic(), group());
    assert_eq!(admin.topology(&spec).await.unwrap()[1].exists, Some(false));
    admin.declare_group(&spec).await.unwrap();
    let _reader = Reader::open(&broker, super::spec(1)).await;
    assert_eq!(admin.list_groups(&topic()).await.unwrap()[0].members, Some(1));
    admin.delete_group(&topic(), &group()).await.unwrap();
    assert_eq!(admin.delete_group(&topic(), &group()).await.unwrap_err().kind(), ErrorKind::NotFound);
    admin.delete_topic(&topic()).await.unwrap();
    let error = admin.describe_topic(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("describe topic") && error.hint().is_some(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn lag_counts_what_waits_where() {
    let broker = broker(1).await;
    for _ in 0..5 {
        send(&broker, "x").await;
    }
    let mut reader = Reader::open(&broker, spec(3)).await;
    let messages = reader.take(3).await;
    reader.ack(&messages[0]).await;
    reader.settle(&messages[1], retry(&messages[1], broker.clock().now() + SECOND, 2)).await;
    let lag = broker.admin().lag(&topic(), &group()).await.unwrap();
    assert_eq!((lag.ready, lag.unsettled, lag.retrying, lag.dead), (2, Some(1), Some(1), Some(0)));
    assert_eq!(lag.partitions[0].position, Position::Log { partition: 0, offset: 2 });
    assert_eq!(lag.partitions[0].end, Position::Log { partition: 0, offset: 5 });
}

#[tokio::test(start_paused = true)]
async fn seek_moves_the_group_and_makes_deliveries_stale() {
    let broker = broker(1).await;
    send(&broker, "1").await;
    tokio::time::sleep(SECOND).await;
    let noon = broker.clock().now();
    send(&broker, "2").await;
    send(&broker, "3").await;
    let mut reader = Reader::open(&broker, spec(10)).await;
    let old = reader.take(3).await;
    reader.events.clear();
    let admin = broker.admin();

    admin.seek(&topic(), &group(), &SeekTo::Time(noon)).await.unwrap();
    assert_eq!(reader.ack(&old[0]).await, Settled::Stale);
    assert_eq!(bodies(&reader.take(2).await), ["2", "3"]);
    assert!(matches!(&reader.events[..], [Event::Lost(_), Event::Assigned(_)]));

    admin.seek(&topic(), &group(), &SeekTo::Latest).await.unwrap();
    assert_eq!(broker.backlog(TOPIC, GROUP).unwrap().ready, 0);
    admin.seek(&topic(), &group(), &SeekTo::Earliest).await.unwrap();
    assert_eq!(bodies(&reader.take(3).await), ["1", "2", "3"]);
    let at = |offset| SeekTo::Position(Position::Log { partition: 0, offset });
    admin.seek(&topic(), &group(), &at(2)).await.unwrap();
    assert_eq!(bodies(&reader.take(1).await), ["3"]);
    for bad in
        [at(-1), at(4), SeekTo::Position(Position::Log { partition: 9, offset: 0 }), SeekTo::Position(Position::None)]
    {
        assert_eq!(admin.seek(&topic(), &group(), &bad).await.unwrap_err().kind(), ErrorKind::Config, "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retention_forgets_what_no_group_waits_for() {
    let broker = MemoryBroker::new();
    let mut spec = TopicSpec::new(topic()).partitions(1);
    spec.retention = Some(Duration::from_secs(60));
    broker.admin().declare_topic(&spec).await.unwrap();
    let mut reader = Reader::open(&broker, super::spec(10)).await;
    send(&broker, "1").await;
    send(&broker, "2").await;
    let messages = reader.take(2).await;
    reader.ack(&messages[0]).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    send(&broker, "3").await;
    let kept: Vec<_> = broker.sent(TOPIC).unwrap().into_iter().map(|message| message.body_bytes().cloned()).collect();
    assert_eq!(kept, [Some("2".into()), Some("3".into())], "the unsettled one is kept");
}

#[tokio::test(start_paused = true)]
async fn capabilities_name_every_feature() {
    let broker = MemoryBroker::new();
    for feature in crate::capability::Feature::ALL {
        assert!(broker.capabilities().get(*feature).is_some(), "{feature} is not declared either way");
    }
    assert!(broker.health(SECOND).await.ready);
}
