//! `rabbitmqctl`, for users, permissions and a listener of the tests' own.

use std::net::TcpListener;
use std::process::Command;
use std::sync::OnceLock;

use crate::place::variable;

/// A user with the password `mq-test` and permissions for little but names which begin with `may-`.
pub(crate) const LIMITED: &str = "limited";

/// Runs `rabbitmqctl` with `arguments`.
fn control(arguments: &[&str]) {
    let script = format!("{} -- \"$@\"", variable("MQ_TEST_RABBIT_CONTROL"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, "sh"]).args(arguments).env("VERB", "control");
    let output = shell.output().unwrap();
    assert!(output.status.success(), "rabbitmqctl: {output:?}");
}

/// Makes the users of these tests, once: `mq`, who needs no password but a certificate, and the limited one.
pub(crate) fn users() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        // In one call: each takes a second. To add a user again is an error, which must not end the expression.
        let user = |name: &str, password: &str| {
            format!("catch rabbit_auth_backend_internal:add_user(<<\"{name}\">>, <<\"{password}\">>, <<\"tests\">>), ")
        };
        let rights = |name: &str, names: &str, write: &str| {
            format!(
                "rabbit_auth_backend_internal:set_permissions(<<\"{name}\">>, <<\"/\">>, <<\"{names}\">>, \
                 <<\"{write}\">>, <<\"{names}\">>, <<\"tests\">>)"
            )
        };
        // A queue with dead letters writes to the default exchange; the registry is what lists topics and groups.
        let limited = rights(LIMITED, "^(may-.*|mq-registry)$", "^(may-.*|amq[.]default)$");
        let made = user("mq", "never-used") + &user(LIMITED, "mq-test");
        control(&["eval", &format!("{made}{}, {limited}.", rights("mq", ".*", ".*"))]);
    });
}

/// The port of a listener that demands a certificate of the client: the settings of RabbitMQ know only one way for all
/// its ports.
pub(crate) fn demanding_port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = "[{verify, verify_peer}, {fail_if_no_peer_cert, true} | lists:filter(fun({K, _}) -> \
                       not lists:member(K, [verify, fail_if_no_peer_cert]) end, element(2, \
                       application:get_env(rabbit, ssl_options)))]";
        let listener = format!("{{\"127.0.0.1\", {port}}}");
        // The third argument came and went with the versions.
        let start = format!(
            "case erlang:function_exported(rabbit_networking, start_ssl_listener, 3) of true -> \
             rabbit_networking:start_ssl_listener({listener}, {options}, 1); false -> \
             rabbit_networking:start_ssl_listener({listener}, {options}) end."
        );
        control(&["eval", &start]);
        port
    })
}
