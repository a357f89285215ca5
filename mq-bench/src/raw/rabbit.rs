//! lapin, with confirms, persistent messages and batched acks.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use mq::{Error, ErrorKind, Result};

use crate::cases::PREFETCH;
use crate::cases::Place;
use crate::pair::{Cost, cost};

/// Messages settled by one ack.
const ACK_EVERY: u64 = 100;

pub(crate) struct Client {
    connection: Connection,
    publishing: Channel,
}

impl Client {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.map_err(failed)?;
        let publishing = connection.create_channel().await.map_err(failed)?;
        publishing.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        Ok(Self { connection, publishing })
    }

    pub(crate) async fn send(&self, place: &Place, body: &Bytes, window: usize, messages: u64) -> Result<()> {
        // Straight to the group's queue: the same work for the broker as through the topic's exchange.
        let queue = format!("{}--{}", place.topic.name(), place.group);
        let mut pending = VecDeque::with_capacity(window);
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        for _ in 0..messages {
            if pending.len() == window
                && let Some(oldest) = pending.pop_front()
            {
                confirmed(oldest).await?;
            }
            let id = mq::MessageId::generate(std::time::SystemTime::now()).to_string();
            let mut headers = FieldTable::default();
            headers.insert("mq-id".into(), AMQPValue::LongString(id.clone().into()));
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_message_id(id.into()).with_headers(headers);
            let publish = self.publishing.basic_publish("".into(), queue.as_str().into(), mandatory, body, properties);
            pending.push_back(publish.await.map_err(failed)?);
        }
        for pending in pending {
            confirmed(pending).await?;
        }
        Ok(())
    }

    pub(crate) async fn consume(&self, place: &Place, messages: u64) -> Result<Cost> {
        let queue = format!("{}--{}", place.topic.name(), place.group);
        let channel = self.connection.create_channel().await.map_err(failed)?;
        let prefetch = u16::try_from(PREFETCH).unwrap_or(u16::MAX);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(failed)?;
        let mut consumer = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .map_err(failed)?;
        let first = next(&mut consumer).await?;
        first.ack(BasicAckOptions::default()).await.map_err(failed)?;
        let spent = cost(async {
            for done in 2..=messages {
                let delivery = next(&mut consumer).await?;
                std::hint::black_box(&delivery.data);
                if done % ACK_EVERY == 0 || done == messages {
                    delivery.ack(BasicAckOptions { multiple: true }).await.map_err(failed)?;
                }
            }
            // A round trip behind the last ack: it has reached the broker.
            channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(failed)
        })
        .await;
        channel.close(200, "done".into()).await.map_err(failed)?;
        spent
    }
}

async fn next(consumer: &mut lapin::Consumer) -> Result<lapin::message::Delivery> {
    let ended = || Error::new(ErrorKind::Unavailable, "the raw consumer ended");
    consumer.next().await.ok_or_else(ended)?.map_err(failed)
}

async fn confirmed(pending: impl Future<Output = lapin::Result<Confirmation>>) -> Result<()> {
    match pending.await.map_err(failed)? {
        Confirmation::Ack(None) => Ok(()),
        other => Err(Error::new(ErrorKind::Rejected, format!("the raw publish was not stored: {}", kind(&other)))),
    }
}

fn kind(confirmation: &Confirmation) -> &'static str {
    match confirmation {
        Confirmation::Ack(_) => "returned",
        Confirmation::Nack(_) => "refused",
        Confirmation::NotRequested => "no confirmation",
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("raw amqp client: {error}"))
}
