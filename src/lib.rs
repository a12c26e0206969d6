#![doc = include_str!("ARCHITECTURE.md")]

pub mod model;
pub mod net;
pub mod policy;
pub mod process;
pub mod report;
pub mod shared;
pub mod sys;
pub mod tools;
pub mod weblogs;
