//! Array management function.
