//! Decides: pure plans for the custom resources.
