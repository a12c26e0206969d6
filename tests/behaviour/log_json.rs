//! `log_format json`: connections.
