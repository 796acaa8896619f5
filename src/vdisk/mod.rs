//! Virtual disks.
