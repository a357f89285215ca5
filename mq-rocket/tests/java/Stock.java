import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** The client of the RocketMQ project, as a program of its own that knows nothing of the SDK. */
public final class Stock {
    private static final int TIMEOUT_MILLIS = 20_000;
    /** Longer than the broker waits between two questions, also on a busy machine. */
    private static final int SILENT_SECONDS = 4;

    public static void main(String[] arguments) {
        // The client's threads keep a program alive.
        try {
            run(arguments);
            System.exit(0);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(String[] arguments) throws Exception {
        String names = arguments[1];
        String topic = arguments[2];
        switch (arguments[0]) {
            case "plain" -> plain(names, topic);
            case "delayed" -> delayed(names, topic, Long.parseLong(arguments[3]));
            case "ordered" -> ordered(names, topic, Integer.parseInt(arguments[3]));
            case "half" -> half(names, topic);
            case "receive" -> receive(names, topic, arguments[3], Integer.parseInt(arguments[4]));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    private static Message message(String topic, String key, String text) {
        Message message = new Message(topic, "TagA", key, text.getBytes(StandardCharsets.UTF_8));
        message.putUserProperty("shop", "Zürich");
        return message;
    }

    private static DefaultMQProducer producer(String names) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("stock-producer");
        producer.setNamesrvAddr(names);
        producer.setMqClientApiTimeout(TIMEOUT_MILLIS);
        producer.setSendMsgTimeout(TIMEOUT_MILLIS);
        producer.start();
        return producer;
    }

    private static void stored(SendResult result) {
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException("not stored: " + result);
        }
    }

    private static void plain(String names, String topic) throws Exception {
        stored(producer(names).send(message(topic, "k", "plain")));
    }

    private static void delayed(String names, String topic, long millis) throws Exception {
        Message message = message(topic, "k", "delayed");
        message.setDelayTimeMs(millis);
        stored(producer(names).send(message));
    }

    private static void ordered(String names, String topic, int count) throws Exception {
        DefaultMQProducer producer = producer(names);
        for (int number = 0; number < count; number++) {
            String key = "k" + number % 3;
            int place = number % 3;
            stored(producer.send(message(topic, key, key + " " + number), (queues, one, it) -> queues.get(place % queues.size()), null));
        }
    }

    /** One is committed, one rolled back, one committed and one rolled back only when the broker asks back. */
    private static void half(String names, String topic) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer("stock-half");
        producer.setNamesrvAddr(names);
        producer.setMqClientApiTimeout(TIMEOUT_MILLIS);
        producer.setSendMsgTimeout(TIMEOUT_MILLIS);
        CountDownLatch asked = new CountDownLatch(2);
        AtomicLong last = new AtomicLong();
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return (LocalTransactionState) argument;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                String text = new String(message.getBody(), StandardCharsets.UTF_8);
                last.set(System.nanoTime());
                asked.countDown();
                return text.equals("later") ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
            }
        });
        producer.start();
        stored(producer.sendMessageInTransaction(message(topic, "k", "at once"), LocalTransactionState.COMMIT_MESSAGE));
        stored(producer.sendMessageInTransaction(message(topic, "k", "never"), LocalTransactionState.ROLLBACK_MESSAGE));
        stored(producer.sendMessageInTransaction(message(topic, "k", "later"), LocalTransactionState.UNKNOW));
        stored(producer.sendMessageInTransaction(message(topic, "k", "never later"), LocalTransactionState.UNKNOW));
        if (!asked.await(TIMEOUT_MILLIS, TimeUnit.MILLISECONDS)) {
            throw new IllegalStateException("the broker did not ask back");
        }
        // Its answers are requests of their own, and leave after this was told of the question. The broker asks every
        // second until it has one: when it is silent, it has them.
        while (System.nanoTime() - last.get() < TimeUnit.SECONDS.toNanos(SILENT_SECONDS)) {
            Thread.sleep(100);
        }
        producer.shutdown();
    }

    /** Prints a line for each message, among what its log prints: `message`, queue, key, tag, user property, body. */
    private static void receive(String names, String topic, String group, int count) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(names);
        consumer.setMqClientApiTimeout(TIMEOUT_MILLIS);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        CountDownLatch missing = new CountDownLatch(count);
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            print(messages, missing);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        if (!missing.await(2 * TIMEOUT_MILLIS, TimeUnit.MILLISECONDS)) {
            throw new IllegalStateException(missing.getCount() + " of " + count + " messages are missing");
        }
        // What should not be there comes now.
        Thread.sleep(1_000);
        consumer.shutdown();
    }

    private static synchronized void print(List<MessageExt> messages, CountDownLatch missing) {
        for (MessageExt message : messages) {
            String text = new String(message.getBody(), StandardCharsets.UTF_8);
            System.out.println(String.join("\t", "message", Integer.toString(message.getQueueId()), message.getKeys(), message.getTags(),
                message.getUserProperty("shop"), text));
            missing.countDown();
        }
    }

    private Stock() {
    }
}
