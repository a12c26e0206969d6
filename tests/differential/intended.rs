//! Where ours is meant to give something else than the classic, and why. Both sides are asserted.
//!
//! `error: …` stands for an answer of that form: that a command failed is for scripts to see, the wording for people.

/// Something that differs, and should.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Of which scenario.
    pub scenario: &'static str,
    /// Which of its observations.
    pub label: &'static str,
    /// What the classic gives.
    pub classic: &'static str,
    /// What ours gives.
    pub ours: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// Those of one scenario.
pub fn of(scenario: &str) -> Vec<&'static Difference> {
    DIFFERENCES.iter().filter(|difference| difference.scenario == scenario).collect()
}

/// Those of scenarios that do not exist.
pub fn without_scenario(known: &[&str]) -> Vec<&'static Difference> {
    DIFFERENCES.iter().filter(|difference| !known.contains(&difference.scenario)).collect()
}

/// All of them, in the order of the scenarios.
pub static DIFFERENCES: &[Difference] = &[
    differs("case_001_without_arguments_usage_is_shown", "ends", "exit 0", "exit 1", USAGE),
    differs("case_001_without_arguments_usage_is_shown", "usage on stdout", "true", "false", USAGE),
    differs("case_001_without_arguments_usage_is_shown", "usage on stderr", "false", "true", USAGE),
    differs("case_002_an_unknown_option", "-z: ends", "exit 0", "exit 1", USAGE),
    differs("case_002_an_unknown_option", "-b without argument: ends", "exit 0", "exit 1", USAGE),
    differs("case_003_a_timeout_of_nothing", "-t 0: ends", "exit 0", "exit 1", USAGE),
    differs("case_003_a_timeout_of_nothing", "-t 0: stderr", "silent", "speaks", USAGE),
    differs("case_003_a_timeout_of_nothing", "-t abc: ends", "exit 0", "exit 1", USAGE),
    differs("case_003_a_timeout_of_nothing", "-t abc: stderr", "silent", "speaks", USAGE),
    differs("case_013_a_failure_in_the_background", "ends", "exit 0", "exit 1", VISIBLE),
    differs("case_016_two_pens_on_one_address", "the second", "runs", "exit 1", SHARED),
    differs("case_021_int_ends_it", "ends", "killed by SIGINT", "exit 0", INT),
    differs("case_021_int_ends_it", "pid file is left", "true", "false", INT),
    differs("case_022_a_connection_table_of_nothing_at_the_start", "-x 0: conn_max", "0\n", "500\n", FIXED),
    differs("case_022_a_connection_table_of_nothing_at_the_start", "-x abc: conn_max", "0\n", "500\n", FIXED),
    differs("case_023_groups_of_root_are_given_up", "groups", "1 2 3", "<nogroup>", GROUPS),
    differs(
        "case_024_025_026_forms_of_a_server",
        "127.0.0.1::5",
        "4 addr 127.0.0.1 port <L> conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0",
        "4 addr 127.0.0.1 port <L> conn 0 max 5 hard 0 weight 0 prio 0 sx 0 rx 0",
        EMPTYFIELD,
    ),
    differs("case_027_numbers_of_servers_that_cannot_be", "127.0.0.1:99999", "starts", "exit 1", CHECKED),
    differs("case_027_numbers_of_servers_that_cannot_be", "127.0.0.1:9001x", "starts", "exit 1", CHECKED),
    differs("case_027_numbers_of_servers_that_cannot_be", "127.0.0.1:abc", "starts", "exit 1", CHECKED),
    differs("case_027_numbers_of_servers_that_cannot_be", "127.0.0.1:9001:-1", "starts", "exit 1", CHECKED),
    differs("case_027_numbers_of_servers_that_cannot_be", "127.0.0.1:9001:1x:2", "starts", "exit 1", CHECKED),
    differs(
        "case_027_numbers_of_servers_that_cannot_be",
        "127.0.0.1:9001:10:20:3:4:junk",
        "starts",
        "exit 1",
        CHECKED,
    ),
    differs("case_027_numbers_of_servers_that_cannot_be", "2001:db8::1:80", "starts", "exit 1", CHECKED),
    differs("case_142_a_file_in_place_of_a_unix_listener", "start", "serves", "exit 1", UNIXFILE),
    differs("case_142_a_file_in_place_of_a_unix_listener", "the file", "", "precious", UNIXFILE),
    differs("defaults", "timeout", "3\n", "5\n", TIMEOUT),
    differs("defaults", "clients_max", "0\n", "2048\n", FIXED),
    differs("defaults", "conn_max", "0\n", "500\n", FIXED),
    differs("defaults", "listen", "\n", "", NOLISTEN),
    differs("windows_only", "-i: ends", "exit 0", "exit 1", WINDOWS),
    differs("no_servers_at_all", "request", "closed", "exit 1", NOSERVERS),
    differs("case_038_no_weight_at_all", "served of 3", "0", "3", WEIGHTS),
    differs("case_039_a_burst_by_weight", "on the busiest", "more than 4", "4", COUNT),
    differs(
        "case_051_a_server_that_is_down_and_epoll",
        "requests",
        "closed S2 S0 closed S2 S0",
        "S2 S2 S0 S2 S0 S2",
        FAILOVER,
    ),
    differs(
        "case_053_two_dead_servers_and_no_blacklist",
        "request",
        "nothing more after 0 bytes",
        "closed",
        ONCE,
    ),
    differs(
        "stubborn_round_robin_leaves_a_dead_server_out",
        "again",
        "S1 closed S0 S1",
        "S1 S0 S0 S1",
        SUCCESS,
    ),
    differs(
        "a_server_with_port_0_is_never_tried",
        "requests",
        "S1 S1 S0 S1 S1 S0",
        "S1 S0 S1 S0 S1 S0",
        USABLE,
    ),
    differs("case_070_the_tracking_time", "later", "S1", "S2", TRACKING),
    differs("case_071_clients_over_ipv6", "::1 .2 .3 ::1", "S1 S1 S1 S1", "S1 S2 S0 S1", WHOLE),
    differs("case_071_records_of_clients_over_ipv6", "records", "1", "3", WHOLE),
    differs("an_address_with_bits_outside_its_mask", "bits: 127.0.0.2", "closed", "S0", MASKED),
    differs("case_060_lists_and_the_dual_stack", "127.0.0.2", "closed", "S0", WHOLE),
    differs("case_061_062_063_where_denied_clients_go", "list 1, emergency server: .2", "E", "closed", ABUSE),
    differs("case_061_062_063_where_denied_clients_go", "list 0, abuse server: .2", "closed", "B", ABUSE),
    differs("case_061_062_063_where_denied_clients_go", "list 0, both: .2", "closed", "B", ABUSE),
    differs("case_065_a_soft_limit", "three held", "G0 closed G0", "G0 closed closed", COUNT),
    differs(
        "case_067_everything_is_full",
        "one client",
        "G1 G1 G1 G0 G0 closed G0 closed",
        "G1 G1 G1 G0 G0 closed closed closed",
        COUNT,
    ),
    differs("case_068_a_burst_meets_a_limit", "served of 10", "more than 2", "2", COUNT),
    differs("case_074_few_descriptors", "pen", "ends or spins", "goes on, idle", DESCRIPTORS),
    differs("case_076_the_client_half_closes_and_epoll", "whole answers", "not all", "all", DRAIN),
    differs("case_081_half_closed_idle_connections_too", "ends", "false", "true", IDLE),
    differs(
        "case_084_a_client_that_says_who_it_is",
        "head",
        "GET / HTTP/1.1 | Host: a | X-Forwarded-For: 9.9.9.9 | X-Forwarded-Proto: http",
        "GET / HTTP/1.1 | Host: a | X-Forwarded-For: 9.9.9.9, 127.0.0.1 | X-Forwarded-Proto: http",
        APPENDED,
    ),
    differs(
        "case_085_other_methods",
        "PUT",
        "PUT / HTTP/1.1 | Content-Length: 0 | Host: a",
        "PUT / HTTP/1.1 | Content-Length: 0 | Host: a | X-Forwarded-For: 127.0.0.1 | X-Forwarded-Proto: http",
        EVERYREQUEST,
    ),
    differs(
        "case_085_other_methods",
        "DELETE",
        "DELETE / HTTP/1.1 | Content-Length: 0 | Host: a",
        "DELETE / HTTP/1.1 | Content-Length: 0 | Host: a | X-Forwarded-For: 127.0.0.1 | X-Forwarded-Proto: http",
        EVERYREQUEST,
    ),
    differs(
        "case_085_other_methods",
        "OPTIONS",
        "OPTIONS / HTTP/1.1 | Content-Length: 0 | Host: a",
        "OPTIONS / HTTP/1.1 | Content-Length: 0 | Host: a | X-Forwarded-For: 127.0.0.1 | X-Forwarded-Proto: http",
        EVERYREQUEST,
    ),
    differs(
        "case_086_a_head_in_two_writes",
        "head",
        "GET / HTTP/1.1 | Host: a",
        "GET / HTTP/1.1 | Host: a | X-Forwarded-For: 127.0.0.1 | X-Forwarded-Proto: http",
        EVERYREQUEST,
    ),
    differs(
        "case_087_two_requests_in_one_write",
        "the second",
        "GET /2 HTTP/1.1 | Host: a",
        "GET /2 HTTP/1.1 | Host: a | X-Forwarded-For: 127.0.0.1 | X-Forwarded-Proto: http",
        EVERYREQUEST,
    ),
    differs(
        "case_088_a_body_like_a_request",
        "the body",
        "GET /evil HTTP/1.1\\r\\nHost: a\\r\\nX-Forwarded-Proto: http\\r\\nX-Forwarded-For: 127.0.0.1\\r\\n\\r\\n",
        "GET /evil HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n",
        BODIES,
    ),
    differs(
        "case_089_a_body_with_a_line_like_a_header",
        "head",
        "POST / HTTP/1.1 | Content-Length: 29 | Host: a | X-Forwarded-Proto: http",
        "POST / HTTP/1.1 | Content-Length: 29 | Host: a | X-Forwarded-For: 127.0.0.1 | X-Forwarded-Proto: http",
        BODIES,
    ),
    differs(
        "case_090_what_is_not_http",
        "TLS",
        "\\x16\\x03\\x01\\x00\\x05helloGET / HTTP/1.1\\r\\nX-Forwarded-Proto: http\\r\\nX-Forwarded-For: 127.0.0.1\\r\\n\\r\\n",
        "\\x16\\x03\\x01\\x00\\x05helloGET / HTTP/1.1\\r\\n\\r\\n",
        OPAQUE,
    ),
    differs(
        "case_095_control_bytes",
        "log",
        "127.0.0.1 <epoch> 127.0.0.1 GET /\\u{1b}[31m\\u{7}\\u{7f}\\t HTTP/1.0\\n",
        "127.0.0.1 <epoch> 127.0.0.1 GET /.[31m... HTTP/1.0\\n",
        CONTROLBYTES,
    ),
    differs(
        "case_096_head_and_body_in_two_writes",
        "log",
        "127.0.0.1 <epoch> 127.0.0.1 POST /x HTTP/1.0\n127.0.0.1 <epoch> 127.0.0.1 body\n",
        "127.0.0.1 <epoch> 127.0.0.1 POST /x HTTP/1.0\n",
        TURN,
    ),
    differs(
        "case_072_a_record_names_the_client_it_is_of",
        "log",
        "127.0.0.20 <epoch> 127.0.0.1 are you there?\n",
        "127.0.0.10 <epoch> 127.0.0.1 are you there?\n",
        OWNER,
    ),
    differs("case_097_over_the_network", "more behind it", "false", "true", NUMBERED),
    differs("case_098_a_network_log_by_command", "set", "127.0.0.1\n", "127.0.0.1:<LOG>\n", LOGPORT),
    differs("case_098_a_network_log_by_command", "log", "127.0.0.1\n", "127.0.0.1:<LOG>\n", LOGPORT),
    differs("case_098_a_network_log_by_command", "records go on after no log", "true", "false", NOLOG),
    differs(
        "tabs_between_words",
        "blacklist\t7",
        "do_cmd: ignoring command starting with 'blacklist\t7'\n",
        "7\n",
        TABS,
    ),
    differs(
        "tabs_between_words",
        "\tmode",
        "do_cmd: ignoring command starting with '\tmode'\n",
        "no hash no roundrobin no stubborn no weight no prio\n",
        TABS,
    ),
    differs("tabs_between_words", "blacklist", "30\n", "7\n", TABS),
    differs(
        "case_104_a_command_in_pieces",
        "blackl, ist",
        "do_cmd: ignoring command starting with 'blackl'\n",
        "30\n",
        PIECES,
    ),
    differs(
        "case_105_a_silent_client_at_the_control_port",
        "a request meanwhile",
        "nothing more after 0 bytes",
        "S0",
        FREEZE,
    ),
    differs("case_143_144_penctl", "no arguments: ends", "exit 0", "exit 1", PENCTL),
    differs("case_143_144_penctl", "no arguments: stdout", "usage", "", PENCTL),
    differs("case_143_144_penctl", "no arguments: stderr", "silent", "speaks", PENCTL),
    differs("case_143_144_penctl", "one argument: ends", "exit 0", "exit 1", PENCTL),
    differs("case_143_144_penctl", "one argument: stdout", "usage", "", PENCTL),
    differs("case_143_144_penctl", "one argument: stderr", "silent", "speaks", PENCTL),
    differs("case_143_144_penctl", "unknown command: ends", "exit 0", "exit 1", PENCTLEXIT),
    differs(
        "case_143_144_penctl",
        "long argument: stdout",
        "",
        "do_cmd: ignoring command starting with 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'\n",
        PENCTLLONG,
    ),
    differs("case_143_144_penctl", "long argument: stderr", "speaks", "silent", PENCTLLONG),
    differs("case_108_numbers", "timeout", "3\n", "5\n", TIMEOUT),
    differs("numbers_that_are_none", "blacklist abc", "0\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "timeout abc", "0\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "tracking abc", "0\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "client_acl abc", "0\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "control_acl abc", "0\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "debug abc", "0\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "idle_timeout abc", "Idle timeout: 0 seconds\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "clients_max abc", "2048\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "conn_max abc", "500\n", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "pending_max abc", "", "error: …\n", REPORTED),
    differs("numbers_that_are_none", "recent abc", "", "error: …\n", REPORTED),
    differs(
        "numbers_that_are_none",
        "connection abc",
        "Connection 0:\nstate = 0\ndownfd = -1, upfd = -1\nclient = 0, server = 0\npend = 0\n",
        "error: …\n",
        REPORTED,
    ),
    differs("numbers_that_are_none", "close abc", "Forcibly closing connection 0\n", "error: …\n", REPORTED),
    differs(
        "numbers_that_are_none",
        "socket abc",
        "Socket 0 belongs to connection -1\n",
        "error: …\n",
        REPORTED,
    ),
    differs("numbers_that_are_none", "blacklist", "0\n", "30\n", CHECKED),
    differs("numbers_that_are_none", "timeout", "0\n", "4\n", CHECKED),
    differs("numbers_with_something_behind", "blacklist 7x", "7\n", "error: …\n", REPORTED),
    differs("numbers_with_something_behind", "blacklist", "7\n", "30\n", CHECKED),
    differs("numbers_with_something_behind", "timeout 8s", "8\n", "error: …\n", REPORTED),
    differs("numbers_with_something_behind", "timeout", "8\n", "5\n", CHECKED),
    differs(
        "numbers_with_something_behind",
        "idle_timeout 3s",
        "Idle timeout: 3 seconds\n",
        "error: …\n",
        REPORTED,
    ),
    differs(
        "numbers_with_something_behind",
        "idle_timeout",
        "Idle timeout: 3 seconds\n",
        "Idle timeout: 0 seconds\n",
        CHECKED,
    ),
    differs("numbers_below_zero", "blacklist -5", "-5\n", "error: …\n", REPORTED),
    differs("numbers_below_zero", "tracking -5", "-5\n", "error: …\n", REPORTED),
    differs("numbers_below_zero", "client_acl -1", "0\n", "error: …\n", REPORTED),
    differs("numbers_below_zero", "control_acl -1", "0\n", "error: …\n", REPORTED),
    differs("numbers_below_zero", "debug -1", "-1\n", "error: …\n", REPORTED),
    differs("numbers_below_zero", "clients_max -5", "2048\n", "error: …\n", REPORTED),
    differs("numbers_below_zero", "recent -1", "", "error: …\n", REPORTED),
    differs("numbers_below_zero", "connection -1", "Connection -1 out of range\n", "error: …\n", REPORTED),
    differs("numbers_below_zero", "close -1", "Connection -1 out of range\n", "error: …\n", REPORTED),
    differs("numbers_below_zero", "blacklist", "-5\n", "30\n", CHECKED),
    differs("numbers_below_zero", "tracking", "-5\n", "0\n", CHECKED),
    differs("numbers_below_zero", "debug", "-1\n", "0\n", CHECKED),
    differs("numbers_that_are_large", "debug 9", "9\n", "3\n", LEVELS),
    differs("numbers_that_are_large", "debug", "9\n", "3\n", LEVELS),
    differs("case_109_a_list_that_does_not_exist", "client_acl 10", "0\n", "error: …\n", REPORTED),
    differs("case_109_a_list_that_does_not_exist", "control_acl 10", "0\n", "error: …\n", REPORTED),
    differs("words_of_old", "block", "do_cmd: ignoring command starting with 'block'\n", "", OBSOLETE),
    differs(
        "words_of_old",
        "delayed_forward",
        "do_cmd: ignoring command starting with 'delayed_forward'\n",
        "",
        OBSOLETE,
    ),
    differs("not_in_this_version_commands", "tarpit_acl 1", "tarpit_acl = 1", "error: …\n", LATER),
    differs("not_in_this_version_commands", "dsr_ip 127.0.0.1", "", "error: …\n", LATER),
    differs(
        "tls_by_command",
        "ssl_option nonsense",
        "",
        "do_cmd: ignoring ssl_option \"nonsense\": it can be no_sslv2, no_sslv3, no_tlsv1, no_tlsv1.1, no_tlsv1.2 or cipher_server_preference\n",
        REPORTED,
    ),
    differs("lists_by_command_with_mistakes", "acl x permit 127.0.0.2", "", "error: …\n", REPORTED),
    differs("lists_by_command_with_mistakes", "acl 10 permit 127.0.0.2", "", "error: …\n", REPORTED),
    differs("lists_by_command_with_mistakes", "acl 1 allow 127.0.0.2", "", "error: …\n", REPORTED),
    differs("lists_by_command_with_mistakes", "acl 1 permit nonsense", "", "error: …\n", REPORTED),
    differs("lists_by_command_with_mistakes", "no acl 10", "", "error: …\n", REPORTED),
    differs("networks_with_a_length", "127.0.0.1", "S0", "closed", LENGTH),
    differs("keys_of_a_server_with_mistakes", "server abc max 3", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server -1 max 3", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server 0 wieght 3", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server 0 max", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server 0 max abc", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server 0 max -1", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server 0 port 70000", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server 0 acl 10", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server 0 nonsense 1 max 3", "", "error: …\n", REPORTED),
    differs("keys_of_a_server_with_mistakes", "server", "", "error: …\n", REPORTED),
    differs(
        "keys_of_a_server_with_mistakes",
        "server abc max 3, then servers",
        "0 addr 127.0.0.1 port 9 conn 0 max 3 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        "0 addr 127.0.0.1 port 9 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        CHECKED,
    ),
    differs(
        "keys_of_a_server_with_mistakes",
        "server 0 max -1, then servers",
        "0 addr 127.0.0.1 port 9 conn 0 max -1 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        "0 addr 127.0.0.1 port 9 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        CHECKED,
    ),
    differs(
        "keys_of_a_server_with_mistakes",
        "server 0 port 70000, then servers",
        "0 addr 127.0.0.1 port 4464 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        "0 addr 127.0.0.1 port 9 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        CHECKED,
    ),
    differs(
        "keys_of_a_server_with_mistakes",
        "server 0 nonsense 1 max 3, then servers",
        "0 addr 127.0.0.1 port 9 conn 0 max 3 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        "0 addr 127.0.0.1 port 9 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        CHECKED,
    ),
    differs(
        "keys_of_a_server_with_mistakes",
        "server 0 port http, then servers",
        "0 addr 127.0.0.1 port 0 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        "0 addr 127.0.0.1 port 80 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n",
        SERVICE,
    ),
    differs(
        "keys_of_a_server_with_mistakes",
        "server 0 address nosuch.invalid max 3",
        "",
        "error: …\n",
        REPORTED,
    ),
    differs("case_118_the_status_page", "without -w", "Unable to create webstats\n", "a page", STATUS),
    differs("a_file_is_included", "include", "", "7\n5\n", WHOASKED),
    differs(
        "a_file_is_included",
        "stdout",
        "7\ndo_cmd: ignoring command starting with 'foo'\n3\n",
        "",
        WHOASKED,
    ),
    differs(
        "the_source_address_by_command",
        "source nosuch.invalid",
        "unable to set source address to 'nosuch.invalid'",
        "error: …\n",
        REPORTED,
    ),
    differs("fastclose_by_command", "tcp_fastclose junk", "", "error: …\n", REPORTED),
    differs(
        "commands_at_the_start_and_their_answers",
        "foo bar",
        "do_cmd: ignoring command starting with 'foo'\n",
        "",
        STDERR,
    ),
    differs(
        "commands_at_the_start_and_their_answers",
        "BLACKLIST",
        "do_cmd: ignoring command starting with 'BLACKLIST'\n",
        "",
        STDERR,
    ),
    differs(
        "commands_at_the_start_and_their_answers",
        "block",
        "do_cmd: ignoring command starting with 'block'\n",
        "",
        OBSOLETE,
    ),
    differs(
        "commands_at_the_start_and_their_answers",
        "tcp_fastclose",
        "do_cmd: ignoring tcp_fastclose without argument\n",
        "",
        STDERR,
    ),
    differs("commands_at_the_start_with_mistakes", "blacklist abc", "starts", "exit 1", ALLORNOTHING),
    differs("commands_at_the_start_with_mistakes", "tracking -5", "starts", "exit 1", ALLORNOTHING),
    differs("commands_at_the_start_with_mistakes", "client_acl 10", "starts", "exit 1", ALLORNOTHING),
    differs(
        "commands_at_the_start_with_mistakes",
        "acl x permit 127.0.0.2",
        "starts",
        "exit 1",
        ALLORNOTHING,
    ),
    differs("commands_at_the_start_with_mistakes", "acl 1 allow 127.0.0.2", "starts", "exit 1", ALLORNOTHING),
    differs("commands_at_the_start_with_mistakes", "server abc max 3", "starts", "exit 1", ALLORNOTHING),
    differs("commands_at_the_start_with_mistakes", "tcp_fastclose junk", "starts", "exit 1", ALLORNOTHING),
    differs("commands_at_the_start_with_mistakes", "include /no/such/file", "starts", "exit 1", ALLORNOTHING),
    differs("commands_at_the_start_with_mistakes", "source nosuch.invalid", "starts", "exit 1", ALLORNOTHING),
    differs(
        "forms_of_lines",
        "unknown commands",
        "do_cmd: ignoring command starting with 'foo'\n9\n",
        "9\n",
        STDERR,
    ),
    differs(
        "forms_of_lines",
        "a tab before a comment",
        "do_cmd: ignoring command starting with '\t#'\n7\n",
        "7\n",
        TABS,
    ),
    differs(
        "forms_of_lines",
        "a tab between words",
        "do_cmd: ignoring command starting with 'blacklist\t7'\n30\n",
        "7\n7\n",
        TABS,
    ),
    differs("a_file_that_includes", "a missing one", "starts: S0", "exit 1", ALLORNOTHING),
    differs("files_with_mistakes", "blacklist abc", "starts", "exit 1", ALLORNOTHING),
    differs("files_with_mistakes", "acl 10 permit 127.0.0.1", "starts", "exit 1", ALLORNOTHING),
    differs("files_with_mistakes", "server x max 3", "starts", "exit 1", ALLORNOTHING),
    differs("files_with_mistakes", "timeout 0", "starts", "exit 1", ALLORNOTHING),
    differs("files_with_mistakes", "tcp_fastclose no", "starts", "exit 1", ALLORNOTHING),
    differs("a_server_without_port_in_the_file", "request", "closed", "S0", LISTENERPORT),
    differs("case_122_lists_are_not_doubled", "entries", "3", "1", DOUBLED),
    differs("the_settings_are_written", "written: timeout", "timeout 3\n", "timeout 5\n", TIMEOUT),
    differs("the_default_settings_are_written", "written: timeout", "timeout 3\n", "timeout 5\n", TIMEOUT),
    differs(
        "the_default_settings_are_written",
        "written: servers",
        "server 0 acl 0 address 127.0.0.1 port 9001 max 0 hard 0\n",
        "server 0 acl 0 address 127.0.0.1 port 9001 max 0 hard 0 weight 0 prio 0\n",
        WEIGHTWRITTEN,
    ),
    differs(
        "files_and_modes_are_written",
        "written: servers",
        "server 0 acl 0 address 127.0.0.1 port 9001 max 0 hard 0\nserver 1 acl 0 address ::1 port 9002 max 5 hard 0\n",
        "server 0 acl 0 address 127.0.0.1 port 9001 max 0 hard 0 weight 0 prio 0\nserver 1 acl 0 address ::1 port 9002 max 5 hard 0 weight 0 prio 0\n",
        WEIGHTWRITTEN,
    ),
    differs(
        "case_119_what_was_written_is_read",
        "server 0",
        "0 addr 127.0.0.1 port <S0> conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0",
        "0 addr 127.0.0.1 port <S0> conn 0 max 0 hard 0 weight 1 prio 2 sx 0 rx 0",
        WEIGHTWRITTEN,
    ),
    differs(
        "case_119_what_was_written_is_read",
        "server 1",
        "1 addr 127.0.0.1 port <S1> conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0",
        "1 addr 127.0.0.1 port <S1> conn 0 max 0 hard 0 weight 2 prio 1 sx 0 rx 0",
        WEIGHTWRITTEN,
    ),
    differs(
        "case_119_what_was_written_is_read",
        "server 2",
        "2 addr 127.0.0.1 port <S2> conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0",
        "2 addr 127.0.0.1 port <S2> conn 0 max 0 hard 0 weight 3 prio 3 sx 0 rx 0",
        WEIGHTWRITTEN,
    ),
    differs("written_nowhere", "no such directory", "", "error: …\n", REPORTED),
    differs(
        "case_127_statistics_as_text",
        "client 0",
        "garbage",
        "Client 0 status:\naddress 127.0.0.1\nlast server 1\nconnects  3\nsent  54\nreceived  45\n",
        GARBAGE,
    ),
    differs("hup_with_a_mistake_in_the_file", "then", "S1", "S0", ALLORNOTHING),
    differs("signals_that_end_it", "SIGINT", "killed by SIGINT", "exit 0", INT),
    differs("signals_that_end_it", "SIGQUIT", "killed by SIGQUIT", "exit 0", INT),
    differs("case_106_no_acl_without_number", "no acl", "", "error: …\n", REPORTED),
    differs("case_106_no_acl_without_number", "no acl: then it", "killed by SIGSEGV", "runs", SURVIVES),
    differs("case_106_source_without_address", "source", "", "error: …\n", REPORTED),
    differs("case_106_source_without_address", "source: then it", "killed by SIGSEGV", "runs", SURVIVES),
    differs(
        "case_106_ssl_ocsp_response_without_file",
        "ssl_ocsp_response: then it",
        "killed by SIGSEGV",
        "runs",
        SURVIVES,
    ),
    differs(
        "case_106_ssl_client_renegotiation_interval_without_number",
        "ssl_client_renegotiation_interval: then it",
        "killed by SIGSEGV",
        "runs",
        SURVIVES,
    ),
    differs("case_106_idlers", "idlers 3", "Idlers: 0/3\n", "error: …\n", REPORTED),
    differs("case_106_idlers", "idlers 3: then it", "killed by SIGSEGV", "runs", SURVIVES),
    differs("acl_without_words", "acl", "", "error: …\n", REPORTED),
    differs("acl_without_action", "acl 1", "", "error: …\n", REPORTED),
    differs("acl_without_address", "acl 1 permit", "", "error: …\n", REPORTED),
    differs("socket_without_number", "socket", "Socket 0 belongs to connection -1\n", "error: …\n", REPORTED),
    differs("include_without_file", "include", "", "error: …\n", REPORTED),
    differs("a_connection_table_below_nothing", "conn_max -5", "", "error: …\n", REPORTED),
    differs("a_connection_table_below_nothing", "conn_max -5: then it", "exit 1", "runs", SURVIVES),
    differs("no_without_word", "no", "", "error: …\n", REPORTED),
    differs("case_100_a_log_that_cannot_be", "log /no/such/directory/x", "", "error: …\n", REPORTED),
    differs("case_100_a_log_that_cannot_be", "log /no/such/directory/x: then it", "exit 1", "runs", SURVIVES),
    differs("case_117_a_listener_that_is_not_ours", "listen 192.0.2.1:80", "", "error: …\n", REPORTED),
    differs(
        "case_117_a_listener_that_is_not_ours",
        "listen 192.0.2.1:80: then it",
        "exit 1",
        "runs",
        SURVIVES,
    ),
    differs("a_listener_that_cannot_be", "listen", "", "error: …\n", REPORTED),
    differs("a_listener_that_cannot_be", "then it", "killed by SIGABRT", "runs", SURVIVES),
    differs("a_listener_that_cannot_be", "the old one", "is gone", "is kept", SURVIVES),
    differs("a_file_that_includes_itself_by_command", "include", "", "error: …\n", REPORTED),
    differs("a_file_that_includes_itself_by_command", "then it", "killed by SIGSEGV", "runs", SURVIVES),
    differs("far_too_many_servers", "server", "", "error: …\n", REPORTED),
    differs("far_too_many_servers", "then it", "exit 1", "runs", SURVIVES),
    differs("a_timeout_of_nothing_by_command", "timeout 0", "0\n", "error: …\n", REPORTED),
    differs("a_timeout_of_nothing_by_command", "then it", "spins", "is idle", CHECKED),
    differs("case_123_a_file_that_includes_itself_at_hup", "then it", "killed by SIGSEGV", "runs", SURVIVES),
    differs("a_file_that_includes_itself_at_the_start", "ends", "killed by SIGSEGV", "exit 1", ALLORNOTHING),
    differs("hup_with_a_log_that_cannot_be_opened", "then it", "exit 1", "runs", SURVIVES),
    differs("hup_with_a_listener_that_is_not_ours", "then it", "exit 1", "runs", SURVIVES),
    differs("kqueue_on_linux", "start", "exit 1", "S0", OBSOLETE),
    differs("commands_that_lack_words_at_the_start", "no acl", "killed by SIGSEGV", "exit 1", ALLORNOTHING),
    differs("commands_that_lack_words_at_the_start", "source", "killed by SIGSEGV", "exit 1", ALLORNOTHING),
    differs(
        "commands_that_lack_words_at_the_start",
        "ssl_ocsp_response",
        "killed by SIGSEGV",
        "serves",
        SURVIVES,
    ),
    differs(
        "commands_that_lack_words_at_the_start",
        "ssl_client_renegotiation_interval",
        "killed by SIGSEGV",
        "serves",
        OBSOLETE,
    ),
    differs("case_130_the_end_of_a_tls_stream", "end", "cut off", "declared", DECLARED),
    differs("case_130_the_end_of_a_tls_stream", "end (2)", "cut off", "declared", DECLARED),
    differs("case_133_an_unknown_name", "the first time", "refused", "default.test", UNKNOWNNAME),
    differs("case_134_a_name_that_is_a_path", "a path", "a.test", "default.test", NAMEPATH),
    differs("the_server_of_a_silent_tls_client", "connections of the server", "2", "1", HANDSHAKE),
    differs("a_chain_of_certificates", "sent", "1", "2", CHAIN),
    differs("a_list_of_ciphers", "a bad one", "S0", "exit 1", ALLORNOTHING),
    differs("a_stapled_response", "expired", "stapled", "not stapled", STAPLE),
    differs("case_139_an_empty_datagram", "to an empty one", "silence", "S0 ", EMPTY),
    differs("case_139_an_empty_datagram", "after", "silence", "S0 2", EMPTY),
    differs("case_139_an_empty_datagram", "the server got", "1 bytes", "1 bytes, 0 bytes, 1 bytes", EMPTY),
    differs("case_139b_a_client_over_ipv6_and_a_server_over_ipv4", "answer", "silence", "S0 1", FAMILIES),
    differs("datagrams_that_are_long", "32769", "32768 bytes", "32769 bytes", CUT),
    differs("datagrams_that_are_long", "65507", "32768 bytes", "65507 bytes", CUT),
    differs("a_first_datagram_that_is_empty", "answer", "silence", "S0 ", EMPTY),
    differs(
        "case_146_a_request_of_many_characters",
        "100",
        "127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\" 200 1\n",
        "192.0.2.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\" 200 1\n",
        LONGREQUEST,
    ),
    differs(
        "case_146_a_request_of_many_characters",
        "120",
        "127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\" 200 1\n",
        "192.0.2.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\" 200 1\n",
        LONGREQUEST,
    ),
    differs(
        "as_many_entries_as_penlogd_is_told_to_keep",
        "-n 2, the first",
        "127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /1\" 200 1\n",
        "192.0.2.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /1\" 200 1\n",
        ENTRIES,
    ),
    differs(
        "case_147_servers_that_are_no_ipv4_addresses",
        "::1",
        "killed by SIGSEGV\n",
        "127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /\" 200 1\n",
        DATAGRAM,
    ),
    differs(
        "case_147_servers_that_are_no_ipv4_addresses",
        "no.such.host.invalid",
        "killed by SIGSEGV\n",
        "127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /\" 200 1\n",
        DATAGRAM,
    ),
    differs(
        "what_penlogd_takes_for_a_line",
        "the request alone",
        "192.0.2.1 /z\"\n",
        "192.0.2.1 \"GET /z\"\n",
        WHOLELINE,
    ),
    differs(
        "a_request_with_quotes",
        "as servers write them",
        "127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /\\\"z\\\" HTTP/1.0\" 200 1\n",
        "192.0.2.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /\\\"z\\\" HTTP/1.0\" 200 1\n",
        QUOTES,
    ),
    differs(
        "a_line_that_comes_before_its_counterpart",
        "log",
        "127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /z\" 200 1\n",
        "192.0.2.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /z\" 200 1\n",
        WAITS,
    ),
    differs(
        "datagrams_that_forge_lines",
        "two lines",
        "a - - \\\"GET /1\\\"\\nb - - \\\"GET /2\\\"\\n\n",
        "a - - \\\"GET /1\\\"\\\\x0ab - - \\\"GET /2\\\"\\n\n",
        FORGED,
    ),
    differs(
        "datagrams_that_forge_lines",
        "an escape sequence",
        "a - - \\\"GET /\\u{1b}[2J\\\"\\n\n",
        "a - - \\\"GET /\\\\x1b[2J\\\"\\n\n",
        FORGED,
    ),
    differs(
        "datagrams_that_forge_lines",
        "a carriage return",
        "a - - \\\"GET /\\rb\\\"\\n\n",
        "a - - \\\"GET /\\\\x0db\\\"\\n\n",
        FORGED,
    ),
    differs(
        "datagrams_that_forge_lines",
        "no newline",
        "a \"GET /1\"b \"GET /2\"\n",
        "a \"GET /1\"\nb \"GET /2\"\n",
        FORGED,
    ),
    differs("case_148_signals_to_penlogd", "INT", "killed by SIGINT", "exit 0", INT),
    differs("case_148_signals_to_penlogd", "then there is a pid file", "true", "false", INT),
    differs(
        "how_penlogd_is_called",
        "abc",
        "exit 0, stdout speaks, stderr silent",
        "exit 1, stdout silent, stderr speaks",
        CHECKED,
    ),
    differs(
        "how_penlog_is_called",
        "nobody there",
        "exit 0, stdout silent, stderr silent",
        "exit 0, stdout silent, stderr speaks",
        TOLD,
    ),
    differs(
        "a_long_line_through_penlog_and_penlogd",
        "log",
        "192.0.2.1 \"GET /z\" x and so on, 1031 bytes\n",
        "192.0.2.1 \"GET /z\" x and so on, 2019 bytes\n",
        PUTTOGETHER,
    ),
    differs(
        "case_150_logs_merged",
        "a second line",
        "192.0.2.10 - - [08/Jan/2002:23:28:50 +0000] \"GET /robots.txt HTTP/1.0\" 404 268\n192.0.2.10 - - [08/Jan/2002:22:29:40 +0000] \"GET /robots.txt HTTP/1.0\" 404 268\n192.0.2.11 - - [08/Jan/2002:23:28:51 +0000] \"GET /news.html HTTP/1.0\" 200 4017\n10.0.0.1 - bob [08/Jan/2002:23:31:00 +0000] \"GET /other HTTP/1.0\" 200 1 \"ref\" \"UA x\"\n",
        "192.0.2.10 - - [08/Jan/2002:23:28:50 +0000] \"GET /robots.txt HTTP/1.0\" 404 268\n192.0.2.11 - - [08/Jan/2002:23:28:51 +0000] \"GET /news.html HTTP/1.0\" 200 4017\n192.0.2.12 - - [08/Jan/2002:23:29:40 +0000] \"GET /robots.txt HTTP/1.0\" 404 268\n10.0.0.1 - bob [08/Jan/2002:23:31:00 +0000] \"GET /other HTTP/1.0\" 200 1 \"ref\" \"UA x\"\n",
        HOUR,
    ),
    differs(
        "requests_that_pen_has_cut",
        "101",
        "10.0.0.1 - - [01/Mar/2024:12:01:40 +0000] \"GET /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\" 200 1\n",
        "192.0.2.1 - - [01/Mar/2024:12:01:40 +0000] \"GET /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\" 200 1\n",
        CUTREQUEST,
    ),
    differs(
        "requests_that_pen_has_cut",
        "150",
        "10.0.0.1 - - [01/Mar/2024:12:01:40 +0000] \"GET /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\" 200 1\n",
        "192.0.2.1 - - [01/Mar/2024:12:01:40 +0000] \"GET /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\" 200 1\n",
        CUTREQUEST,
    ),
    differs(
        "a_request_with_quotes_is_merged",
        "log",
        "10.0.0.1 - - [01/Mar/2024:12:01:40 +0000] \"GET /\\\"z\\\"\" 200 1\n",
        "192.0.2.1 - - [01/Mar/2024:12:01:40 +0000] \"GET /\\\"z\\\"\" 200 1\n",
        QUOTES,
    ),
    differs(
        "the_zone_of_a_merged_log",
        "AAA-1",
        "10.0.0.2 - - [08/Jan/2002:23:28:51 +0000] \"GET /news.html HTTP/1.0\" 200 4017\n",
        "192.0.2.11 - - [08/Jan/2002:23:28:51 +0000] \"GET /news.html HTTP/1.0\" 200 4017\n",
        ZONE,
    ),
];

