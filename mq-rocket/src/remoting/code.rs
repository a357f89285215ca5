//! Requests, by the numbers of the protocol.

pub(crate) const PULL_MESSAGE: i32 = 11;
pub(crate) const QUERY_CONSUMER_OFFSET: i32 = 14;
pub(crate) const UPDATE_CONSUMER_OFFSET: i32 = 15;
pub(crate) const UPDATE_AND_CREATE_TOPIC: i32 = 17;
pub(crate) const GET_BROKER_CONFIG: i32 = 26;
pub(crate) const GET_BROKER_RUNTIME_INFO: i32 = 28;
pub(crate) const SEARCH_OFFSET_BY_TIMESTAMP: i32 = 29;
pub(crate) const GET_MAX_OFFSET: i32 = 30;
pub(crate) const GET_MIN_OFFSET: i32 = 31;
pub(crate) const HEART_BEAT: i32 = 34;
pub(crate) const UNREGISTER_CLIENT: i32 = 35;
pub(crate) const END_TRANSACTION: i32 = 37;
/// What a broker asks of its own accord: what became of a half message.
pub(crate) const CHECK_TRANSACTION_STATE: i32 = 39;
pub(crate) const GET_ROUTE: i32 = 105;
pub(crate) const UPDATE_AND_CREATE_GROUP: i32 = 200;
pub(crate) const GET_ALL_TOPICS: i32 = 206;
pub(crate) const DELETE_GROUP: i32 = 207;
pub(crate) const DELETE_TOPIC_IN_BROKER: i32 = 215;
pub(crate) const DELETE_TOPIC_IN_NAME_SERVER: i32 = 216;
pub(crate) const RESET_OFFSET: i32 = 222;
pub(crate) const GET_SYSTEM_TOPICS: i32 = 305;
pub(crate) const SEND_MESSAGE_V2: i32 = 310;
pub(crate) const SEND_BATCH_MESSAGE: i32 = 320;
pub(crate) const GET_TOPIC_CONFIG: i32 = 351;
pub(crate) const GET_GROUP: i32 = 352;
pub(crate) const POP_MESSAGE: i32 = 200_050;
pub(crate) const ACK_MESSAGE: i32 = 200_051;
pub(crate) const BATCH_ACK_MESSAGE: i32 = 200_151;
pub(crate) const CHANGE_INVISIBLE_TIME: i32 = 200_053;
pub(crate) const NOTIFICATION: i32 = 200_054;
