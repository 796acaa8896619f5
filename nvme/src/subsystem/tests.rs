//! Tests of the whole machine, event by event.