const fn differs(
    scenario: &'static str,
    label: &'static str,
    classic: &'static str,
    ours: &'static str,
    reason: &'static str,
) -> Difference {
    Difference { scenario, label, classic, ours, reason }
}

const USAGE: &str =
    "Wrong usage, no arguments included, ends with a failure and tells so on stderr: scripts must see it.";
const CHECKED: &str = "What cannot be is refused and named, instead of being taken for something else.";
const VISIBLE: &str =
    "The parent waits until the daemon accepts clients: a failure is seen by whoever started it.";
const SHARED: &str = "SO_REUSEPORT is not set: two pens would each get some of the clients.";
const INT: &str = "INT and QUIT end it as TERM does, pid file included.";
const FIXED: &str = "A question at the start is answered from the settings; the classic has no tables yet.";
const GROUPS: &str = "The groups of root go with its user.";
const UNIXFILE: &str = "Only a socket is replaced; any other file is somebody's.";
const TIMEOUT: &str = "The timeout is 5 s by default, as the manuals say.";
const NOLISTEN: &str = "Nothing is set, so nothing is answered; the classic answers an empty line.";
const NOSERVERS: &str = "Without servers nobody could be served; the start says so.";
const WEIGHTS: &str = "Weights that are all 0 count as equal: a mistake must not be an outage.";
const COUNT: &str = "A connection counts from the moment of choice and is counted out once: limits hold and a burst is spread.";
const FAILOVER: &str = "A refused connect leads to the next server, whatever the event engine.";
const ONCE: &str = "Each server is tried once for a client.";
const SUCCESS: &str = "A client's server is noted when it has been reached, not when it was tried.";
const USABLE: &str = "Slots that cannot be used take no turns.";
const TRACKING: &str = "A client that comes back after the tracking time is new, as the manual says.";
const WHOLE: &str = "Clients over IPv6 are known by the whole address, and an IPv4 client of a dual-stack listener by its IPv4 address.";
const MASKED: &str =
    "Bits outside of the mask are taken off, with a warning; the classic's entry never matches.";
