//! What holds on every broker; one file a subject.

pub(crate) mod dead_letters;
pub(crate) mod errors;
pub(crate) mod groups;
pub(crate) mod receive;
pub(crate) mod send;
pub(crate) mod work;
pub(crate) mod work_ends;

/// A test for each case, on one kind of broker.
macro_rules! on {
    ($kind:ident; $($subject:ident: $($case:ident)+;)+) => {
        $(mod $subject {
            $(#[test]
            fn $case() {
                crate::cases::$subject::$case(crate::common::Kind::$kind);
            })+
        })+
    };
}

/// Every case, on one kind of broker.
macro_rules! all_on {
    ($kind:ident) => {
        crate::cases::on! { $kind;
            groups: topics_and_groups_come_and_go seek_and_lag lag_can_be_watched topology_names_what_must_exist doctor_looks
                doctor_examines_a_group;
            send: body_key_headers_and_id file_of_any_bytes standard_input lines ndjson a_bad_line delay;
            receive: idle_before_max what_was_acknowledged_does_not_come_again batched_and_auto stopped_by_a_signal
                a_reader_that_leaves;
            work: exit_codes environment hostile_headers long_headers cannot_be_started unknown_can_be_retried
                by_key idempotency;
            work_ends: max_and_idle drains_at_sigterm interrupt_spares_the_command timeout_kills_the_whole_group
                second_signal_aborts;
            dead_letters: list_show_redrive_purge listing_consumes_nothing;
            errors: refused_connection unknown_topic too_large bad_url bad_topic_name bad_arguments;
        }
    };
}

pub(crate) use {all_on, on};