const LENGTH: &str = "IPv4 networks can be written with a length; the classic ignores the line.";
const ABUSE: &str = "Whom a list refuses is sent to the abuse server, never to the emergency server, and neither has a list itself.";
const DESCRIPTORS: &str = "Without descriptors it pauses accepting and goes on.";
const DRAIN: &str = "What is still on its way is passed on before a connection is closed.";
const IDLE: &str = "Half-closed connections expire, too.";
const APPENDED: &str = "What a client says of itself is not believed: our address is the last of the list.";
const EVERYREQUEST: &str = "Each request has the headers, whatever its method and place in the connection, in however many pieces it comes.";
const BODIES: &str = "Bodies are bodies: they are neither changed nor taken for headers.";
const OPAQUE: &str = "A connection that does not begin with HTTP is not HTTP later.";
const CONTROLBYTES: &str = "Control bytes could forge lines, or talk to a terminal.";
const TURN: &str = "One record a turn of the client; a body is not a request.";
const OWNER: &str = "A connection keeps the address of its client, whoever takes that place in the table.";
const STDERR: &str = "What is skipped is told on stderr, with the other messages; stdout is for answers.";
const OBSOLETE: &str = "Words of old configurations are accepted without effect.";
const TABS: &str = "Tabs separate words as spaces do.";
const ALLORNOTHING: &str = "A configuration with a mistake in it is refused as a whole, with file and line; a running pen keeps what it has.";
const LISTENERPORT: &str = "A server without a port has the listener's, in the file as on the command line.";
const GARBAGE: &str = "The classic prints memory there; this is the form that it means.";
const SURVIVES: &str = "No command, no file and no signal of this kind ends a running balancer.";
const REPORTED: &str = "Whoever sent the command is told that it failed, and why.";
const LEVELS: &str = "Debug levels above 3 are the same as 3.";
const PIECES: &str = "A command is read to the end of its line, in however many pieces it comes.";
const FREEZE: &str = "A silent client of the control port waits alone.";
const STATUS: &str = "The page is answered without a file, too.";
const LOGPORT: &str = "The port belongs to the answer.";
const NUMBERED: &str = "Ours number their datagrams behind the newline, so that a loss is noticed.";
const NOLOG: &str = "`no log` ends a network log, too.";
const SERVICE: &str = "A service's name is a port, as on the command line.";
const DOUBLED: &str = "Reading a file again does not double its lists.";
const WEIGHTWRITTEN: &str = "Weight and prio are written whether their modes are on or not.";
const LATER: &str = "Not in this version: the command is refused, not ignored.";
const PENCTL: &str = "penctl without arguments has failed, and shows its usage on stderr.";
const PENCTLEXIT: &str = "penctl tells by its exit status that a command failed.";
const PENCTLLONG: &str = "The limit of a command is that of pen, 4095 bytes.";
const WINDOWS: &str = "An option that cannot be used is a failure.";
const WHOASKED: &str = "What an included file answers goes to whoever sent the command.";
const EMPTYFIELD: &str =
    "A field that is empty has its default, and those behind it count; the classic drops them.";
const DECLARED: &str = "The end of a stream is declared (close_notify): nobody can cut it short unnoticed.";
const UNKNOWNNAME: &str = "An unknown name gets the default certificate the first time, too.";
const NAMEPATH: &str = "A name that a client asks for is never a path.";
const HANDSHAKE: &str = "Servers hear of a client when its handshake is done.";
const CHAIN: &str = "All certificates of the file are sent, for clients that know the root alone.";
const STAPLE: &str = "A response that has expired would be worse than none.";
const EMPTY: &str = "An empty datagram is one, not an end.";
const FAMILIES: &str = "Clients over IPv6 are served by servers over IPv4, with datagrams too.";
const CUT: &str = "Datagrams are passed on whole, however long.";
const LONGREQUEST: &str = "Requests of 100 characters and more are matched, too: all that pen sends of them.";
const ENTRIES: &str = "penlogd keeps as many entries as it is told, not one less.";
const DATAGRAM: &str = "No datagram ends penlogd.";
const WHOLELINE: &str = "Nothing of the request is taken off with the first word.";
const QUOTES: &str = "A quote that the web server has escaped does not end the request, and is a quote.";
const WAITS: &str = "A line waits for pen's entry for a while.";
const FORGED: &str = "A datagram is one line, whatever is in it.";
const TOLD: &str = "penlog says when nobody takes what it sends, and goes on.";
const PUTTOGETHER: &str = "What penlog sends of a long line in pieces is one line again, matched and whole.";
const HOUR: &str =
    "Every hour is right; the classic takes the second line that it reads for one of the summer.";
const CUTREQUEST: &str = "What pen has cut off a request does not keep it from its line.";
const ZONE: &str = "Times are compared as they are, whatever the zone of who compares them.";
